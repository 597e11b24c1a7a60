"""One page with all results that exist: their protocols, tables and figures, with the paper's numbers beside ours.

Reads what the other experiments left in --out, each in a folder of its name: every table (.md), every figure (.png), and
the record of what was measured, from the per-sample results. The page, OUT/report.html, is a single file that needs nothing else.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import inspect
from collections.abc import Iterator
from html import escape
from pathlib import Path

from bagnet.experiments.parts import read_record
from bagnet.experiments.results import read_table, write_text

ORDER = ("accuracy", "patches", "scrambling", "interactions", "errors", "sensitivity")
"""The experiments of the paper, as it has them."""

STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
section { border-top: 1px solid #ccc; margin-top: 3em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left }
th { border-bottom: 2px solid #888 }
figure { margin: 1em 0 } img { max-width: 100% } pre { white-space: pre-wrap; color: #555 }
.wide { overflow-x: auto }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``run``."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of all results")


def run(options: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        ValueError: There are no results.
    """
    folders = [options.out / name for name in ORDER if any((options.out / name).glob("*.md"))]
    if not folders:
        raise ValueError(
            f"{options.out} has no results to report: run an experiment first ({', '.join(ORDER)})"
        )
    body = "".join(_section(folder) for folder in folders)
    path = options.out / "report.html"
    write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>BagNet: experiments</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>The experiments of the BagNet paper</h1>\n{body}</body></html>\n",
        path,
    )
    print(f"{len(folders)} experiments: {path}")


def _section(folder: Path) -> str:
    about = inspect.getdoc(importlib.import_module(f"bagnet.experiments.{folder.name}")) or ""
    parts = [f"<section><h2>{escape(folder.name)}</h2>\n<pre>{escape(about)}</pre>\n"]
    parts += _tables(folder)
    for file in sorted(folder.glob("*.png")):
        data = base64.b64encode(file.read_bytes()).decode()
        name = escape(f"{folder.name}: {file.stem}")
        parts.append(f'<figure><img alt="{name}" src="data:image/png;base64,{data}"></figure>\n')
    records = [_record(file) for file in sorted(folder.glob("*.parquet"))]
    if records:
        titles = ["network", "measured", "weights (sha256)", "data (digest)", "images", "size, px"]
        parts.append(
            f"<details><summary>what was measured</summary>{_table(titles, records)}</details>\n"
        )
    return "".join([*parts, "</section>\n"])


def _tables(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.md")):
        if file.stem != "table":
            yield f"<h3>{escape(file.stem)}</h3>\n"
        yield _table(*read_table(file))


def _record(file: Path) -> list[str]:
    record = read_record(file)
    return [
        file.stem,
        record["measurement"],
        record["weights"][:16],
        record["data"][:16],
        f"{record['images']:,}",
        f"{record['resize_size']}, then {record['image_size']}",
    ]


def _table(titles: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>\n'
