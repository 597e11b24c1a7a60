"""Benchmarks: the project and its alternatives side by side in one run (``python -m bagnet.bench --help``)."""
