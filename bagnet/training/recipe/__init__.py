"""The parts of a recipe: what `BagNetClassifier` is set to.

Here: optimizers, the learning rate, mixed batches, averages of the weights, statistics of
BatchNorm, and frozen layers, as pure functions of the step or the epoch wherever that is possible.
Not here: the augmentation of single images (`datamodules.decoding.augmentation`).
"""
