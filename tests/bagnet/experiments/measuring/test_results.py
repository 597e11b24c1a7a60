"""Tables, figures, and what W&B gets."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wandb
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from bagnet.experiments.measuring import results
from bagnet.experiments.measuring.results import (
    log_to_wandb,
    read_table,
    save_figure,
    write_results,
    write_table,
)
from bagnet.experiments.measuring.statistics import Interval
from bagnet.experiments.options import MeasureOptions

ROWS = [
    {"model": "bagnet9", "top1": Interval(0.4641, 0.46, 0.468), "parameters": 15_688_744},
    {"model": "a|b\nc", "top1": None, "unused": 1},
]
COLUMNS = {"model": ("model", ""), "top1": ("top-1 | %", ".1%"), "parameters": ("parameters", ",")}


def test_a_table_is_written_for_people_and_for_programs(tmp_path, capsys):
    write_table(ROWS, COLUMNS, tmp_path / "new" / "table")
    assert (tmp_path / "new" / "table.md").read_text().splitlines() == [
        r"| model | top-1 \| % | parameters |",
        "| --- | ---: | ---: |",
        "| bagnet9 | 46.4% (46.0% to 46.8%) | 15,688,744 |",
        r"| a\|b c | – | – |",
    ]
    assert "15,688,744" in capsys.readouterr().out
    with open(tmp_path / "new" / "table.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "model": "bagnet9",
        "top1": "0.4641",
        "top1_low": "0.46",
        "top1_high": "0.468",
        "parameters": "15688744",
    }
    assert second["model"] == "a|b\nc"
    assert second["top1"] == second["top1_low"] == second["parameters"] == ""


def test_a_table_can_be_read_back(tmp_path):
    write_table(ROWS, COLUMNS, tmp_path / "table")
    titles, rows = read_table(tmp_path / "table.md")
    assert titles == ["model", "top-1 | %", "parameters"]
    assert rows[1] == ["a|b c", "–", "–"]


@pytest.mark.parametrize("content", [b"", b"| a |\n", b"| a |\n| - |\n| 1 | 2 |\n", b"\xff|\n"])
def test_a_table_that_somebody_has_damaged_is_named(tmp_path, content):
    (tmp_path / "table.md").write_bytes(content)
    with pytest.raises(ValueError, match="table.md is n"):
        read_table(tmp_path / "table.md")


def figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([1, 2], [3, 1], label="a")
    return figure


def test_a_figure_is_the_same_to_the_byte_each_time(tmp_path):
    save_figure(figure(), tmp_path / "a")
    save_figure(figure(), tmp_path / "b")
    for suffix in (".png", ".svg"):
        drawn = (tmp_path / f"a{suffix}").read_bytes()
        assert drawn == (tmp_path / f"b{suffix}").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (200, 100)
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]


def test_wandb_gets_tables_figures_and_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(ROWS, COLUMNS, tmp_path / "table")
    save_figure(figure(), tmp_path / "figure")
    pq.write_table(pa.table({"sample_id": [1]}), tmp_path / "bagnet9.parquet")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_to_wandb("accuracy", tmp_path)
    wandb.teardown()  # only then is its file whole
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    media = {file.suffix for file in (run / "files").rglob("*") if file.is_file()}
    assert {".json", ".png"} <= media
    (record,) = run.glob("*.wandb")
    content = record.read_bytes()
    for expected in (b"accuracy/table", b"accuracy/figure", b"bagnet9.parquet", b"table.csv"):
        assert expected in content


def test_results_are_written_though_wandb_refuses_a_variable(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "OFFLINE")
    options = MeasureOptions(out=tmp_path, wandb=True)
    write_results(options, "accuracy", {"table": (ROWS, COLUMNS)}, {})
    assert (tmp_path / "accuracy" / "table.csv").exists()
    *_, place, failure = capsys.readouterr().out.splitlines()
    assert place == f"results: {tmp_path / 'accuracy'}"
    assert failure.startswith("W&B has failed (WANDB_MODE: Input should be 'online'")


def test_a_table_too_wide_for_the_terminal_is_printed_in_parts(tmp_path, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(
        results, "Console", lambda **_: Console(file=out, force_terminal=True, width=60)
    )
    pairs = [("bagnet9", "bagnet17"), ("bagnet9", "bagnet33"), ("bagnet17", "bagnet33")]
    share = Interval(0.5, 0.25, 0.75)
    rows = [{"a": a, "b": b, "r": share, "kappa": share, "p": 0.03} for a, b in pairs]
    columns = {key: (f"{key} of classes", "") for key in "ab"}
    columns |= {"r": ("Pearson's r of classes", ".2f"), "kappa": ("Cohen's kappa", ".2f")}
    columns |= {"p": ("McNemar's p", ".2g")}
    write_table(rows, columns, tmp_path / "table")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(map(len, printed.splitlines())) <= 60
    assert "…" not in printed
    assert printed.count("0.50 (0.25 to 0.75)") == 2 * 3
    for pair in pairs:  # in both parts
        assert len(re.findall(r"│ {} +│ +{} │".format(*pair), printed)) == 2


def test_a_wide_table_is_whole_in_a_log(tmp_path, capsys):
    columns = {f"key{n}": (f"a rather long title {n}", "") for n in range(12)}
    write_table([dict.fromkeys(columns, "value")], columns, tmp_path / "table")
    assert "a rather long title 0" in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize(("title", "width"), [("difference", 30), ("difference from the rest", 44)])
def test_a_table_that_is_a_little_too_wide_is_wrapped_and_not_cut(
    tmp_path, monkeypatch, title, width
):
    out = io.StringIO()
    monkeypatch.setattr(
        results, "Console", lambda **_: Console(file=out, force_terminal=True, width=width)
    )
    columns = {"a": ("network", ""), "b": ("class", ""), "r": (title, "")}
    rows = [{"a": "bagnet9", "b": name, "r": "+100.0%"} for name in ("dotted-blue", "dotted-red")]
    write_table(rows, columns, tmp_path / "table")
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert all(line.endswith(tuple("┓┃┩│┘")) for line in text.splitlines())
