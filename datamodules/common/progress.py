"""How far a command is, and how long it still takes: a bar, or in a log file a line per minute."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_SECONDS = 60.0


@contextlib.contextmanager
def progress(
    console: Console, name: str, total: int | None, unit: str = "images"
) -> Iterator[Callable[[float], None]]:
    """Show progress while a block runs.

    Args:
        console: Where it is shown.
        name: What is being done, in a word.
        total: How many there are; None if that is unknown.
        unit: What is counted.

    Yields:
        A function to call with the number of units done so far.
    """
    if not console.is_terminal:
        yield _lines(console, name, total, unit)
        return
    columns = (
        TextColumn("{task.description:5}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total, speed="")

        def update(done: float) -> None:
            speed = bar.tasks[task].speed
            bar.update(task, completed=done, speed=_speed(speed, unit) if speed else "")

        yield update


def _lines(console: Console, name: str, total: int | None, unit: str) -> Callable[[float], None]:
    """A function that prints a line at most every `LOG_SECONDS`."""
    last, last_done = time.monotonic(), 0.0
    of_total = f" of {total:,}" if total else ""

    def update(done: float) -> None:
        nonlocal last, last_done
        seconds = time.monotonic() - last
        if seconds >= LOG_SECONDS:
            speed = (done - last_done) / seconds
            left = ""
            if total and speed:
                left = f", {timedelta(seconds=round((total - done) / speed))} left"
            console.print(f"{name}: {done:,.0f}{of_total} {unit}, {_speed(speed, unit)}{left}")
            last, last_done = time.monotonic(), done

    return update


def _speed(speed: float, unit: str) -> str:
    """A speed for people: `1,234 images/s`, `0.21 images/s`."""
    return f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s"
