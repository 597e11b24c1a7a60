"""A DataLoader with an exact length and a state.

The state is a handful of integers that mean the same on every rank and for every number of ranks,
because Lightning stores the state of rank 0 and gives it to all. It counts the batches that were
handed to the training loop; what the workers have prefetched beyond them is nobody's business, as
it can be read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler

from datamodules.audit.writer import FACTS, AuditWriter
from datamodules.common.batch import Batch
from datamodules.loading.batches import Batches
from datamodules.loading.workers import Index, Workers
from datamodules.plan import EvalPlan, TrainPlan, rank_batch
from datamodules.remote.prefetch import Course, FetchAhead


class EpochSampler(Sampler[Index]):
    """The batches that are left in the current epoch, for one rank, and where that is.

    Args:
        plan: makes the plan of an epoch, from `epoch=`.
        rank: of this process.
        world_size: number of ranks.

    Attributes:
        epoch: counted from 0.
        step: the next batch of the epoch.
    """

    def __init__(self, plan: Callable[..., TrainPlan], rank: int = 0, world_size: int = 1) -> None:
        self._make_plan, self._rank, self._world_size = plan, rank, world_size
        self.epoch = self.step = 0
        self.plan = plan(epoch=0)

    def __len__(self) -> int:
        """Batches in the whole epoch, also after a resume: Lightning counts from its beginning."""
        return len(self.plan)

    def __iter__(self) -> Iterator[Index]:
        for step in range(self.step, len(self)):
            yield self.epoch, self.plan.batch(step, self._rank, self._world_size)

    def course(self) -> Course:
        """The batches from here on, over all epochs."""
        return Course(self._make_plan, self._rank, self._world_size, self.epoch, self.step)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, or stay where we are if it is the current one."""
        if epoch != self.epoch:
            self.seek(epoch, 0)

    def seek(self, epoch: int, step: int) -> None:
        """Go to a batch of an epoch."""
        if epoch != self.epoch:
            self.plan = self._make_plan(epoch=epoch)
        self.epoch, self.step = epoch, step


class TrainLoader:
    """The training batches of one rank, epoch after epoch.

    Iterating goes on from where the loader stands, up to the end of the epoch; after that, it
    begins the next one. So a loop that was left early and entered again loses nothing and repeats
    nothing. `loader.sampler.set_epoch`, which Lightning calls, moves it to the beginning of another
    epoch.

    Args:
        batches: reads them.
        global_batch: samples in a batch over all ranks.
        rank: of this process.
        world_size: number of ranks.
        streams: canonical streams of the plan.
        window: shuffle window of the plan, in shards.
        accumulate: batches for each optimiser step.
        workers: processes of this rank that read; 0 reads in the process itself.
        pin_memory: put batches into page-locked memory, for CUDA.
        start_method: of the workers, if not from a fork server.
        device: decodes plain JPEGs, and keeps the images; by default the workers decode.
        audit_dir: where the sample ids of each batch are written down as it is handed out.
        session: the number of this start of the run in the audit; see `AuditWriter`.

    Raises:
        ValueError: the ranks do not divide the global batch, or there are fewer samples than one
            step takes.
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
        start_method: str | None = None,
        device: torch.device | None = None,
        audit_dir: Path | None = None,
        session: int = 0,
    ) -> None:
        rank_batch(global_batch, world_size)
        manifest = batches.manifest
        self._identity = {
            "seed": batches.seed,
            "global_batch": global_batch,
            "streams": streams,
            "window": window,
            "accumulate": accumulate,
            "dataset": manifest.digest,
        }
        plan = partial(
            TrainPlan,
            manifest.counts,
            seed=batches.seed,
            global_batch=global_batch,
            streams=streams,
            window=window,
            accumulate=accumulate,
        )
        self.sampler = EpochSampler(plan, rank, world_size)
        if len(self) == 0:
            raise ValueError(
                f"{manifest.root} has {manifest.num_samples} training samples, but one optimiser "
                f"step takes {accumulate * global_batch} ({accumulate} batches of {global_batch}); "
                "use a smaller batch size"
            )
        self._global_batch = global_batch
        self._audit: AuditWriter | None = None
        if audit_dir is not None:
            identity = {"num_samples": manifest.num_samples, **self._identity}
            facts = {name: identity[name] for name in FACTS}
            self._audit = AuditWriter(audit_dir, session, rank, world_size, facts)
        self._batches, self._start_method = batches, start_method
        self._workers = Workers(batches, self.sampler, workers, pin_memory, start_method, device)

    def __len__(self) -> int:
        """Batches in the whole epoch, also after a resume."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # Nothing happens before the first batch is asked for: Lightning calls `iter` more often
        # than it means it, and before it says which epoch this is.
        sampler = self.sampler
        if sampler.step >= len(sampler):
            sampler.set_epoch(sampler.epoch + 1)
        with self._fetching_ahead() as took_a_batch:
            for batch, unreadable in self._workers:
                if self._audit is not None:
                    ids = batch[2].tolist()
                    left_out = [error.sample_id for error in unreadable]
                    self._audit.record(sampler.epoch, sampler.step, ids, left_out)
                sampler.step += 1
                took_a_batch()
                yield batch

    @contextmanager
    def _fetching_ahead(self) -> Iterator[Callable[[], None]]:
        """A process that fetches remote shards while this lasts, and what tells it of our progress."""
        manifest, cache = self._batches.manifest, self._batches.cache
        if cache is None:
            yield lambda: None
            return
        ahead = FetchAhead(manifest, cache, self.sampler.course(), self._start_method)
        try:
            yield ahead.step
        finally:
            ahead.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands, in numbers that hold for all ranks and any number of them."""
        samples = self.sampler.step * self._global_batch
        return {"epoch": self.sampler.epoch, "samples": samples, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader stood.

        Raises:
            ValueError: the state belongs to another order of samples; the message says what
                differs.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise ValueError(
                    f"cannot resume: the checkpoint was made with {name} {state.get(name)} and "
                    f"this run has {value}, which gives another order of samples; run with the "
                    f"same {name}, or start a new run from the checkpoint's weights"
                )
        self.sampler.seek(state["epoch"], state["samples"] // self._global_batch)

    def close(self) -> None:
        """Stop the workers. Iterating starts them again."""
        self._workers.close()
        if self._audit is not None:
            self._audit.close()


class EvalLoader:
    """The evaluation batches of one rank: all ranks read each sample once, in as many batches.

    Args:
        batches: reads them.
        batch_size: the most samples in a batch of this rank.
        rank: of this process.
        world_size: number of ranks.
        workers: processes of this rank that read; 0 reads in the process itself.
        pin_memory: put batches into page-locked memory, for CUDA.
        start_method: of the workers, if not from a fork server.
        device: decodes plain JPEGs, and keeps the images; by default the workers decode.

    Raises:
        ValueError: fewer samples than ranks.
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
        start_method: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        plan = EvalPlan(batches.manifest.num_samples, batch_size, world_size)
        self._indices = [(0, plan.batch(step, rank)) for step in range(len(plan))]
        self._workers = Workers(batches, self._indices, workers, pin_memory, start_method, device)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Batch]:
        for batch, _ in self._workers:
            yield batch

    def close(self) -> None:
        """Stop the workers. Iterating starts them again."""
        self._workers.close()
