"""What the evidence of BagNets shows.

Here: heatmaps, the most informative patches, the bag of words, whether the evidence points at what
it should or agrees with masks, and other ways to combine it.
Not here: whether an explanation says what the network depends on (`faithfulness`), and evidence
itself (`bagnet.evidence`).
"""
