"""Experiments on trained networks: one module for each command of `python -m bagnet.experiments`.

Here: what each experiment measures for an image (a frozen dataclass), and the tables and figures it
makes of all images, in a folder for each kind of question: what networks decide (`decisions`), what
the evidence of BagNets shows (`explanations`), and whether explanations say what a network depends
on (`faithfulness`). `commands.py` lists them. What several experiments share is in `measuring/`.
Not here: explaining single images (`bagnet.evidence`), or benchmarks of speed (`bagnet.bench`).
"""
