"""What is killed must resume, and the suite notices whatever a program does wrong then."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.soak import kills
from tests.soak.kills import compared
from tests.soak.kills.strikes import KILL, STOPS, Undisturbed, strike_all
from tests.soak.kills.victims import Victim
from tests.soak.outcomes import CRASH, LIMIT, LOST, SILENT, Row
from tests.soak.programs.started import Programs

GOOD = """
import os, signal, sys, time
from pathlib import Path

def stop(number, frame):
    print(f"stopped by {signal.Signals(number).name}, saved; resume with: the same", flush=True)
    os._exit(128 + number)

for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, stop)
for step in range(8):
    path = Path(f"{step}.txt")
    if path.exists():
        continue
    temporary = Path(".txt.tmp")
    with temporary.open("w") as file:
        file.write(f"{step} " * 10)
        os.fsync(file.fileno())
    os.replace(temporary, path)
    time.sleep(0.002)
"""
FAULTS = {
    "loses what was half-written": (
        GOOD.replace('Path(".txt.tmp")', "path").replace("os.replace(temporary, path)", ""),
        LOST,
        "differs",
    ),
    "leaves its temporary files": (
        GOOD.replace('".txt.tmp"', 'f".{os.getpid()}.tmp"'),
        LOST,
        "left over",
    ),
    "cannot be resumed": (
        GOOD.replace("continue", 'sys.exit("error: there is something already")'),
        SILENT,
        "there is something already",
    ),
    "breaks where it was killed": (
        GOOD.replace("continue", "raise OSError('exists')"),
        CRASH,
        "OSError: exists",
    ),
    "leaves a process": (
        GOOD + "if not os.fork(): os.setsid(); time.sleep(60)\n",
        LIMIT,
        "processes do not end",
    ),
}


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    with Programs(bare=True) as server:
        yield server


def strike(programs: Programs, folder: Path, code: str, signals=(KILL,), times: int = 6) -> Row:
    row = Row("a script")
    victim = Victim("script", ("-c", code), compared.files, 1.0)
    strike_all(Undisturbed(victim, programs, folder), row, signals, times, random.Random(1))
    return row


@pytest.mark.parametrize("signals", [(KILL,), STOPS[:3]])
def test_a_program_that_resumes_is_as_wanted(programs, tmp_path, signals):
    row = strike(programs, tmp_path, GOOD, signals)
    assert (row.tried, row.unwanted) == (6, {})
    assert " ran to their end" in row.measured


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_program_is_found(programs, tmp_path, fault, monkeypatch):
    monkeypatch.setattr("tests.soak.programs.started.SECONDS_TO_END", 1.0)
    code, outcome, detail = FAULTS[fault]
    assert code != GOOD
    row = strike(programs, tmp_path, code)
    assert any(detail in each for each in row.unwanted[outcome]), row.unwanted


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        (GOOD.replace("stopped by", ""), "exit status 1"),
        (
            GOOD.replace("signal.signal(number, stop)", "signal.signal(number, signal.SIG_IGN)"),
            "0 of",
        ),
    ],
)
def test_a_program_that_is_silent_or_deaf_when_it_is_asked_to_stop_is_found(
    programs, tmp_path, code, detail
):
    row = strike(programs, tmp_path, code, STOPS[:3], times=2)
    assert set(row.unwanted) == {SILENT}
    assert detail in row.unwanted[SILENT][0]


def test_one_bit_of_a_checkpoint_is_found():
    weights = {"state_dict": {"a": torch.zeros(3)}, "optimizer_states": [{"momentum": [1.0]}]}
    same = {"state_dict": {"a": torch.zeros(3)}, "optimizer_states": [{"momentum": [1.0]}]}
    assert list(compared.differences(weights, same)) == []
    same["state_dict"]["a"][1] = torch.tensor(1e-45)
    same["optimizer_states"][0]["momentum"][0] = 2.0
    assert list(compared.differences(weights, same)) == [
        ".optimizer_states.0.momentum.0 is 1.0 and 2.0",
        ".state_dict.a differs",
    ]


def test_what_is_left_in_shared_memory_is_found():
    before = {file.name for file in compared.SHARED.iterdir()}
    left = compared.SHARED / "soak-left-over"
    left.touch()
    try:
        assert "soak-left-over" in compared.shared_memory(before)
    finally:
        left.unlink()


@pytest.mark.slow
def test_a_small_part_of_it_is_as_wanted(tmp_path):
    rows = kills.run(tmp_path, 0.1, 1)
    assert [(row.what, row.unwanted) for row in rows if row.unwanted] == []
    assert all(row.tried for row in rows)
