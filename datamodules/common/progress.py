"""How far it is: a bar on a terminal, a line a minute in a log file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_SECONDS = 60.0


@contextlib.contextmanager
def progress(console: Console, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that is told how many images are done; ``total`` None if unknown."""
    if not console.is_terminal:
        yield _Lines(console, name, total)
        return
    columns = (
        TextColumn("{task.description:5}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar, name, total)


class _Bar:
    def __init__(self, bar: Progress, name: str, total: int | None) -> None:
        self._bar, self._task = bar, bar.add_task(name, total=total, speed="")

    def __call__(self, done: int) -> None:
        speed = self._bar.tasks[self._task].speed
        text = f"{speed:,.0f} images/s" if speed else ""
        self._bar.update(self._task, completed=done, speed=text)


class _Lines:
    def __init__(self, console: Console, name: str, total: int | None) -> None:
        self._console, self._name, self._of = console, name, f" of {total:,}" if total else ""
        self._last, self._done = time.monotonic(), 0

    def __call__(self, done: int) -> None:
        seconds = time.monotonic() - self._last
        if seconds < LOG_SECONDS:
            return
        speed = (done - self._done) / seconds
        self._console.print(f"{self._name}: {done:,}{self._of} images, {speed:,.0f} images/s")
        self._last, self._done = time.monotonic(), done
