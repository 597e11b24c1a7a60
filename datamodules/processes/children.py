"""Processes that behave well together: they end with their parent and leave its signals to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from types import TracebackType

_SECONDS_TO_DIE = 1.0
"""The longest time between what the system closes first of a process that ends, and last."""


def available_cpus() -> int:
    """Count the CPUs this process may use, which a SLURM job limits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """Processes that decode for one rank, if the user does not say how many."""
    return min(4, available_cpus())


def end_with_parent() -> None:
    """End this process, without any cleanup, as soon as the one that started it has ended.

    Call it first in the child, in any process that `multiprocessing` starts. It also works under a
    fork server, which the system takes for the parent, and after a SIGKILL of the parent.
    """
    threading.Thread(target=_follow_parent, daemon=True).start()
    # A thread that hands tensors over may see the parent's end a moment before, and report it.
    sys.excepthook = _report_unless_parent_ended


@contextlib.contextmanager
def blocking(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Start processes that never see these signals: children inherit the mask.

    Ctrl-C and SLURM's signals reach all processes of a group, but only the parent should answer.
    """
    signals = list(signals)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        # multiprocessing's own process starts with the first one, and unblocks some signals then.
        with _without_its_warning():
            resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _without_its_warning() -> Iterator[None]:
    """Let the process that removes what others leave do so without two lines about it."""
    before = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end of this context, as in the middle of starting processes.

    Cut off there, a process finds nobody to read its first message from, and says so at length.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


def _follow_parent(seconds: float | None = None) -> None:
    """End this process if its parent ends within that time."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join(seconds)
        if not parent.is_alive():
            os._exit(1)


def _report_unless_parent_ended(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, EOFError | ConnectionError):
        _follow_parent(_SECONDS_TO_DIE)
    sys.__excepthook__(kind, error, trace)
