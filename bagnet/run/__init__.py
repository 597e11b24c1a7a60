"""The life of a run.

Here: a run's folder, its checkpoints, its CSV table and its history in W&B; the lease that protects
it from a second start; who starts the ranks, and that they end together; stopping on a signal; what
is checked and recorded at each start.
Not here: anything that affects what is learned (`bagnet.training`).
"""
