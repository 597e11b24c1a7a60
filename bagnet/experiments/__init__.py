"""Experiments on trained networks: one module for each command of `python -m bagnet.experiments`.

Here: what each experiment measures for an image (a frozen dataclass), and the tables and figures it
makes of all images. `options.py` has the flags. What several experiments share is in `measuring/`.
Not here: explaining single images (`bagnet.evidence`), or benchmarks of speed (`bagnet.bench`).
"""
