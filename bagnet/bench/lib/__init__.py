"""What the benchmarks share.

Here: timing in turns, tables, floors, and the training steps and data pipelines that are compared.
Not here: the benchmarks themselves, which are one module each in `bagnet.bench`.
"""
