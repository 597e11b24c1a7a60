"""The proof that every epoch had every sample once: ``python -m datamodules.audit DIR``.

While it trains, each rank appends a line a step to a file of its own (``writer``): the samples that
the training loop was given. Afterwards, or meanwhile, ``records`` reads these files, ``verdict``
finds out which steps made it into the weights, over kills, restarts and other numbers of ranks, and
checks them. It computes nothing with the plan or the loader, as they are what is on trial.
"""
