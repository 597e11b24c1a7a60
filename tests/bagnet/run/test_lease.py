"""Of two starts of a run, the older one notices that it has lost the lease."""

from __future__ import annotations

import json
import os

import pytest

from bagnet.run.lease import Lease, latest_start


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "starts.jsonl"


def test_the_latest_start_holds_the_lease(path):
    first, second = Lease(path), Lease(path)
    assert first.is_held()
    first.acquire()
    assert first.is_held()
    second.acquire()
    assert not first.is_held()
    assert second.is_held()
    first.acquire()
    assert first.is_held()
    assert not second.is_held()


def test_the_list_describes_each_start(path, monkeypatch):
    Lease(path).acquire()
    for name, value in {"JOB_ID": "7", "RESTART_COUNT": "2", "JOB_NODELIST": "node1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    start = Lease(path).acquire()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["start"] for line in lines] == [1, 2]
    assert start.items() <= lines[1].items()
    assert lines[1]["slurm_job_id"] == "7"
    assert lines[1]["slurm_restart_count"] == 2
    assert {"time", "host", "pid", "git_commit"} <= lines[1].keys()


def test_who_lost_the_lease_says_to_whom(path, monkeypatch):
    lease = Lease(path)
    lease.acquire()
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    Lease(path).acquire()
    assert "was started again" in lease.explain_loss()
    assert "job 12" in lease.explain_loss()


def test_damaged_lines_and_a_torn_one_do_not_matter(path):
    Lease(path).acquire()
    with path.open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"token": ')  # the last one is torn
    lease = Lease(path)
    lease.acquire()
    assert json.loads(path.read_bytes().splitlines()[-1])["start"] == 5
    assert lease.is_held()
    with path.open("ab") as file:
        file.write(b'{"time": "12')  # another start has not written its line to the end
    assert lease.is_held()
    Lease(path).acquire()
    assert not lease.is_held()
    assert "was started again" in lease.explain_loss()


def test_a_list_that_somebody_has_deleted_is_a_lost_lease(path):
    lease = Lease(path)
    lease.acquire()
    path.unlink()
    assert not lease.is_held()
    assert "is gone" in lease.explain_loss()


def test_a_pipe_in_place_of_the_list_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "starts.jsonl")
    with pytest.raises(OSError, match="not a plain file"):
        latest_start(tmp_path / "starts.jsonl")
    with pytest.raises(OSError, match="not a plain file"):
        Lease(tmp_path / "starts.jsonl").acquire()
