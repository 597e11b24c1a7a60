"""Ends a worker that no longer reads, so that the training does not wait for it without a word."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path


class Watchdog:
    """Kills a worker that the training has waited for longer than a limit.

    PyTorch sees within seconds that a worker has died, but waits forever for one that was stopped
    or hangs in a read. Its own limit would be the time in which it sees either.

    Args:
        seconds: The limit.

    Attributes:
        killed: Process id of the worker that was killed; None if none was.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.killed: int | None = None
        self._awaited: tuple[float, Sequence[BaseProcess], int] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @contextlib.contextmanager
    def waiting(self, workers: Sequence[BaseProcess], number: int) -> Iterator[None]:
        """In this context, the training waits for batch `number`, which workers read in turns."""
        if workers and self._thread.ident is None:
            self._thread.start()
        self._awaited = (time.monotonic(), workers, number)
        try:
            yield
        finally:
            self._awaited = None

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self.seconds / 4)):
            awaited = self._awaited
            if awaited is not None and time.monotonic() - awaited[0] > self.seconds:
                _, workers, number = awaited
                hanging = [worker for worker in workers if _hangs(worker)]
                worker = hanging[0] if hanging else workers[number % len(workers)]
                self.killed = worker.pid
                worker.kill()  # nothing less ends a process that is stopped
                return


def _hangs(process: BaseProcess) -> bool:
    """Whether a process is stopped, or in a read that nothing interrupts, as Linux shows it."""
    try:
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in ("T", "D")
