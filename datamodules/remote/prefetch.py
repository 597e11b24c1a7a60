"""Fetches shards into the node's cache before the training needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Semaphore

import numpy as np

from datamodules.plan import Ids, TrainPlan
from datamodules.processes.forkserver import become_worker, forkserver_context
from datamodules.remote.cache import ShardCache
from datamodules.shards.manifest import Manifest


@dataclass(frozen=True)
class UpcomingBatches:
    """The batches of one rank from a step on, over all epochs."""

    plan: Callable[..., TrainPlan]  # makes the plan of an epoch, from `epoch=`
    rank: int
    world_size: int
    epoch: int  # of the first batch, counted from 0
    step: int  # of the first batch in its epoch

    def __iter__(self) -> Iterator[Ids]:
        """Yield the sample ids of each batch, without end."""
        epoch, step = self.epoch, self.step
        while True:
            plan = self.plan(epoch=epoch)
            for each in range(step, len(plan)):
                yield plan.batch(each, self.rank, self.world_size)
            epoch, step = epoch + 1, 0


class Prefetcher:
    """A process that stays one shuffle window ahead of a rank's training.

    Without it, all workers would stop at the end of each window until the shards of the next one
    have arrived.
    """

    def __init__(self, manifest: Manifest, cache: ShardCache, batches: UpcomingBatches) -> None:
        context = forkserver_context()
        self._steps = context.Semaphore(batches.plan(epoch=batches.epoch).steps_per_window)
        self._process = context.Process(
            target=_fetch, args=(manifest, cache, batches, self._steps), daemon=True
        )
        self._process.start()

    def step(self) -> None:
        """Let the process move on by a batch, because the training has taken one."""
        self._steps.release()

    def close(self) -> None:
        """End the process. Whoever needs a shard that it was fetching resumes the download."""
        self._process.kill()
        self._process.join()


def _fetch(
    manifest: Manifest, cache: ShardCache, batches: UpcomingBatches, steps: Semaphore
) -> None:
    become_worker()
    fetched: dict[int, None] = {}  # the latest ones, by their first use
    for ids in batches:
        steps.acquire()
        for number in np.unique(manifest.shard_of(ids)).tolist():
            if number in fetched:
                continue
            fetched[number] = None
            if len(fetched) > 1024:
                del fetched[next(iter(fetched))]
            shard = manifest.shards[number]
            location = manifest.location(shard)
            if cache.serves(location):
                # The reader that needs it will get the same error, and report it.
                with contextlib.suppress(ValueError, OSError):
                    cache.fetch(location, shard.bytes, shard.sha256)
