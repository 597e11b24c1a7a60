"""The processes of a rank that read and decode batches."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from datamodules.common.errors import ReadingEnded
from datamodules.loading.batches import Batches, Index, ReadBatch
from datamodules.loading.shared_memory import SharedBuffers
from datamodules.loading.unreadable import UnreadableLog
from datamodules.loading.watchdog import Watchdog
from datamodules.processes.children import uninterrupted
from datamodules.processes.forkserver import become_worker, forkserver_context

PATIENCE = 1800.0
"""Seconds to wait for a batch by default: a shard may first have to come from a slow server."""
_SECONDS_FOR_A_QUEUE = 2.0
_SECONDS_TO_END = 1.0
_UNGUARDED = (
    "the processes that read ended before their first batch, as they do if a script has its code "
    'outside of `if __name__ == "__main__":`, because each of them imports the script; put it '
    "there, or read in this process (workers=0)"
)


class Workers:
    """Reads batches in worker processes that start with the first batch and stay for all epochs.

    Args:
        batches: Reads one batch.
        indices: Which batches to read; iterated anew at each iteration.
        workers: Number of processes; 0 reads in this process.
        pin_memory: Whether to copy batches into page-locked memory, for CUDA.
        patience: Seconds to wait for a batch from a worker.

    Raises:
        ValueError: The number of workers is negative.
        ReadingEnded: While reading, a worker has ended, or lets the training wait for longer than
            `patience`.
    """

    def __init__(
        self,
        batches: Batches,
        indices: Sampler[Index] | list[Index],
        workers: int,
        pin_memory: bool,
        patience: float = PATIENCE,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers is {workers}, but it is a number of processes, at least 0")
        self._reader = _Reader(batches)
        self._indices, self._workers, self._pin_memory = indices, workers, pin_memory
        self._patience = patience
        self._processes: list[BaseProcess] = []
        self._has_read = False
        self._loader: DataLoader[_Read] | None = None
        self._batches: Iterator[_Read] | None = None
        self._queue_threads: set[threading.Thread] = set()
        self._log = UnreadableLog()

    def __iter__(self) -> Iterator[ReadBatch]:
        with closing(Watchdog(self._patience)) as watchdog:
            yield from self._read(watchdog)

    def _read(self, watchdog: Watchdog) -> Iterator[ReadBatch]:
        if self._loader is None:
            self._loader = self._make_loader()
        self._has_read = bool(self._processes)
        others, running = set(threading.enumerate()), multiprocessing.active_children()
        with uninterrupted(), self._waiting(watchdog, 0):
            self._batches = iter(self._loader)
        if not self._processes:
            new = (each for each in multiprocessing.active_children() if each not in running)
            self._processes = sorted(new, key=lambda process: process.pid or 0)
        started = set(threading.enumerate()) - others
        self._queue_threads |= {each for each in started if each.name == "QueueFeederThread"}
        for number in itertools.count():
            if self._batches is None:  # it was closed
                return
            with self._waiting(watchdog, number):
                read = next(self._batches, None)
            if read is None:
                return
            self._has_read = True
            if isinstance(read, OSError):
                raise read
            (images, labels, sample_ids), unreadable = read  # pinning makes lists of tuples
            self._log.tell(unreadable)
            yield (images, labels, sample_ids), unreadable

    @contextmanager
    def _waiting(self, watchdog: Watchdog, number: int) -> Iterator[None]:
        """In this context, the training waits for batch `number`."""
        try:
            with watchdog.waiting(self._processes, number):
                yield
        except Exception as error:
            # If a worker dies while it hands over a batch, PyTorch raises whatever the socket
            # does, perhaps a moment before the process has ended.
            sentinels = [each.sentinel for each in self._processes]
            if "DataLoader worker" in str(error) or wait(sentinels, _SECONDS_TO_END):
                raise self._why_ended(watchdog) from None
            raise

    def _why_ended(self, watchdog: Watchdog) -> ValueError:
        """Why a worker has ended, in one line."""
        if watchdog.killed is not None:
            return ReadingEnded(
                f"process {watchdog.killed}, which reads the data, gave no batch within "
                f"{self._patience / 60:g} minutes, so it was ended: see whether the disk or the "
                "server of the data hangs; or wait longer (--data.patience)"
            )
        if not self._has_read:
            return ValueError(_UNGUARDED)
        ended = wait([each.sentinel for each in self._processes], 0)
        dead = ", ".join(str(each.pid) for each in self._processes if each.sentinel in ended)
        return ReadingEnded(
            f"a process that reads the data has ended (process id {dead}), perhaps because the "
            "machine has too little memory: use fewer --data.workers"
        )

    def _make_loader(self) -> DataLoader[_Read]:
        return DataLoader(
            self._reader,
            sampler=self._indices,
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=self._workers,
            pin_memory=self._pin_memory,
            worker_init_fn=become_worker,
            generator=torch.Generator(),  # otherwise it would draw from the training's generator
            persistent_workers=self._workers > 0,
            multiprocessing_context=forkserver_context() if self._workers else None,
        )

    def close(self) -> None:
        """Stop the processes. Iterating starts them again."""
        # These are the last references, so the workers end here and now. If the garbage collector
        # finds them instead, it cuts their queues first, and torch waits for each worker in vain.
        self._loader = self._batches = None
        self._processes = []
        # torch does not wait for these. If Python ends while one of them is deleting a semaphore,
        # it prints a warning about a leak. Not forever: the pipe to a killed worker may be full.
        while self._queue_threads:
            self._queue_threads.pop().join(_SECONDS_FOR_A_QUEUE)


_Read = ReadBatch | OSError


class _Reader(Dataset[_Read]):
    """Returns errors of the machine, such as a full disk, as values.

    As an exception in a worker, they would reach the user as a page of traceback without `errno`.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._buffers: SharedBuffers | None = None

    def __getitem__(self, index: Index) -> _Read:
        try:
            if get_worker_info() is None:
                return self._batches[index]
            return self._read_into_shared_memory(index)
        except OSError as error:
            return error

    def _read_into_shared_memory(self, index: Index) -> ReadBatch:
        if self._buffers is None:
            self._buffers = SharedBuffers()
        (images, labels, ids), unreadable = self._batches.read(index, self._buffers.take)
        hand_over = self._buffers.hand_over
        return (hand_over(images), hand_over(labels), hand_over(ids)), unreadable


def _unchanged(batch: Any) -> Any:
    return batch
