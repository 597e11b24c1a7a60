"""From the bytes of an image file to pixels.

Here: image formats, decoding (only a region, if possible), and the crops of training and
validation. Not here: reading the bytes (`datamodules.shards`), and normalization, which the network
does on its device (`bagnet.model`).
"""
