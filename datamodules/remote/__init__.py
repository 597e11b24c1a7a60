"""Packed data that is elsewhere.

Here: URLs, opening them, the cache of complete shards on a node's disk, and prefetching into it.
Not here: what shards hold (`datamodules.shards`).
"""
