"""Signals that ask a training to stop. Imports nothing heavy: it listens before all else is imported.

The handler only sets a flag, which the training looks at between two batches. To save inside a handler can strike in the
middle of a collective, and then the ranks wait for each other for ever.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOPPING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
"""SLURM's warning of the time limit (--signal=USR1@120); preemption and scancel; Ctrl-C."""

_ECHO_SECONDS = 5.0
"""slurmd sends SIGTERM to the tasks, and srun passes it on to them once more."""

_received: signal.Signals | None = None
_received_at = 0.0


class Stopped(Exception):
    """The training was asked to stop, and has.

    Attributes:
        signal: That asked.
        checkpoint: To go on from; None where there is none yet.
    """

    def __init__(self, number: signal.Signals, checkpoint: Path | None) -> None:
        super().__init__(number, checkpoint)
        self.signal, self.checkpoint = number, checkpoint


@contextmanager
def listening() -> Iterator[None]:
    """Remember the first of these signals while this lasts; a second one ends the program at once."""
    global _received
    _received = None
    before = {number: signal.getsignal(number) for number in STOPPING}
    listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Let these signals wait while this lasts, and never reach the processes that it starts.

    SLURM may send them to all processes of a job, and what dies of them can save nothing.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def listen() -> None:
    """Take these signals from whoever has taken them since."""
    for number in STOPPING:
        signal.signal(number, _remember)


def received() -> signal.Signals | None:
    """The first that has come."""
    return _received


def _remember(number: int, frame: FrameType | None) -> None:
    global _received, _received_at
    if _received is None:
        _received, _received_at = signal.Signals(number), time.monotonic()
        return
    # A warning may come twice, and SIGTERM has an echo. Any other means now.
    is_soon = time.monotonic() - _received_at < _ECHO_SECONDS
    is_echo = number == _received == signal.SIGTERM and is_soon
    if number != signal.SIGUSR1 and not is_echo:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
