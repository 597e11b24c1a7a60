"""What the data packages and `bagnet` share.

Here: the batch and its unreadable samples, errors, atomic writes, folders and texts as people have
them, processes that end with their parent, progress, and command lines. Not here: anything that
knows shards or images.
"""
