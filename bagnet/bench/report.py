"""What all benchmarks tell: medians, ranges and ratios as a table, and every figure as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "torchvision", "webdataset")


def report(rates: dict[str, list[float]], options: argparse.Namespace, what: str) -> None:
    """Print a table, and write the figures to ``options.out`` if it is given.

    Args:
        rates: For each variant, how many of them a second, round by round; ratios are to the first.
        options: The settings, and ``out``, a path or None.
        what: What is counted, such as "images".
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(medians.values()))
    table = Table("variant", f"{what}/s", "lowest", "highest", "ratio")
    for name, values in rates.items():
        figures = [f"{figure:.0f}" for figure in (medians[name], min(values), max(values))]
        table.add_row(name, *figures, f"{medians[name] / first:.2f}")
    Console().print(table)
    facts = {
        "settings": {key: str(value) for key, value in vars(options).items()},
        f"{what}_per_second": rates,
        **{package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }
    if options.out:
        options.out.write_text(json.dumps(facts, indent=1) + "\n")
