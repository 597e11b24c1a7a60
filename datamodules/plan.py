"""Who reads which samples, and in which order: pure arithmetic, nothing is read.

An epoch of training is one long list of sample ids that every rank can compute for itself. The
shards are permuted by (seed, epoch). Their samples, concatenated, are cut into P canonical streams
of equal length, and each stream is permuted inside windows of about two shards. Position k of the
list is entry k // P of stream k mod P, and global batch t is the positions tG to (t + 1)G. Neither
ranks nor workers appear in this, so they cannot change it; they only decide who reads what. All of
it costs time and memory by the shards and the windows in use, not by the samples of the epoch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64, SeedSequence

Ids = npt.NDArray[np.int64]

# What a permutation is of belongs to its key, so that no two of a run are the same by accident. Not 0:
# SeedSequence ignores zeros at the end of a short key.
_SHARDS, _EVERYTHING, _WINDOW = range(1, 4)


def permutation(size: int, *key: int) -> Ids:
    """A random permutation of `range(size)` that depends on the key only: int64 (size,).

    It sorts random numbers from the raw stream of PCG64, which NumPy guarantees for all releases (NEP
    19). `Generator.permutation` may change with a release, and an order that changes under a
    checkpoint repeats samples.

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
    """Global batches in a training epoch, in whole windows of `accumulate` batches."""
    return num_samples // (global_batch * accumulate) * accumulate


def rank_batch(global_batch: int, world_size: int) -> int:
    """One rank's samples in a global batch.

    Raises:
        ValueError: the ranks do not divide the global batch; the message names the sizes next to it
            that would do.
    """
    if global_batch % world_size:
        below = global_batch // world_size * world_size
        fitting = " or ".join(str(size) for size in (below, below + world_size) if size)
        raise ValueError(
            f"a global batch of {global_batch} cannot be shared equally by {world_size} ranks; "
            f"choose a batch size that {world_size} divides, such as {fitting}"
        )
    return global_batch // world_size


class TrainPlan:
    """One epoch of training.

    Every sample comes exactly once over all ranks, but for the last `num_samples mod (global_batch
    * accumulate)` positions, which hold other samples in each epoch.

    Args:
        counts: samples in each shard, int64 (shards,).
        seed: of the run.
        epoch: counted from 0.
        global_batch: samples in a batch over all ranks.
        streams: P, the canonical streams. Where the world size divides P and P divides the global
            batch, a rank owns P / world size of them and reads no other shards than theirs.
        window: shuffle window, in shards. All the shards or more: one random permutation of all
            samples.
        accumulate: batches for each optimiser step; an epoch holds whole windows of them.

    Raises:
        ValueError: a size below one, or a negative seed, epoch or count.
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
        # The concatenation of the permuted shards: shard `order[j]` begins at `_begins[j]`, and the
        # sample at offset v of it has the id v + `_shifts[j]`.
        self._begins = np.cumsum(counts[order]) - counts[order]
        self._shifts = (np.cumsum(counts) - counts)[order] - self._begins
        # Windows of a stream: its shards (shards / P) over those of a window, rounded; none empty.
        windows = (len(counts) + streams * window // 2) // (streams * window)
        self._windows = max(1, min(windows, self.num_samples // streams))
        # A stream is one piece of the list, so even a window as long as it cannot mix everything.
        self._shuffle_everything = window >= len(counts)
        self._everything: Ids | None = None
        self._latest: dict[int, tuple[int, Ids]] = {}

    def __len__(self) -> int:
        """Global batches in the epoch."""
        return batches_per_epoch(self.num_samples, self.global_batch, self.accumulate)

    @property
    def steps_per_window(self) -> int:
        """Global batches in which each stream goes through one shuffle window; the most, where they differ."""
        return -(-len(self) // self._windows)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Ids:
        """The rank's part of global batch `step`: sample ids, int64 (global_batch / world_size,).

        Raises:
            ValueError: the world size does not divide the global batch.
            IndexError: the epoch has no such step.
        """
        size = rank_batch(self.global_batch, world_size)
        assert 0 <= rank < world_size
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an epoch of {len(self)} batches")
        if self.streams % world_size == 0 and self.global_batch % self.streams == 0:
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
        """The ids of the stream's entries begin to end, from as many windows as they touch."""
        length = self._stream_begin(stream + 1) - self._stream_begin(stream)
        pieces = []
        while begin < end:
            # the largest window with window * length // windows <= begin
            window = ((begin + 1) * self._windows - 1) // length
            first, last = (w * length // self._windows for w in (window, window + 1))
            ids = self._window(stream, window, first, last)
            pieces.append(ids[begin - first : end - first])
            begin = min(end, last)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _window(self, stream: int, window: int, first: int, last: int) -> Ids:
        """The stream's entries first to last, shuffled."""
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
        self._latest[stream] = window, ids  # entries are asked for in order: one window is enough
        return ids

    def _stream_begin(self, stream: int) -> int:
        """Where a stream begins in the concatenated shards; the first N mod P are one longer."""
        length, longer = divmod(self.num_samples, self.streams)
        return stream * length + min(stream, longer)


class EvalPlan:
    """An evaluation: every sample exactly once, and the same number of batches on each rank.

    Each rank reads one contiguous range of samples. The ranges differ by at most one sample, and so
    do all batches of all ranks: nothing is padded, nothing is dropped, and no rank waits for ever.

    Args:
        num_samples: N, in the manifest.
        batch_size: the most samples in a rank's batch (it may be one more where that is 1: no batch
            is ever empty).
        world_size: W, the number of ranks.

    Raises:
        ValueError: fewer samples than ranks, or a batch size below one.
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
