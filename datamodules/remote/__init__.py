"""Packed data that lies elsewhere.

Here: URLs, opening them, the cache of whole shards on a node's disk, and prefetching into it. Not here: what shards hold
(`datamodules.shards`).
"""
