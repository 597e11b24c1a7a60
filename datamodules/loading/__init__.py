"""From a plan of sample ids to batches.

Here: the loaders, the batches, the worker processes and the memory that they share. Not here: who reads what
(`datamodules.plan`), bytes (`datamodules.shards`, `datamodules.remote`) or pixels (`datamodules.decoding`).
"""
