"""Benchmarks of speed: one module for each command of `python -m bagnet.bench`.

Here: what is measured, side by side with its alternatives in one run, and how it is printed.
`options.py` has the flags. What several benchmarks share is in `lib`; the results are in the
folder `benchmarks/`. Not here: what networks get right (`bagnet.experiments`).
"""
