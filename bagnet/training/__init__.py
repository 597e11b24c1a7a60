"""Training and evaluation of a network.

Here: the command line, the LightningModule, loss and metrics, the optimizer and its schedule, the
settings of Lightning's Trainer, and the callbacks that concern learning.
Not here: what happens to a run as a whole, such as checkpoints, signals and loggers (`bagnet.run`).
"""
