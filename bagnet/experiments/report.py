"""One page with all existing results: descriptions, tables and figures of the experiments.

It reads what the other experiments left in --out, each in a folder of its name: every table (.md),
every figure (.png), and the record of what was measured (from LABEL.parquet). The page,
OUT/report.html, is a single file that needs nothing else.
"""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from bagnet.experiments.measuring.parts import read_record, result_files
from bagnet.experiments.measuring.results import read_table
from bagnet.experiments.options import EXPERIMENTS, ReportOptions
from datamodules.common.commands import docstring_of
from datamodules.common.files import write_text

STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
section { border-top: 1px solid #ccc; margin-top: 3em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #888 }
.number { text-align: right }
figure { margin: 1em 0 }
figcaption { font-weight: bold }
img { max-width: 100% }
.about { color: #555; font: inherit; white-space: pre-wrap }
summary { cursor: pointer; margin: .5em 0 }
.wide { overflow-x: auto }
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><title>BagNet: experiments</title>
<style>{style}</style></head>
<body><h1>Experiments</h1>
{body}</body></html>
"""
LONG = 20  # rows; longer tables are folded


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
    path = options.out / "report.html"
    write_text(PAGE.format(style=STYLE, body="".join(map(_section, folders))), path)
    print(f"{len(folders)} experiments: {path}")


def _section(folder: Path) -> str:
    about = escape(docstring_of(f"bagnet.experiments.{folder.name}"))
    parts = [f'<section><h2>{escape(folder.name)}</h2>\n<pre class="about">{about}</pre>\n']
    tables = {file.stem: read_table(file) for file in sorted(folder.glob("*.md"))}
    main = tables.get("table")
    if main and len(main[1]) <= LONG:
        parts.append(_table(*tables.pop("table")))
    for file in sorted(folder.glob("*.png"), key=lambda file: (file.stem != "figure", file.stem)):
        data = base64.b64encode(file.read_bytes()).decode()
        name = escape(f"{folder.name}: {file.stem}")
        caption = f"<figcaption>{escape(file.stem)}</figcaption>" * (file.stem != "figure")
        parts.append(
            f'<figure>{caption}<img alt="{name}" src="data:image/png;base64,{data}"/></figure>\n'
        )
    if records := {file.stem: read_record(file) for file in result_files(folder)}:
        titles = ["network", "measured", "weights (sha256)", "data (digest)", "images", "size, px"]
        tables["what was measured"] = (
            titles,
            [
                [
                    label,
                    record["measurement"],
                    record["weights"][:16],
                    record["data"][:16],
                    f"{record['images']:,}",
                    f"{record['resize_size']}, then {record['image_size']}",
                ]
                for label, record in records.items()
            ],
        )
    for title, (titles, rows) in tables.items():
        summary = f"{escape(title)} ({len(rows):,} rows)"
        table = _table(titles, rows)
        parts.append(f"<details><summary>{summary}</summary>{table}</details>\n")
    return "".join([*parts, "</section>\n"])


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
