"""Training and evaluation of a network.

Here: the LightningModule, metrics, the optimizer and its schedule, the command line of train.py, and the callbacks that
concern learning. Not here: what happens to a run on its way, such as checkpoints, signals and loggers (`bagnet.run`).
"""
