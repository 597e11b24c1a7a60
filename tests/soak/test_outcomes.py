import json
import subprocess
import sys

import pytest

from tests.soak import __main__ as soak
from tests.soak.outcomes import CRASH, LIMIT, LOST, Row, details, table


def test_the_table_counts_what_must_not_happen():
    row = Row("tars", 2000, "")
    row.add(CRASH, "KeyError in scan.py")
    row.add(CRASH, "KeyError in scan.py")
    row.add(LOST, "a shard")
    assert table([row]).splitlines()[2] == "| tars | 2,000 | 2 | 0 | 0 | 1 | 0 |  |"
    first, second = details([row])
    assert first == f"tars: {CRASH}: KeyError in scan.py (2 times)"
    assert second == f"tars: {LOST}: a shard"


def test_an_unknown_outcome_is_a_fault_of_the_suite():
    with pytest.raises(AssertionError):
        Row("tars").add("typo", "")


def test_a_part_without_a_result_counts(tmp_path):
    (tmp_path / "fuzz.log").write_text("Traceback\nKeyError: 3\n")
    (tmp_path / "kills.log").write_text("")
    (tmp_path / "disks.json").write_text(json.dumps([Row("full", 3).as_json()]))
    (fuzz,), (kills,), (disks,) = (
        soak._rows(part, tmp_path) for part in ("fuzz", "kills", "disks")
    )
    assert fuzz.unwanted == {CRASH: ["no result: KeyError: 3"]}
    assert list(kills.unwanted) == [LIMIT]
    assert (disks.tried, disks.unwanted) == (3, {})


def test_all_parts_run_and_one_unwanted_outcome_is_the_exit_status(tmp_path, monkeypatch, capsys):
    found = {"fuzz": {}, "kills": {}, "disks": {}}

    def start(part, share, seed, out):
        text = json.dumps([Row(part, 1, unwanted=found[part]).as_json()])
        (out / f"{part}.json").write_text(text)
        return subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)

    monkeypatch.setattr(soak, "PARTS", tuple(found))
    monkeypatch.setattr(soak, "_start", start)
    assert soak.run_all(1.0, 0, tmp_path / "fine") == 0
    found["disks"] = {LOST: ["a shard"]}
    assert soak.run_all(1.0, 0, tmp_path / "lost") == 1
    assert "disks: lost or changed: a shard" in capsys.readouterr().out
    rows = (tmp_path / "lost" / "table.md").read_text().splitlines()[2:5]
    assert [row.split(" | ")[0] for row in rows] == [f"| {part}" for part in found]
