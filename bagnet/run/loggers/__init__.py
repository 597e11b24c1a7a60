"""Where the figures of a run are kept: its CSV table, and W&B.

Here: loggers that continue where a run was stopped.
Not here: what is logged (`bagnet.training`).
"""
