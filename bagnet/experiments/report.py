"""One page with all existing results: descriptions, tables and figures of the experiments.

It reads what the other experiments left in --out, each in a folder of its name: every table (.md),
every figure (.png), and the record of what was measured (from LABEL.parquet). The page,
OUT/report.html, is a single file that needs nothing else.
"""

from __future__ import annotations

import ast
import base64
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from bagnet.experiments.commands import EXPERIMENTS
from bagnet.experiments.measuring.parts import read_record, result_files
from bagnet.experiments.measuring.results import read_table
from bagnet.experiments.options import ReportOptions
from datamodules.common.commands import docstring_of
from datamodules.common.files import write_text

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<title>BagNet: experiments</title>
<style>
{style}</style></head>
<body><h1>Experiments</h1>
{sizes}<nav aria-label="Contents"><ul>
{contents}</ul></nav>
{body}</body></html>
"""
LONG = 20  # rows; longer tables are folded

Records = Mapping[str, Mapping[str, Any]]
"""What was measured for each network of an experiment: `parts.record_of`."""


def run(options: ReportOptions) -> None:
    """Write the page.

    Raises:
        ValueError: There are no results.
    """
    folders = [options.out / name for name in EXPERIMENTS if any((options.out / name).glob("*.md"))]
    if not folders:
        raise ValueError(
            f"{options.out} has no results to report: run an experiment first "
            f"({', '.join(EXPERIMENTS)})"
        )
    records = {
        folder.name: {file.stem: _record(file) for file in result_files(folder)}
        for folder in folders
    }
    contents = "".join(
        f'<li><a href="#{name}">{name}</a> <span>{escape(_title(name))}</span></li>\n'
        for name in records
    )
    body = "".join(_section(folder, records[folder.name]) for folder in folders)
    path = options.out / "report.html"
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    page = PAGE.format(style=style, sizes=_sizes(records), contents=contents, body=body)
    write_text(page, path)
    print(f"{len(folders)} experiment{'s' * (len(folders) != 1)}: {path}")


def _record(file: Path) -> dict[str, Any]:
    """What was measured.

    Raises:
        ValueError: The file is damaged, or was not written by an experiment.
    """
    record = read_record(file)
    try:
        for name in ("weights", "data", "measurement"):
            if not isinstance(record[name], str):
                raise TypeError(f"{name} is {record[name]!r}")
        _measured({"": record})
    except (KeyError, TypeError, ValueError, SyntaxError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}"[:120]
        raise ValueError(f"{file} was not written by an experiment ({reason}): remove it") from None
    return record


def _title(name: str) -> str:
    """What an experiment does: the first sentence of its description."""
    return docstring_of(EXPERIMENTS[name].module).partition("\n\n")[0].replace("\n", " ")


def _sizes(records: Mapping[str, Records]) -> str:
    """A warning if the experiments saw images of different sizes."""
    sizes: dict[str, list[str]] = {}
    for name, own in records.items():
        for size in dict.fromkeys(_size(record) for record in own.values()):
            sizes.setdefault(size, []).append(name)
    if len(sizes) < 2:
        return ""
    text = "; ".join(f"{', '.join(names)}: {size} px" for size, names in sizes.items())
    return f'<p class="warning">The images had different sizes. {escape(text)}.</p>\n'


def _size(record: Mapping[str, Any]) -> str:
    return f"{record['resize_size']}, then {record['image_size']}"


def _section(folder: Path, records: Records) -> str:
    name = escape(folder.name)
    about = escape(docstring_of(EXPERIMENTS[folder.name].module))
    title = escape(_title(folder.name))
    parts = [
        f'<section id="{name}"><h2>{name}</h2>\n<p class="title">{title}</p>\n',
        f"<details><summary>How it is measured</summary>\n<pre>{about}</pre></details>\n",
    ]
    tables = {file.stem: read_table(file) for file in sorted(folder.glob("*.md"))}
    main = tables.get("table")
    if main and len(main[1]) <= LONG:
        parts.append(_table(*tables.pop("table")))
    for file in sorted(folder.glob("*.png"), key=lambda file: (file.stem != "figure", file.stem)):
        data = base64.b64encode(file.read_bytes()).decode()
        alt = escape(f"{folder.name}: {file.stem}")
        caption = f"<figcaption>{escape(file.stem)}</figcaption>" * (file.stem != "figure")
        parts.append(
            f'<figure>{caption}<img alt="{alt}" src="data:image/png;base64,{data}"/></figure>\n'
        )
    if records:
        tables["what was measured"] = _measured(records)
    for title, (titles, rows) in tables.items():
        summary = f"{escape(title)} ({len(rows):,} {'row' if len(rows) == 1 else 'rows'})"
        table = _table(titles, rows)
        parts.append(f"<details><summary>{summary}</summary>{table}</details>\n")
    return "".join([*parts, "</section>\n"])


def _measured(records: Records) -> tuple[list[str], list[list[str]]]:
    """A table of what was measured, with the settings of the experiment if it has any."""
    titles = ["network", "weights (sha256)", "data (digest)", "images", "size, px", "settings"]
    rows = [
        [
            label,
            record["weights"][:16],
            record["data"][:16],
            f"{record['images']:,}",
            _size(record),
            _settings(record["measurement"]),
        ]
        for label, record in records.items()
    ]
    if not any(row[-1] for row in rows):
        titles, rows = titles[:-1], [row[:-1] for row in rows]
    return titles, rows


def _settings(measurement: str) -> str:
    """The settings of a measurement from its repr: `counts 2, 4; seed 0`."""
    call = ast.parse(measurement, mode="eval").body
    assert isinstance(call, ast.Call), "the repr of a dataclass"
    words = []
    for keyword in call.keywords:
        value = ast.literal_eval(keyword.value)
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words.append(f"{keyword.arg} {text}")
    return "; ".join(words)


def _table(titles: list[str], rows: list[list[str]]) -> str:
    numbers = [
        all(row[column][:1] in "0123456789+-–" for row in rows) for column in range(len(titles))
    ]

    def line(tag: str, cells: list[str]) -> str:
        kinds = (' class="number"' if number else "" for number in numbers)
        filled = zip(kinds, cells, strict=True)
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in filled)

    lines = [line("th", titles), *(line("td", row) for row in rows)]
    return f'<div class="wide"><table>{"".join(f"{each}</tr>" for each in lines)}</table></div>\n'
