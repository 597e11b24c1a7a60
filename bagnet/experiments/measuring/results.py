"""What an experiment writes: tables (CSV, Markdown), figures (PNG, SVG), and all of it to W&B."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import wandb
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from bagnet.evidence.pictures.plots import save_png
from bagnet.experiments.measuring.figures import Rows
from bagnet.experiments.measuring.parts import result_files
from bagnet.experiments.measuring.statistics import Interval
from bagnet.experiments.options import MeasureOptions
from bagnet.run.loggers.wandb_start import location, reason, start_run
from datamodules.common.files import write_text
from datamodules.common.texts import read_text

NOTHING = "–"

Columns = Mapping[str, tuple[str, str]]
"""For each key of a row: the title, and the format spec of its values, such as `.1%`."""


def write_results(
    options: MeasureOptions,
    name: str,
    tables: Mapping[str, tuple[Rows, Columns]],
    figures: Mapping[str, Figure],
) -> None:
    """Write tables and figures to OUT/NAME by the stems of their files, and log them to W&B.

    The output says where they are.
    """
    folder = options.out / name
    for stem, (rows, columns) in tables.items():
        write_table(rows, columns, folder / stem)
    for stem, figure in figures.items():
        save_figure(figure, folder / stem)
    print(f"results: {folder}")
    if options.wandb:
        try:
            log_to_wandb(name, folder)
        except Exception as error:
            print(f"W&B has failed ({reason(error)})")


def write_table(rows: Rows, columns: Columns, stem: Path) -> None:
    """Print a table and write it to `STEM.csv`, in full precision, and to `STEM.md`, for people.

    Args:
        rows: The rows; an entry that is missing or None is shown as a dash. An `Interval` becomes
            three columns of the CSV.
        columns: The entries to show, in this order.
        stem: Path of the files without their suffixes.
    """
    titles = [title for title, _ in columns.values()]
    cells = [
        [
            NOTHING if (value := row.get(key)) is None else format(value, spec)
            for key, (_, spec) in columns.items()
        ]
        for row in rows
    ]
    console = Console(highlight=False, markup=False)
    _print(titles, cells, stem.stem if stem.stem != "table" else None, console)
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *cells]
    escaped = ([cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines)
    text = "".join(f"| {' | '.join(line)} |\n" for line in escaped)
    write_text(text, stem.with_suffix(".md"))
    write_text(_csv(rows, columns), stem.with_suffix(".csv"))


def _print(titles: list[str], cells: list[list[str]], title: str | None, console: Console) -> None:
    """Print a table; on a terminal, in as many as it takes to show every cell whole.

    The first columns, which tell the rows apart, are in each of them.
    """
    least = [
        max(cell_len(text) for text in (*heading.split(), *column, ""))
        for heading, *column in zip(titles, *cells, strict=True)
    ]
    rows = len(cells)
    keys = next((n for n in range(1, 4) if len({tuple(line[:n]) for line in cells}) == rows), 1)
    groups = [list(range(keys))]
    for number in range(keys, len(titles)):
        width = sum(least[each] + 3 for each in (*groups[-1], number)) + 1
        if console.is_terminal and width > console.width and len(groups[-1]) > keys:
            groups.append(list(range(keys)))
        groups[-1].append(number)
    for group in groups:
        table = Table(*(titles[each] for each in group), title=title)
        for line in cells:
            table.add_row(*(line[each] for each in group))
        wide = console.measure(table, options=console.options.update(width=10_000)).maximum
        if not console.is_terminal:  # a log has no width
            console.width = wide
        narrow = sum(least[each] + 3 for each in group) + 1
        for column, number in zip(table.columns, group, strict=True):
            column.justify = "right" if number else "left"
            if wide > console.width >= narrow:  # rich would narrow the widest, and not the titles
                column.width = least[number]
        console.print(table)


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read the titles and cells of a Markdown file of `write_table`.

    Raises:
        ValueError: Somebody has changed or damaged it.
    """
    lines = [
        [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in read_text(path).splitlines()
    ]
    if len(lines) < 2 or len({len(line) for line in lines}) > 1:
        raise ValueError(f"{path} is no table that an experiment wrote: draw the experiment again")
    titles, _, *rows = lines
    return titles, rows


def save_figure(figure: Figure, stem: Path) -> None:
    """Write `STEM.png` and `STEM.svg`; the same figure gives the same bytes."""
    save_png(figure, stem.with_suffix(".png"))
    text = io.StringIO()
    # Matplotlib would write the time, its version and random names into the file.
    with rc_context({"svg.hashsalt": "bagnet"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    write_text(text.getvalue(), stem.with_suffix(".svg"))


def log_to_wandb(name: str, folder: Path) -> None:
    """Log all tables and figures of a folder to W&B, and its per-sample results as an artifact.

    `bagnet.run.loggers.wandb_start.start_run` says when W&B works offline, in the folder.
    """
    with start_run(folder, run_name=name, run_job_type="experiment") as run:
        for file in sorted(folder.glob("*.md")):
            titles, rows = read_table(file)
            run.log({f"{name}/{file.stem}": wandb.Table(columns=list(titles), data=rows)})
        for file in sorted(folder.glob("*.png")):
            run.log({f"{name}/{file.stem}": wandb.Image(str(file))})
        artifact = wandb.Artifact(name, type="results")
        for file in sorted([*result_files(folder), *folder.glob("*.csv")]):
            artifact.add_file(str(file))
        run.log_artifact(artifact)
        places = location(run)
    for place in places:
        print(f"W&B: {place}")


def _csv(rows: Rows, columns: Columns) -> str:
    """All rows, in full precision; an interval becomes the columns KEY, KEY_low and KEY_high."""
    intervals = {key for row in rows for key in columns if isinstance(row.get(key), Interval)}
    suffixes = {key: ("", "_low", "_high") if key in intervals else ("",) for key in columns}
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(key + suffix for key in columns for suffix in suffixes[key])
    for row in rows:
        cells: list[Any] = []
        for key in columns:
            value = row.get(key)
            numbers = astuple(value) if isinstance(value, Interval) else (value, None, None)
            cells += numbers[: len(suffixes[key])]
        writer.writerow(cells)
    return text.getvalue()
