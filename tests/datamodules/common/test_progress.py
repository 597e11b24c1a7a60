"""Progress: a bar on a terminal, a line per minute in a log."""

from __future__ import annotations

import io

from rich.console import Console

from datamodules.common import progress as module
from datamodules.common.progress import progress


def test_a_log_gets_a_line_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress(Console(file=out, width=80), "train", 12_000, "samples") as update:
        for now[0], done in ((30.0, 1000), (60.0, 3000), (90.0, 4000), (120.0, 9000)):
            update(done)
    assert out.getvalue().splitlines() == [
        "train: 3,000 of 12,000 samples, 50 samples/s, 0:03:00 left",
        "train: 9,000 of 12,000 samples, 100 samples/s, 0:00:30 left",
    ]


def test_slow_work_has_a_speed_too(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress(Console(file=out, width=80), "interactions", 48) as update:
        now[0] = 100.0
        update(2.5)
    assert out.getvalue() == "interactions: 2 of 48 images, 0.025 images/s, 0:30:20 left\n"


def test_a_terminal_gets_a_bar_that_leaves_no_trace():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with progress(console, "train", 100) as update:
        update(50)
        console.print("a message")
    assert "a message" in out.getvalue()
