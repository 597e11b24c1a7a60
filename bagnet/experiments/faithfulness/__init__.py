"""Whether explanations say what a network depends on: masking what they call important.

Here: the experiments, and the methods of explanation that they compare.
Not here: masking itself, which other experiments use too (`measuring/masking.py`).
"""
