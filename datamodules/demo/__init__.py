"""A generated data set whose truth is known: `python -m datamodules.demo`.

Here: drawing its images, and writing them as shards with the positions of what they show. Not here:
checking evidence against these positions (`bagnet.experiments.explanations.pointing`).
"""
