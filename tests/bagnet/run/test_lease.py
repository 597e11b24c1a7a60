"""Of two copies of a run, the older one notices."""

from __future__ import annotations

import json

import pytest

from bagnet.run.lease import Lease


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "starts.jsonl"


def test_the_latest_claim_holds(path):
    first, second = Lease(path), Lease(path)
    assert first.holds()
    first.take()
    assert first.holds()
    second.take()
    assert not first.holds()
    assert second.holds()
    first.take()
    assert first.holds()
    assert not second.holds()


def test_the_list_says_of_each_start_what_it_was(path, monkeypatch):
    Lease(path).take()
    for name, value in {"JOB_ID": "7", "RESTART_COUNT": "2", "JOB_NODELIST": "node1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    start = Lease(path).take()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["start"] for line in lines] == [1, 2]
    assert start.items() <= lines[1].items()
    assert lines[1]["slurm_job_id"] == "7"
    assert lines[1]["slurm_restart_count"] == 2
    assert {"time", "host", "pid", "git_commit"} <= lines[1].keys()


def test_who_lost_says_to_whom(path, monkeypatch):
    lease = Lease(path)
    lease.take()
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    Lease(path).take()
    assert "was started again" in lease.lost()
    assert "job 12" in lease.lost()
