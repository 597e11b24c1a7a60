"""The processes of a rank that read and decode.

They are forked from a server that has no threads, not from the training process: a fork copies the
locks that threads hold at that moment, and then a worker, and with it all ranks, hangs for ever.
That happens (pytorch issue 130610, and once in a few hundred starts in our own tests). The server
has imported what takes seconds, so its workers start as fast as those of a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from datamodules.common.unreadable import UnreadableLog
from datamodules.loading.batches import Batches, ReadBatch, ReadEncoded
from datamodules.loading.device import Encoded
from datamodules.loading.shared_memory import Slots
from datamodules.plan import Ids

_IMPORTED = ["torch.utils.data", "torchvision.transforms.v2", "webdataset", "fsspec"]
_LEFT_TO_THE_TRAINING = {signal.SIGUSR1, signal.SIGUSR2}

Index = tuple[int, Ids]
"""What a worker needs to know to read a batch: epoch and sample ids."""


def worker_context(start_method: str | None = None) -> BaseContext:
    """What starts the processes; by default from the fork server, which it starts if need be."""
    if start_method in (None, "forkserver"):
        forkserver.set_forkserver_preload(_IMPORTED)
        # Slurm's signals go to all processes of a job. What starts here inherits the mask and stays;
        # workers do so until they have settled.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_TRAINING)
        try:
            resource_tracker.ensure_running()  # by itself: it unblocks SIGTERM at its end
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return multiprocessing.get_context(start_method or "forkserver")


class Workers:
    """Reads batches in worker processes that start with the first batch and stay for all epochs.

    Args:
        batches: reads one.
        indices: what to read, anew at each iteration.
        workers: processes; 0 reads in this one.
        pin_memory: put batches into page-locked memory, for CUDA.
        start_method: of the processes, if not from a fork server.
        device: decodes the plain JPEGs, as each batch is asked for, and keeps the images; by
            default the processes decode.

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
        device: torch.device | None = None,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers is {workers}, but it is a number of processes, at least 0")
        self._source, self._device = batches, device
        self._reader = _Reader(batches, device is not None)
        self._indices = indices
        self._start_method = start_method
        self._options: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory}
        self._loader: DataLoader[_Read] | None = None
        self._batches: Iterator[_Read] | None = None
        self._log = UnreadableLog()

    def __iter__(self) -> Iterator[ReadBatch]:
        if self._loader is None:
            if self._options["num_workers"]:
                context = worker_context(self._start_method)
                self._options |= {"persistent_workers": True, "multiprocessing_context": context}
            self._loader = DataLoader(
                self._reader,
                sampler=self._indices,
                batch_size=None,
                collate_fn=_unchanged,
                worker_init_fn=settle,
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
            batch, unreadable = read
            if isinstance(batch, Encoded):
                assert self._device is not None
                # Not in Lightning's hook for a transfer: that is after the log and the audit have
                # been told which samples could not be read.
                batch, refused = self._source.decode(batch, self._device)
                unreadable = (*unreadable, *refused)
            images, labels, sample_ids = batch  # lists, after pinning
            self._log.tell(unreadable)
            yield (images, labels, sample_ids), unreadable

    def close(self) -> None:
        """Stop the processes. Iterating starts them again."""
        # The last references, so the workers end here and now. Where a garbage collector finds
        # them, it has cut their queues before, and then torch waits for each of them in vain.
        self._loader = self._batches = None


_Read = ReadBatch | ReadEncoded | OSError


class _Reader(Dataset[_Read]):
    """Returns what the machine refuses (a full disk) as a value.

    An exception would reach the user as a page of traceback through a worker, without its `errno`.
    """

    def __init__(self, batches: Batches, encoded: bool) -> None:
        self._batches, self._encoded = batches, encoded
        self._slots: Slots | None = None

    def __getitem__(self, index: Index) -> _Read:
        try:
            if get_worker_info() is None:
                return self._batches.encoded(index) if self._encoded else self._batches[index]
            return self._handed_over(index)
        except OSError as error:
            return error

    def _handed_over(self, index: Index) -> ReadBatch | ReadEncoded:
        if self._slots is None:
            self._slots = Slots()
        if self._encoded:
            encoded, unreadable = self._batches.encoded(index)
            return Encoded(*map(self._slots.hand_over, encoded)), unreadable
        (images, labels, ids), unreadable = self._batches.read(index, self._slots.take)
        over = self._slots.hand_over
        return (over(images), over(labels), over(ids)), unreadable


def _unchanged(batch: Any) -> Any:
    return batch


def settle(worker: int = 0) -> None:
    """Make this process live and die with the training process.

    Ctrl-C, and what Slurm sends before it ends a job, reach it too; it would die of them and take
    the training along before that has saved. And where the training is killed, nobody else tells
    it: its parent in the eyes of the system is the fork server, which waits for its children.
    """
    for number in (signal.SIGINT, *_LEFT_TO_THE_TRAINING):
        signal.signal(number, signal.SIG_IGN)
    training = multiprocessing.parent_process()
    if training is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(training.pid,), daemon=True).start()
        threading.Thread(target=_follow, args=(training,), daemon=True).start()


def _obey(training: int) -> None:
    """End at a SIGTERM from the training, as torch and multiprocessing end workers; others' are not for us."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
        pass
    os._exit(1)


def _follow(training: multiprocessing.process.BaseProcess) -> None:
    training.join()
    os._exit(1)
