"""The networks.

Here: the BagNet architecture, networks by name, receptive fields, reading and writing weights, and
folding BatchNorm into convolutions.
Not here: how networks are trained (`bagnet.training`), or which patches decide (`bagnet.evidence`).
"""
