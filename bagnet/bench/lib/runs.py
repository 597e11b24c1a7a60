"""Reads what a training has left in its run's folder."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

Curve = dict[int, dict[str, float]]
"""By step, and then by name."""


def curve(run: Path, *prefixes: str) -> Curve:
    """What a run has logged: the figures whose names begin so, and the steps that have any."""
    rows: Curve = {}
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            figures = {name: float(row[name]) for name in row if row[name]}
            chosen = {name: x for name, x in figures.items() if name.startswith(prefixes)}
            if chosen:
                rows[int(row["step"])] = chosen
    return rows


def steady(run: Path) -> tuple[float, float]:
    """Images/s, and the share of the time that went into waiting for data (0 to 1).

    Medians over the logged rows without the first and the last, in which the run starts and ends.
    """
    rows = list(curve(run, "throughput/").values())[1:-1]
    rates, waits = (
        [row[f"throughput/{name}"] for row in rows] for name in ("samples_per_sec", "data_wait")
    )
    return statistics.median(rates), statistics.median(waits)


def differences(first: Curve, second: Curve) -> list[str]:
    """How two curves differ, step by step; NaN differs from everything."""
    return [
        f"step {step}: {first.get(step)} and {second.get(step)}"
        for step in sorted(first.keys() | second.keys())
        if first.get(step) != second.get(step)
    ]


def not_finite(run: Path) -> list[str]:
    """The losses, weights and momenta of a run that are not finite, by name."""
    wrong = [
        f"{name} of step {step}"
        for step, row in curve(run, "train/", "val/").items()
        for name, value in row.items()
        if not math.isfinite(value)
    ]
    last = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    for part in ("state_dict", "optimizer_states"):
        tensors = _tensors(last[part], part)
        wrong += [name for name, tensor in tensors if not tensor.isfinite().all()]
    return wrong


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in nested dicts and lists, with the path to each."""
    if isinstance(value, torch.Tensor):
        yield name, value
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, part in items:
        yield from _tensors(part, f"{name}.{key}")
