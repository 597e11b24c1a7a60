"""The proof that every epoch had every sample once: `python -m datamodules.audit`.

Here: `writer`, with which each rank records the samples of every step that it trains on; `records`,
which reads these files; `verdict`, which finds out which steps reached the weights, through kills,
restarts and other numbers of ranks; `epoch`, which checks them. Not here: anything that uses the
data plan or the loader, because they are what is being checked.
"""
