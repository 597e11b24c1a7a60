"""Measuring on several processes: the same rows, and what becomes of them when one is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bagnet.experiments.measuring import measure as measuring
from bagnet.experiments.measuring import processes
from tests.bagnet.experiments import noted
from tests.bagnet.experiments.noted import NOTES, measure, notes, same

DEADLINE = 180  # seconds


def start(command: list[str], *more: str) -> subprocess.Popen:
    arguments = [sys.executable, noted.__file__, "noted", *command, *more]
    root = str(Path(measuring.__file__).parents[3])
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As in a terminal: what a shell starts with & ignores Ctrl-C, and so would this.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": root},
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("limit", [(), ("--limit", "5")])
def test_every_process_has_its_share_of_the_parts(limit, command, tmp_path, monkeypatch):
    """Also if each model has one part. Here, the processes are calls, one after the other."""
    monkeypatch.setattr(measuring, "PART", 10)
    alone = measure(command, *limit)
    shutil.rmtree(tmp_path / "out")

    def one_by_one(job, devices):
        for rank in reversed(range(len(devices))):
            before, added = len(notes(tmp_path)), []
            processes.work(job, rank, devices, added.append)
            yield sum(added)
            assert len(notes(tmp_path)) > before

    monkeypatch.setattr(processes, "_in_processes", one_by_one)
    assert same(measure(command, *limit, "--processes", "2"), alone)


@pytest.mark.slow
def test_two_processes_give_the_same_rows(command, tmp_path):
    alone = measure(command, "--limit", "5")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / NOTES).unlink()
    assert same(measure(command, "--limit", "5", "--processes", "2"), alone)
    assert len({pid for _, pid in notes(tmp_path)} - {str(os.getpid())}) == 2


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_parts_that_are_left(command, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART", 10)
    expected = measure(command)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / NOTES).unlink()
    parts = tmp_path / "out" / "noted" / "parts" / "bagnet9"
    process = start(command, "--processes", "2", "--seconds", "0.2")
    wait_for(lambda: len(list(parts.glob("part-*"))) >= 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for_end({int(pid) for _, pid in notes(tmp_path)})
    whole = list(parts.glob("part-*"))
    (tmp_path / NOTES).unlink()
    assert same(measure(command), expected)
    assert len(notes(tmp_path)) == 22 + 22 - 4 * len(whole)  # 1, 4, 4 and 1 of 10 images
    assert not parts.parent.exists()


def wait_for_end(pids: set[int]) -> None:
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_quietly(command, tmp_path):
    process = start(command, "--processes", "2", "--seconds", "0.5")
    wait_for(lambda: len({pid for _, pid in notes(tmp_path)}) == 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command resumes" in err
    wait_for_end({int(pid) for _, pid in notes(tmp_path)})


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_with_one_message(command, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART", 10)

    def kill_one() -> None:
        wait_for(lambda: len({pid for _, pid in notes(tmp_path)}) == 2)
        os.kill(int(notes(tmp_path)[0][1]), signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with pytest.raises(ValueError, match="a process has died.*the same command resumes"):
        measure(command, "--processes", "2", "--seconds", "0.5")
    killer.join(DEADLINE)
    wait_for_end({int(pid) for _, pid in notes(tmp_path)})


@pytest.mark.slow
def test_the_error_of_a_process_is_that_of_the_command(command, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        measure(command, "--notes", str(tmp_path / "nowhere"), "--processes", "2")
