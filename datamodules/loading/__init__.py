"""From a plan of sample ids to batches.

Here: the loaders, the reading of one batch, the worker processes and the memory they share with the
training process. Not here: who reads which samples (`datamodules.plan`), where the bytes come from
(`datamodules.shards`, `datamodules.remote`), and how they become pixels (`datamodules.decoding`).

The path of a sample: `plan` gives the ids of a batch to `loader`, `workers` sends them to a
process, `batches` reads the bytes and decodes the pixels, `shared_memory` takes the batch back.
"""
