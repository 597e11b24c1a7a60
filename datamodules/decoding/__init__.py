"""From an image file to pixels.

Here: image formats, decoding (of a region only, where possible), and the crops of training and evaluation. Not here:
normalisation, which happens on the device (`bagnet.model.registry`).
"""
