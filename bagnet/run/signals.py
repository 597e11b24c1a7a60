"""Signals that ask a training to stop. Imports nothing heavy, as it must be ready before the rest.

The handler only sets a flag, which the training checks between two batches. A handler that saved by
itself could interrupt a collective operation, and then the ranks would wait for each other forever.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from bagnet.run.ranks import is_first

STOPPING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
"""SLURM's warning of the time limit (--signal=USR1@120); preemption and scancel; Ctrl-C."""

_REPEAT_SECONDS = 5.0
"""slurmd sends SIGTERM to the tasks, and srun forwards it to them a second time."""

_STOPPING_SOON = "stopping after this batch; a second signal ends at once, without saving"

_received: signal.Signals | None = None
_received_at = 0.0


class Stopped(BaseException):
    """The program was asked to stop, and has stopped. No error, so no library may swallow it.

    Attributes:
        signal: The first signal that was received.
        checkpoint: The file to resume from; None if there is none yet.
    """

    def __init__(self, number: signal.Signals, checkpoint: Path | None) -> None:
        super().__init__(number, checkpoint)
        self.signal, self.checkpoint = number, checkpoint


@contextmanager
def listening() -> Iterator[None]:
    """Within this context, remember the first of these signals; a second one ends the program."""
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
def raising() -> Iterator[None]:
    """Within this context, Ctrl-C raises `Stopped` wherever the program is; again, it ends it."""
    before = signal.signal(signal.SIGINT, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def listen() -> None:
    """Install our handlers, again if another library has replaced them."""
    for number in STOPPING:
        signal.signal(number, _remember)


def received() -> signal.Signals | None:
    """The first signal that was received, or None."""
    return _received


def _remember(number: int, frame: FrameType | None) -> None:
    global _received, _received_at
    if _received is None:
        _received, _received_at = signal.Signals(number), time.monotonic()
        if is_first():  # not print: the signal may have interrupted one
            os.write(2, f"\n{_received.name}: {_STOPPING_SOON}\n".encode())
        return
    # The warning may come twice, and srun repeats SIGTERM. Anything else means: end now.
    is_soon = time.monotonic() - _received_at < _REPEAT_SECONDS
    is_repeated = number == _received == signal.SIGTERM and is_soon
    if number != signal.SIGUSR1 and not is_repeated:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(signal.Signals(number), None)
