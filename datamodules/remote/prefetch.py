"""Fetches shards into the node's cache before they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Semaphore

import numpy as np

from datamodules.loading.workers import settle, worker_context
from datamodules.plan import Ids, TrainPlan
from datamodules.remote.cache import ShardCache
from datamodules.remote.sources import SourceError
from datamodules.shards.manifest import Manifest


@dataclass(frozen=True)
class Course:
    """Whose batches they are, and from which on: see `TrainPlan.batch`."""

    plan: Callable[..., TrainPlan]
    rank: int
    world_size: int
    epoch: int
    step: int

    def __iter__(self) -> Iterator[Ids]:
        """The sample ids of each batch, epoch after epoch."""
        epoch, step = self.epoch, self.step
        while True:
            plan = self.plan(epoch=epoch)
            for each in range(step, len(plan)):
                yield plan.batch(each, self.rank, self.world_size)
            epoch, step = epoch + 1, 0


class FetchAhead:
    """A process that stays one shuffle window ahead of a rank's training.

    Without it, all workers would stand still at the end of each window until the shards of the next
    one are there.

    Args:
        manifest: what the shards hold.
        cache: where they are fetched to.
        course: the batches to come.
        start_method: of the process, if not from the fork server.
    """

    def __init__(
        self,
        manifest: Manifest,
        cache: ShardCache,
        course: Course,
        start_method: str | None = None,
    ) -> None:
        context = worker_context(start_method)
        self._steps = context.Semaphore(course.plan(epoch=course.epoch).steps_per_window)
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_fetch, args=(manifest, cache, course, self._steps), daemon=True
        )
        self._process.start()

    def step(self) -> None:
        """The training has taken a batch."""
        self._steps.release()

    def close(self) -> None:
        """End the process. A download it is at will be gone on with by whoever needs it."""
        self._process.kill()
        self._process.join()


def _fetch(manifest: Manifest, cache: ShardCache, course: Course, steps: Semaphore) -> None:
    settle()
    fetched: dict[int, None] = {}  # the latest, in the order of their first use
    for ids in course:
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
                # Whoever needs it meets the same error, and tells it.
                with contextlib.suppress(SourceError, OSError):
                    cache.fetch(location, shard.bytes, shard.sha256)
