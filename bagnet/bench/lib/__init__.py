"""What the benchmarks share.

Here: taking turns, timing, tables, counted floors, and the pipelines and steps that are compared. Not here: the
benchmarks themselves, one file each in `bagnet.bench`.
"""
