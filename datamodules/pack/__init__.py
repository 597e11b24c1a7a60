"""Packs ImageNet, in the form you have it, into shards: `python -m datamodules.pack`.

Here: `sources` list the images of a split, `job` shuffles the list, cuts it into shards and writes
them in parallel, `index` writes a manifest for shards that stay where they are, and `verify` reads
everything again. Not here: the format of shards and manifests (`datamodules.shards`).
"""
