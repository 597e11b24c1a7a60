"""Loaders with an exact length and a state.

The state is a handful of integers that mean the same on every rank and for any number of ranks,
because Lightning stores the state of rank 0 and gives it to all. It counts the batches that were
handed to the training loop. What the workers have prefetched beyond them does not count, since it
can be read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Sampler

from datamodules.audit.writer import FACTS, AuditWriter
from datamodules.common.batch import Batch
from datamodules.loading.batches import Batches, Index, ReadBatch
from datamodules.loading.workers import PATIENCE, Workers
from datamodules.plan import PERMUTATION, EvalPlan, TrainPlan, batches_per_epoch, rank_batch
from datamodules.remote.prefetch import Prefetcher, UpcomingBatches
from datamodules.shards.manifest import Manifest


class EpochSampler(Sampler[Index]):
    """The batches of one rank that are left in the current epoch.

    Args:
        plan: Makes the plan of an epoch, from `epoch=`.
        rank: Rank of this process.
        world_size: Number of ranks.

    Attributes:
        epoch: The current epoch, counted from 0.
        step: The next batch of the epoch.
    """

    def __init__(self, plan: Callable[..., TrainPlan], rank: int = 0, world_size: int = 1) -> None:
        self._make_plan, self._rank, self._world_size = plan, rank, world_size
        self.epoch = self.step = 0
        self.plan = plan(epoch=0)

    def __len__(self) -> int:
        """Batches in the whole epoch, also after a resume: Lightning counts from its beginning."""
        return len(self.plan)

    def __iter__(self) -> Iterator[Index]:
        yield from self.indices(range(self.step, len(self)))

    def indices(self, steps: range) -> Iterator[Index]:
        """What this rank reads in some steps of the current epoch."""
        for step in steps:
            yield self.epoch, self.plan.batch(step, self._rank, self._world_size)

    def upcoming(self) -> UpcomingBatches:
        """The batches from here on, over all epochs."""
        return UpcomingBatches(self._make_plan, self._rank, self._world_size, self.epoch, self.step)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, or stay in place if it is the current one."""
        if epoch != self.epoch:
            self.seek(epoch, 0)

    def seek(self, epoch: int, step: int) -> None:
        """Go to a batch of an epoch."""
        if epoch != self.epoch:
            self.plan = self._make_plan(epoch=epoch)
        self.epoch, self.step = epoch, step


def identity_of(manifest: Manifest, order: Mapping[str, int]) -> dict[str, Any]:
    """What decides which samples a batch has: the data, and the settings of their order."""
    return {**order, "dataset": manifest.digest, "permutation": PERMUTATION}


def require_same_order(saved: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse to resume a training whose samples came in another order, or were others.

    Args:
        saved: What a checkpoint says of its run.
        identity: The same of this run, from `identity_of`.

    Raises:
        ValueError: The message says what differs.
    """
    for name, value in identity.items():
        if saved.get(name) != value:
            raise ValueError(
                f"cannot resume: the checkpoint was made with {name} {saved.get(name)} and this "
                f"run has {value}, which gives another order of the samples; use the same {name}, "
                "or start a new run from the checkpoint's weights"
            )


def require_step(manifest: Manifest, global_batch: int, accumulate: int) -> None:
    """Make sure that an epoch has an optimizer step.

    Raises:
        ValueError: There are fewer samples than one optimizer step takes.
    """
    if batches_per_epoch(manifest.num_samples, global_batch, accumulate) == 0:
        batches = f" ({accumulate} batches of {global_batch})" if accumulate > 1 else ""
        raise ValueError(
            f"{manifest.root} has {manifest.num_samples} training samples, but one optimizer step "
            f"takes {accumulate * global_batch}{batches}: give a batch_size of at most "
            f"{manifest.num_samples // accumulate}"
        )


class TrainLoader:
    """The training batches of one rank, epoch after epoch.

    Iterating resumes where the loader stands and ends with the epoch; the next iteration begins the
    next epoch. So a loop that is left early and entered again loses and repeats nothing.
    `loader.sampler.set_epoch`, which Lightning calls, moves to the beginning of another epoch.

    Args:
        batches: Reads the batches.
        global_batch: Samples in a batch over all ranks.
        rank: Rank of this process.
        world_size: Number of ranks.
        streams: Canonical streams of the plan.
        window: Shuffle window of the plan, in shards.
        accumulate: Batches per optimizer step.
        workers: Processes of this rank that read; 0 reads in this process.
        pin_memory: Whether to copy batches into page-locked memory, for CUDA.
        patience: Seconds to wait for a batch from a worker.
        audit_dir: Folder for the record of the sample ids of each batch; None records nothing.
        session: Number of this start of the run in the audit; see `AuditWriter`.

    Attributes:
        waited: Seconds that the training has waited for batches so far.

    Raises:
        ValueError: The ranks do not divide the global batch, or there are fewer samples than one
            optimizer step takes.
    """

    def __init__(
        self,
        batches: Batches,
        global_batch: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        streams: int = 64,
        window: int = 2,
        accumulate: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        patience: float = PATIENCE,
        audit_dir: Path | None = None,
        session: int = 0,
    ) -> None:
        rank_batch(global_batch, world_size)
        manifest = batches.manifest
        order = {
            "seed": batches.seed,
            "global_batch": global_batch,
            "streams": streams,
            "window": window,
            "accumulate": accumulate,
        }
        self._identity = identity_of(manifest, order)
        self.sampler = EpochSampler(partial(TrainPlan, manifest.counts, **order), rank, world_size)
        require_step(manifest, global_batch, accumulate)
        self._global_batch = global_batch
        self._audit: AuditWriter | None = None
        if audit_dir is not None:
            identity = {"num_samples": manifest.num_samples, **self._identity}
            facts = {name: identity[name] for name in FACTS}
            self._audit = AuditWriter(audit_dir, session, rank, world_size, facts)
        self._batches = batches
        self._read_with = partial(
            Workers, batches, workers=workers, patience=patience, pin_memory=pin_memory
        )
        self._workers = self._read_with(self.sampler)
        self.waited = 0.0

    def __len__(self) -> int:
        """Batches in the whole epoch, also after a resume."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # Nothing happens before the first batch is requested: Lightning calls `iter` more often
        # than it needs to, and before it sets the epoch.
        sampler = self.sampler
        if sampler.step >= len(sampler):
            sampler.set_epoch(sampler.epoch + 1)
        with self._prefetching() as advance:
            for batch, unreadable in self._timed():
                if self._audit is not None:
                    ids = batch[2].tolist()
                    left_out = [error.sample_id for error in unreadable]
                    self._audit.record(sampler.epoch, sampler.step, ids, left_out)
                sampler.step += 1
                advance()
                yield batch

    def first(self, batches: int) -> Iterator[Batch]:
        """Read the first batches of the current epoch again; the training stays where it is."""
        steps = range(min(batches, len(self)))
        workers = self._read_with(list(self.sampler.indices(steps)))
        try:
            for batch, _ in workers:
                yield batch
        finally:
            workers.close()

    def _timed(self) -> Iterator[ReadBatch]:
        batches = iter(self._workers)
        while True:
            start = time.perf_counter()
            read = next(batches, None)
            self.waited += time.perf_counter() - start
            if read is None:
                return
            yield read

    @contextmanager
    def _prefetching(self) -> Iterator[Callable[[], None]]:
        """Fetch remote shards in another process; yields what to call after each batch."""
        manifest, cache = self._batches.manifest, self._batches.cache
        if cache is None:
            yield lambda: None
            return
        prefetcher = Prefetcher(manifest, cache, self.sampler.upcoming())
        try:
            yield prefetcher.step
        finally:
            prefetcher.close()

    def state_dict(self) -> dict[str, Any]:
        """The position of the training, in numbers that hold for any number of ranks."""
        samples = self.sampler.step * self._global_batch
        return {"epoch": self.sampler.epoch, "samples": samples, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where another loader stood.

        Raises:
            ValueError: The state belongs to another order of the samples; the message says what
                differs.
        """
        require_same_order(state, self._identity)
        self.sampler.seek(state["epoch"], state["samples"] // self._global_batch)

    def close(self) -> None:
        """Stop the workers. Iterating starts them again."""
        self._workers.close()
        if self._audit is not None:
            self._audit.close()


class EvalLoader:
    """The evaluation batches of one rank: together, the ranks read each sample once.

    All ranks have the same number of batches.

    Args:
        batches: Reads the batches.
        batch_size: Maximum number of samples in a batch of this rank.
        rank: Rank of this process.
        world_size: Number of ranks.
        workers: Processes of this rank that read; 0 reads in this process.
        pin_memory: Whether to copy batches into page-locked memory, for CUDA.
        patience: Seconds to wait for a batch from a worker.

    Raises:
        ValueError: There are fewer samples than ranks.
    """

    def __init__(
        self,
        batches: Batches,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        plan = EvalPlan(batches.manifest.num_samples, batch_size, world_size)
        self._indices = [(0, plan.batch(step, rank)) for step in range(len(plan))]
        self._workers = Workers(batches, self._indices, workers, pin_memory, patience)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Batch]:
        for batch, _ in self._workers:
            yield batch

    def close(self) -> None:
        """Stop the workers. Iterating starts them again."""
        self._workers.close()
