"""A pool of processes that report progress, stop when asked to, and end with their parent."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from typing import Any, TypeVar

from datamodules.processes.children import blocking, end_with_parent

T = TypeVar("T")
R = TypeVar("R")

# Ctrl-C and SLURM's signals are for the parent, which then tells the workers to stop.
_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

_done: Synchronized[int] | None = None
_stop: Synchronized[int] | None = None


class Stopped(Exception):
    """Raised in a worker whose pool is being closed."""


class WorkerKilled(ValueError):
    """A worker ended in the middle of a task: the system killed it, or it crashed."""


def advance(amount: int = 1) -> None:
    """Count finished images from inside a task.

    Raises:
        Stopped: The task must end now.
    """
    if _done is not None and _stop is not None:
        with _done.get_lock():
            _done.value += amount
        if _stop.value:
            raise Stopped


class Pool:
    """A pool of worker processes, as a context manager."""

    def __init__(self, count: int) -> None:
        # spawn: a progress bar has a thread, and forking a process with threads may deadlock.
        context = multiprocessing.get_context("spawn")
        with blocking(_PARENTS_SIGNALS):  # the first semaphore starts multiprocessing's own process
            self._done, self._stop = context.Value("q", 0), context.Value("b", 0)
        self._count = count
        self._pool = ProcessPoolExecutor(
            count, mp_context=context, initializer=_start, initargs=(self._done, self._stop)
        )

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.value = 1
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self, function: Callable[[T], R], tasks: Sequence[T], progress: Callable[[int], Any]
    ) -> list[R]:
        """Run a function on all tasks; returns the results in the order of the tasks.

        Args:
            function: A module-level function.
            tasks: Its arguments, one per call.
            progress: Called often with the number of images done so far (see `advance`).

        Raises:
            WorkerKilled: A worker ended in the middle of a task.
        """
        self._done.value = 0
        with blocking(_PARENTS_SIGNALS):
            futures = [self._pool.submit(function, task) for task in tasks]
        waiting = set(futures)
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
                progress(self._done.value)
                for future in finished:
                    future.result()  # raises what went wrong at once
        except BrokenProcessPool:
            raise WorkerKilled(
                f"one of the {self._count} workers was killed, often for lack of memory; "
                "run the same command again with fewer --workers"
            ) from None
        return [future.result() for future in futures]


def _start(done: Synchronized[int], stop: Synchronized[int]) -> None:
    global _done, _stop
    _done, _stop = done, stop
    end_with_parent()
