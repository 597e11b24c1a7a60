"""The networks.

Here: the BagNet architecture and its receptive field, networks by name, reading and writing weights, folding BatchNorm.
Not here: how they are trained (`bagnet.training`), or what their decisions rest on (`bagnet.evidence`).
"""
