"""Experiments on trained networks, one command each: ``python -m bagnet.experiments NAME``."""
