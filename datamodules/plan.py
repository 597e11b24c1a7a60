"""Who reads which samples, and in which order: pure arithmetic, nothing is read.

An epoch of training is one long list of sample ids that every rank can compute by itself. The
shards are permuted by (seed, epoch). Their samples, concatenated, are cut into P canonical streams
of equal length, and each stream is permuted within windows of about two shards. Position k of the
list is entry k // P of stream k mod P, and global batch t is positions tG to (t + 1)G. Ranks and
workers do not appear in this, so they cannot change it; they only decide who reads what. Time and
memory grow with the number of shards and of windows in use, not with the number of samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64, SeedSequence

Ids = npt.NDArray[np.int64]

PERMUTATION = "PCG64"
"""What the orders are drawn from. Checkpoints say it, as another order would repeat samples."""

# What is permuted is part of the key, so that no two permutations of a run are equal by accident.
# None is 0, because SeedSequence ignores zeros at the end of a short key.
_SHARDS, _EVERYTHING, _WINDOW = range(1, 4)


def permutation(size: int, *key: int) -> Ids:
    """A random permutation of `range(size)` that depends on the key only: int64 (size,).

    It sorts numbers from the raw stream of PCG64, which NumPy guarantees for all releases (NEP 19).
    `Generator.permutation` may change with a release, and if the order changed under a checkpoint,
    samples would be repeated.

    Args:
        size: Number of entries.
        key: Integers of any size, at least 0.
    """
    return np.argsort(PCG64(SeedSequence(key)).random_raw(size), kind="stable")


def random_seed(*key: int) -> int:
    """A seed of 64 bits that depends on the key only, the same in all releases of NumPy.

    Args:
        key: Integers of any size, at least 0.
    """
    return int(SeedSequence(key).generate_state(1, np.uint64)[0])


def batches_per_epoch(num_samples: int, global_batch: int, accumulate: int = 1) -> int:
    """Global batches in a training epoch: a multiple of `accumulate`."""
    return num_samples // (global_batch * accumulate) * accumulate


def rank_batch(global_batch: int, world_size: int) -> int:
    """Samples of one rank in a global batch.

    Raises:
        ValueError: The ranks do not divide the global batch; the message names the nearest sizes
            that they divide.
    """
    if global_batch % world_size:
        below = global_batch // world_size * world_size
        fitting = " or ".join(str(size) for size in (below, below + world_size) if size)
        raise ValueError(
            f"a global batch of {global_batch} cannot be shared equally by {world_size} ranks; "
            f"choose a batch size that {world_size} divides, such as {fitting}"
        )
    return global_batch // world_size


def ranks_own_streams(streams: int, global_batch: int, world_size: int) -> bool:
    """Whether each rank reads streams of its own, and so no shards but theirs."""
    return streams % world_size == 0 and global_batch % streams == 0


class TrainPlan:
    """One epoch of training.

    Over all ranks, every sample comes exactly once, except for the last `num_samples mod
    (global_batch * accumulate)` positions, which hold other samples in each epoch.

    Args:
        counts: Samples in each shard, int64 (shards,).
        seed: Seed of the run, at least 0.
        epoch: Number of the epoch, from 0.
        global_batch: Samples in a batch over all ranks.
        streams: P, the number of canonical streams; see `ranks_own_streams`.
        window: Shuffle window, in shards. With all shards or more, the order is one random
            permutation of all samples.
        accumulate: Batches per optimizer step; the length of an epoch is a multiple of it.

    Raises:
        ValueError: A size is below 1, or the seed, the epoch or a count is negative.
    """

    def __init__(
        self,
        counts: Ids,
        *,
        seed: int,
        epoch: int,
        global_batch: int,
        streams: int = 64,
        window: int = 2,
        accumulate: int = 1,
    ) -> None:
        sizes = {
            "global batch": global_batch,
            "streams": streams,
            "window": window,
            "accumulate": accumulate,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} is {value}, but the plan needs at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}, but it must be at least 0")
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}, but epochs are counted from 0")
        counts = np.asarray(counts, dtype=np.int64)
        if counts.size and counts.min() < 0:
            raise ValueError(f"a shard holds {counts.min()} samples: the manifest is damaged")
        self.seed, self.epoch, self.streams, self.window = seed, epoch, streams, window
        self.global_batch, self.accumulate = global_batch, accumulate
        self.num_samples = int(counts.sum())

        order = permutation(len(counts), seed, epoch, _SHARDS)
        # In the concatenation of the permuted shards, shard `order[j]` begins at `_begins[j]`, and
        # the sample at place v, if it is in that shard, has the id v + `_shifts[j]`.
        self._begins = np.cumsum(counts[order]) - counts[order]
        self._shifts = (np.cumsum(counts) - counts)[order] - self._begins
        # Windows of a stream: its shards (shards / P) over those of a window, rounded, none empty.
        windows = (len(counts) + streams * window // 2) // (streams * window)
        self._windows = max(1, min(windows, self.num_samples // streams))
        # Even a window as long as a stream could not mix everything: a stream is one piece of all.
        self._shuffle_everything = window >= len(counts)
        self._everything: Ids | None = None
        self._latest: dict[int, tuple[int, Ids]] = {}

    def __len__(self) -> int:
        """Global batches in the epoch."""
        return batches_per_epoch(self.num_samples, self.global_batch, self.accumulate)

    @property
    def steps_per_window(self) -> int:
        """Global batches in which each stream goes through one shuffle window, rounded up."""
        return -(-len(self) // self._windows)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Ids:
        """The rank's part of global batch `step`: sample ids, int64 (global_batch / world_size,).

        Raises:
            ValueError: The world size does not divide the global batch.
            IndexError: The epoch has no such step.
        """
        size = rank_batch(self.global_batch, world_size)
        assert 0 <= rank < world_size
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an epoch of {len(self)} batches")
        if ranks_own_streams(self.streams, self.global_batch, world_size):
            owned = self.streams // world_size
            rows = self.global_batch // self.streams
            table = np.empty((rows, owned), dtype=np.int64)
            for column in range(owned):
                stream = rank * owned + column
                table[:, column] = self._entries(stream, step * rows, (step + 1) * rows)
            return table.reshape(-1)
        begin = step * self.global_batch + rank * size
        ids = np.empty(size, dtype=np.int64)
        for place in range(min(size, self.streams)):
            entry, stream = divmod(begin + place, self.streams)
            of_stream = ids[place :: self.streams]
            of_stream[:] = self._entries(stream, entry, entry + len(of_stream))
        return ids

    def _entries(self, stream: int, begin: int, end: int) -> Ids:
        """The ids of entries begin to end of a stream, from all windows that they touch."""
        length = self._stream_begin(stream + 1) - self._stream_begin(stream)
        pieces = []
        while begin < end:
            # The largest window with window * length // windows <= begin.
            window = ((begin + 1) * self._windows - 1) // length
            first, last = (w * length // self._windows for w in (window, window + 1))
            ids = self._window(stream, window, first, last)
            pieces.append(ids[begin - first : end - first])
            begin = min(end, last)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _window(self, stream: int, window: int, first: int, last: int) -> Ids:
        """The ids of a stream's window, which is entries first to last, shuffled."""
        latest = self._latest.get(stream)
        if latest is not None and latest[0] == window:
            return latest[1]
        begin, end = (self._stream_begin(stream) + entry for entry in (first, last))
        if self._shuffle_everything:
            if self._everything is None:
                self._everything = permutation(self.num_samples, self.seed, self.epoch, _EVERYTHING)
            places = self._everything[begin:end]
        else:
            key = (self.seed, self.epoch, _WINDOW, stream, window)
            places = begin + permutation(end - begin, *key)
        shards = np.searchsorted(self._begins, places, side="right") - 1
        ids = places + self._shifts[shards]
        self._latest[stream] = window, ids  # one is enough: entries are requested in order
        return ids

    def _stream_begin(self, stream: int) -> int:
        """Where a stream begins in the concatenation; the first N mod P have one more entry."""
        length, longer = divmod(self.num_samples, self.streams)
        return stream * length + min(stream, longer)


class EvalPlan:
    """An evaluation: every sample exactly once, and the same number of batches on each rank.

    Each rank reads one contiguous range of samples. The sizes of the ranges differ by at most one
    sample, as do those of all batches. Nothing is padded or dropped, and no rank waits forever.

    Args:
        num_samples: Number of samples in the manifest.
        batch_size: Maximum number of samples in a batch of one rank. With 1, a batch may have 2,
            because none may be empty.
        world_size: Number of ranks.

    Raises:
        ValueError: There are fewer samples than ranks, or the batch size is below 1.
    """

    def __init__(self, num_samples: int, batch_size: int, world_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"the batch size is {batch_size}, but the plan needs at least 1")
        if num_samples < world_size:
            raise ValueError(
                f"{num_samples} samples cannot be evaluated on {world_size} ranks, as each needs "
                f"at least one; use at most {num_samples} ranks"
            )
        self.num_samples, self.world_size = num_samples, world_size
        batches = -(-num_samples // (world_size * batch_size))
        self._batches = min(batches, num_samples // world_size)

    def __len__(self) -> int:
        """Batches of each rank."""
        return self._batches

    def batch(self, step: int, rank: int = 0) -> Ids:
        """The rank's batch `step`: consecutive sample ids, int64 (at most batch_size,)."""
        assert 0 <= rank < self.world_size
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an evaluation of {len(self)} batches")
        begin, end = (r * self.num_samples // self.world_size for r in (rank, rank + 1))
        first, last = (begin + s * (end - begin) // self._batches for s in (step, step + 1))
        return np.arange(first, last, dtype=np.int64)
