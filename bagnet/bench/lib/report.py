"""What all benchmarks tell: tables that fit 80 columns, and every figure as JSON with where it was measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bagnet.run.provenance import git_commit

PACKAGES = ("torch", "torchvision", "webdataset", "pytorch-lightning", "numpy", "simplejpeg")


def parser_of(name: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of the benchmark ``name``, whose help begins with what it does."""
    return argparse.ArgumentParser(
        prog=f"python -m bagnet.bench {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def report(
    rates: dict[str, list[float]],
    options: argparse.Namespace,
    what: str,
    reference: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print a table, and write the figures to ``options.out`` if it is given.

    Args:
        rates: For each variant, how many of them a second, round by round.
        options: The settings, and ``out``, a path or None.
        what: What is counted, such as "images".
        reference: The variant that ratios are to; the first one by default.
        more: Other figures to write.
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    unit = medians[reference or next(iter(medians))]
    rows = [
        [
            name,
            *map(short, (medians[name], min(values), max(values))),
            f"{medians[name] / unit:.2f}",
        ]
        for name, values in rates.items()
    ]
    show(["variant", f"{what}/s", "lowest", "highest", "ratio"], rows)
    write(options, {f"{what}_per_second": rates, **(more or {})})


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; all columns but the first hold numbers."""
    table = Table(columns[0], box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def short(figure: float) -> str:
    """At least three digits: 0.0123, 1.23, 1,234."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def write(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write ``figures`` with the settings, versions, commit and machine to ``options.out``, if it is given."""
    if options.out:
        Path(options.out).write_text(json.dumps({**facts(options), **figures}, indent=1) + "\n")


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """The settings, and on what the figures were measured."""
    return {
        "settings": {key: str(value) for key, value in vars(options).items()},
        **{package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "commit": git_commit(),
        "machine": machine(str(getattr(options, "device", "cpu"))),
    }


def machine(device: str = "cpu") -> str:
    """The processor, and the GPU if ``device`` is one."""
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
