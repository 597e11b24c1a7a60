"""What a training tells about itself, and what ends it when it goes wrong.

Here: progress, throughput, pictures, profiles, and watches over the loss and unreadable samples.
Not here: figures of learning (`bagnet.training.metrics`), and where all of it is kept
(`bagnet.run.loggers`).
"""
