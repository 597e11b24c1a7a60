"""The life of a run.

Here: a run's folder, the lease that guards it against a second process, checkpoints, stopping on a signal, the CSV table,
W&B, the summary, the agreement of ranks, SLURM and provenance. Not here: anything about learning (`bagnet.training`).
"""
