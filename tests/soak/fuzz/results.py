"""Kinds of files that experiments keep: results in Parquet, tables, colours."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

import bagnet.experiments.report
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.models import ModelFile
from bagnet.experiments.measuring.parts import PartFiles, read_file
from bagnet.experiments.options import ReportOptions
from tests.soak.fuzz import arrays, mutations
from tests.soak.fuzz.reading import Kind, Lost
from tests.soak.fuzz.reading import run as run_command
from tests.soak.fuzz.runs import write_file

_TABLE = "| network | top-1 |\n| --- | ---: |\n| a | 1.5% |\n| b \\| c | 2% |\n"


def _results(folder: Path) -> None:
    write_file("results/errors/table.md", _TABLE, folder)
    write_file("results/colours.json", '{"mine": "#123456"}', folder)
    record = {
        "measurement": "Errors(top=5)",
        "weights": "0" * 64,
        "data": "1" * 64,
        "image_size": 32,
    }
    record |= {"resize_size": 32, "images": 50, "classes": ["a"], "class_names": ["b"]}
    files = PartFiles(folder / "results/errors", ModelFile("mine", folder / "x"), record)
    table = pa.table(
        {"sample_id": list(range(50)), "label": [0] * 50, "loss": [at / 7 for at in range(50)]}
    )
    files.write(files.whole, [table])


def _report(folder: Path) -> None:
    run_command(bagnet.experiments.report, ReportOptions(out=folder / "results"))
    network_colours(folder / "results", ["mine", "other"])


def _read_results(folder: Path) -> None:
    """Results that can be read are as they were written."""
    read_file(folder / "results/errors/mine.parquet")
    _report(folder)


def _read_whole_results(folder: Path) -> None:
    path = folder / "results/errors/mine.parquet"
    own, sound = read_file(path), read_file(folder.with_suffix(".sound"))
    if own.column_names == sound.column_names and not own.equals(sound):
        raise Lost("results are not as they were written")
    _report(folder)


def _kinds() -> dict[str, Kind]:
    results, file = "results of experiments", "results/errors/mine.parquet"
    json_values = (mutations.json_values, mutations.json_values, mutations.some_bytes)
    return {
        "results": Kind(
            results,
            file,
            _results,
            (mutations.last_bytes, mutations.some_bytes),
            _read_whole_results,
        ),
        "results-columns": Kind(
            results, file, _results, (arrays.parquet_columns(b"bagnet"),), _read_results
        ),
        "table": Kind(
            results,
            "results/errors/table.md",
            _results,
            (mutations.fields("|"), mutations.some_bytes),
            _report,
        ),
        "colours": Kind(results, "results/colours.json", _results, json_values, _report),
    }


KINDS = _kinds()
