"""How far a command is: a bar on a terminal, a line per minute in a log file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_SECONDS = 60.0


@contextlib.contextmanager
def progress(
    console: Console, name: str, total: int | None, unit: str = "images"
) -> Iterator[Callable[[int], None]]:
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
        yield _lines(console, name, f" of {total:,}" if total else "", unit)
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

        def update(done: int) -> None:
            speed = bar.tasks[task].speed
            text = f"{speed:,.0f} {unit}/s" if speed else ""
            bar.update(task, completed=done, speed=text)

        yield update


def _lines(console: Console, name: str, total: str, unit: str) -> Callable[[int], None]:
    """A function that prints a line at most every `LOG_SECONDS`."""
    last, last_done = time.monotonic(), 0

    def update(done: int) -> None:
        nonlocal last, last_done
        seconds = time.monotonic() - last
        if seconds >= LOG_SECONDS:
            speed = (done - last_done) / seconds
            console.print(f"{name}: {done:,}{total} {unit}, {speed:,.0f} {unit}/s")
            last, last_done = time.monotonic(), done

    return update
