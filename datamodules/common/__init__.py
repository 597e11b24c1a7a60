"""What the data packages and `bagnet` share.

Here: the batch and its unreadable samples, errors, atomic writes, folders and texts as people have
them, progress, and command lines. Not here: processes, and anything that knows shards or images.
"""
