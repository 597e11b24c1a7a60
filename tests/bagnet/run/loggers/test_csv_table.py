"""The table of a run: one file over all starts, complete after each logged value."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from bagnet.run.lease import Lease
from bagnet.run.loggers.csv_table import CSVTable


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.csv"


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    return Lease(tmp_path / "run" / "starts.jsonl")


def test_values_of_one_step_share_a_row(path, lease):
    table = CSVTable(path, lease)
    table.log_metrics({"train/loss": 2.5, "epoch": 0}, step=4)
    table.log_metrics({"val/top1": 0.25, "epoch": 0}, step=4)
    table.log_metrics({"train/loss": 1.5, "epoch": 1}, step=9)
    table.finalize("success")
    assert rows(path) == [
        {"step": "4", "epoch": "0", "train/loss": "2.5", "val/top1": "0.25"},
        {"step": "9", "epoch": "1", "train/loss": "1.5", "val/top1": ""},
    ]


def test_a_resumed_run_keeps_the_table_and_replaces_repeated_steps(path, lease):
    table = CSVTable(path, lease)
    for step in range(6):
        table.log_metrics({"loss": step}, step=step)
    table.finalize("failed")
    resumed = CSVTable(path, lease)  # from a checkpoint at step 3
    resumed.log_metrics({"loss": 30, "new": 1}, step=3)
    resumed.log_metrics({"loss": 40}, step=4)
    resumed.finalize("success")
    assert [(row["step"], row["loss"], row["new"]) for row in rows(path)] == [
        *(("0", "0", ""), ("1", "1", ""), ("2", "2", "")),
        *(("3", "30", "1"), ("4", "40", "")),
    ]


def test_each_value_is_in_the_file_at_once(path, lease):
    table = CSVTable(path, lease)
    table.log_metrics({"loss": 1.0}, step=0)
    assert rows(path) == [{"step": "0", "epoch": "", "loss": "1.0"}]
    table.log_metrics({"loss": 0.5}, step=1)
    table.log_metrics({"top1": 0.25}, step=1)  # a new column for an existing row
    table.log_metrics({"loss": 0.25}, step=2)
    table.log_metrics({"top1": 0.5}, step=2)
    assert [(row["loss"], row["top1"]) for row in rows(path)] == [
        *(("1.0", ""), ("0.5", "0.25"), ("0.25", "0.5")),
    ]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]


def test_a_row_that_a_kill_has_cut_is_left_out(path, lease):
    table = CSVTable(path, lease)
    for step in range(3):
        table.log_metrics({"loss": step}, step=step)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 3)
    assert table.between(-1, 9) == [{"step": 0, "loss": 0}, {"step": 1, "loss": 1}]
    CSVTable(path, lease).log_metrics({"loss": 5}, step=2)
    assert [row["loss"] for row in rows(path)] == ["0", "1", "5"]


def test_a_start_that_has_lost_its_lease_writes_no_more(path, lease):
    lease.acquire()
    table = CSVTable(path, lease)
    table.log_metrics({"loss": 1.0}, step=0)
    Lease(lease.path).acquire()
    table.log_metrics({"loss": 2.0}, step=1)
    assert [row["loss"] for row in rows(path)] == ["1.0"]


def test_a_damaged_row_is_left_out_and_the_file_as_it_was_is_kept(path, lease, capsys):
    table = CSVTable(path, lease)
    for step in range(4):
        table.log_metrics({"loss": step, "top1": step / 4}, step=step)
    whole = path.read_bytes()
    for damaged in (
        b"1,,1,0.2x",
        b"1,,1\xff0.25",
        b'1,,"1,0.25',
        b"1,,1,0.25,7",
        b"x,,1,0.25",
        b"1,,1," + bytes([49]) * 200_000,
        b"\0",
    ):
        path.write_bytes(whole.replace(b"1,,1,0.25", damaged))
        before = path.read_bytes()
        assert [row["step"] for row in CSVTable(path, lease).between(-1, 9)] == [0, 2, 3]
        CSVTable(path, lease).log_metrics({"loss": 5}, step=3)
        assert [row["loss"] for row in rows(path)] == ["0", "2", "5"]
        assert path.with_name("metrics.damaged.csv").read_bytes() == before
        assert f"{path} is damaged (its rows that can be read, 3," in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\n", b"\xff\xfe\n1,2\n", b"loss\n1\n", b"\n\n,\n"])
def test_a_table_without_a_header_is_begun_anew(path, lease, content):
    path.parent.mkdir()
    path.write_bytes(content)
    CSVTable(path, lease).log_metrics({"loss": 5}, step=3)
    assert [row["loss"] for row in rows(path)] == ["5"]


def test_any_byte_may_be_damaged(path, lease):
    table = CSVTable(path, lease)
    for step in range(3):
        table.log_metrics({"loss": step / 3, "val/top1": step / 4}, step=step)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for byte in b'\0\n\r",x9\xff':
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            assert len(CSVTable(path, lease).between(-1, 9)) < 4
        CSVTable(path, lease).log_metrics({"loss": 5.0}, step=3)
        assert rows(path)[-1]["loss"] == "5.0"


def test_a_pipe_in_place_of_the_table_is_refused_and_not_waited_for(path, lease):
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a plain file"):
        CSVTable(path, lease).log_metrics({"loss": 1.0}, step=1)
