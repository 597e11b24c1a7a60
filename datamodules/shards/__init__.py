"""Packed data on a disk.

Here: the manifest, and reading and writing shards. Not here: fetching shards from elsewhere (`datamodules.remote`), or
making them out of images (`datamodules.pack`).
"""
