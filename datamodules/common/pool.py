"""Worker processes that report progress, stop at once when asked to, and die with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_done: Synchronized[int] | None = None
_stop: Synchronized[int] | None = None


class Stopped(Exception):
    """Raised in a worker whose parent wants to end."""


def advance(amount: int = 1) -> None:
    """Count finished images, from inside a task; raises ``Stopped`` when it shall end."""
    if _done is not None and _stop is not None:
        with _done.get_lock():
            _done.value += amount
        if _stop.value:
            raise Stopped


class Workers:
    """A pool of processes, as a context manager."""

    def __init__(self, count: int) -> None:
        # spawn, because a progress bar has a thread and forking a process with threads may hang.
        context = multiprocessing.get_context("spawn")
        with _deaf():  # the first semaphore starts a process that looks after them
            self._done, self._stop = context.Value("q", 0), context.Value("b", 0)
        self._count = count
        self._pool = ProcessPoolExecutor(
            count, mp_context=context, initializer=_start, initargs=(self._done, self._stop)
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.value = 1
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self,
        function: Callable[[T], R],
        tasks: Sequence[T],
        progress: Callable[[int], Any],
    ) -> Iterator[tuple[int, R]]:
        """Yield ``(position of the task, its result)`` as results come.

        Args:
            function: A module-level function.
            tasks: Its arguments, one a call.
            progress: Called often with how many images were done (``advance``) since the start.

        Raises:
            ValueError: A worker was killed from outside.
        """
        self._done.value = 0
        with _deaf():
            futures = {self._pool.submit(function, task): at for at, task in enumerate(tasks)}
        waiting = set(futures)
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
                progress(self._done.value)
                for future in finished:
                    yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise ValueError(
                f"one of the {self._count} workers was killed, often for lack of memory; "
                "run the same command again with fewer --workers"
            ) from None


def available_cpus() -> int:
    """Count the CPUs this process may use, which a SLURM job limits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that never see what ends a run: they inherit the mask.

    Ctrl-C and SLURM's signals reach the whole group; the parent decides, and tells the workers by `stop`.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start(done: Synchronized[int], stop: Synchronized[int]) -> None:
    global _done, _stop
    _done, _stop = done, stop
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
