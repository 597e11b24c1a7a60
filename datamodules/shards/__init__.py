"""Packed data: tar shards and their manifest.

Here: the manifest, its checks, and reading and writing shards. Not here: fetching shards from
elsewhere (`datamodules.remote`), or making them from images (`datamodules.pack`).
"""
