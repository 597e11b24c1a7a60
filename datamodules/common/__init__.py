"""What the data packages and `bagnet` share.

Here: the batch and its unreadable samples, atomic writes, processes that end with their parent, progress bars, and the
command line. Not here: anything that knows shards or images.
"""
