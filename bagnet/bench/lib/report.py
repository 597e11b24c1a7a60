"""Prints tables that fit 80 columns, and writes all figures as JSON with how they were measured."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bagnet.bench.options import BenchOptions
from bagnet.run.provenance import git_commit

PACKAGES = ("torch", "torchvision", "webdataset", "pytorch-lightning", "numpy", "simplejpeg")


def report(
    rates: Mapping[str, list[float]],
    options: BenchOptions,
    unit: str,
    reference: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print a table of speeds, and write the figures if `options.out` is given.

    Args:
        rates: Units per second of each variant, round by round.
        options: The settings.
        unit: What is counted, such as "images".
        reference: Variant that ratios refer to; by default the first one.
        more: Other figures to write.
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    one = medians[reference or next(iter(medians))]
    rows = [
        [name, *map(short, (medians[name], min(values), max(values))), f"{medians[name] / one:.2f}"]
        for name, values in rates.items()
    ]
    show(["variant", f"{unit}/s", "lowest", "highest", "ratio"], rows)
    write(options, {f"{unit}_per_second": rates, **(more or {})})


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; all columns except the first contain numbers."""
    table = Table(columns[0], box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def short(figure: float) -> str:
    """Format a number with at least three digits: 0.0123, 1.23, 1,234."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def write(options: BenchOptions, figures: Mapping[str, Any]) -> None:
    """Write figures to `options.out`, if given, with settings, versions, commit and machine."""
    if options.out is None:
        return
    facts = {
        "settings": {key: str(value) for key, value in asdict(options).items() if key != "out"},
        **{package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "commit": git_commit(),
        "machine": machine(getattr(options, "device", None) or "cpu"),
    }
    options.out.write_text(json.dumps({**facts, **figures}, indent=1) + "\n")


def machine(device: str = "cpu") -> str:
    """Describe the processor, and the GPU if `device` is one."""
    name = f"{_processor()}, {os.cpu_count()} CPUs"
    if torch.device(device).type != "cuda":
        return name
    return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda}); {name}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
