"""The processes of a rank that read and decode."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.plan import Ids
from datamodules.stream import Batches, ReadBatch
from datamodules.unreadable import UnreadableLog

Index = tuple[int, Ids]
"""What a worker needs to know to read a batch: epoch and sample ids."""


class Workers:
    """Reads batches in worker processes that start with the first batch and stay for all epochs.

    Args:
        batches: reads one.
        indices: what to read, anew at each iteration.
        workers: processes; 0 reads in this one.
        pin_memory: put batches into page-locked memory, for CUDA.
        start_method: of the processes; the platform's default if None.

    Raises:
        ValueError: a negative number of workers.
    """

    def __init__(
        self,
        batches: Batches,
        indices: Sampler[Index] | list[Index],
        workers: int,
        pin_memory: bool,
        start_method: str | None,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers is {workers}, but it is a number of processes, at least 0")
        self._reader = _Reader(batches)
        self._indices = indices
        self._options: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory}
        if workers:
            self._options |= {"persistent_workers": True, "multiprocessing_context": start_method}
        self._loader: DataLoader[ReadBatch | OSError] | None = None
        self._batches: Iterator[ReadBatch | OSError] | None = None
        self._log = UnreadableLog()

    def __iter__(self) -> Iterator[ReadBatch]:
        if self._loader is None:
            self._loader = DataLoader(
                self._reader,
                sampler=self._indices,
                batch_size=None,
                collate_fn=_unchanged,
                worker_init_fn=leave_signals_to_the_parent,
                generator=torch.Generator(),  # or it would draw from that of the training
                **self._options,
            )
        self._batches = iter(self._loader)
        while self._batches is not None:  # until it is closed
            read = next(self._batches, None)
            if read is None:
                return
            if isinstance(read, OSError):
                raise read
            (images, labels, sample_ids), unreadable = read  # lists, after pinning
            self._log.tell(unreadable)
            yield (images, labels, sample_ids), unreadable

    def close(self) -> None:
        """Stop the processes. Iterating starts them again."""
        # The last references, so the workers end here and now. Where a garbage collector finds
        # them, it has cut their queues before, and then torch waits for each of them in vain.
        self._loader = self._batches = None


class _Reader(Dataset["ReadBatch | OSError"]):
    """Returns what the machine refuses (a full disk) as a value.

    An exception would reach the user as a page of traceback through a worker, without its `errno`.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, index: Index) -> ReadBatch | OSError:
        try:
            return self._batches[index]
        except OSError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def leave_signals_to_the_parent(worker: int = 0) -> None:
    """Leave Ctrl-C, and Slurm's warnings of its time limit, to the training process.

    They are sent to its workers too, which would die of them and take the training along before it
    has saved.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
