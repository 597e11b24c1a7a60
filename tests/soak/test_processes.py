"""A training that a process leaves ends as promised, and the suite notices if it does not."""

from __future__ import annotations

import signal

import pytest

from tests.soak import processes
from tests.soak.outcomes import CRASH, LIMIT, SILENT
from tests.soak.processes import Case, faults

WORKER = Case("data worker", 0, signal.SIGSTOP, ranks=1)
RANK = Case("rank", 1, signal.SIGKILL)
SAID = "error: rank 1 was killed by SIGKILL, so all ranks end; resume with: python train.py ..."


def test_a_line_with_the_process_and_how_to_resume_is_as_wanted():
    assert list(faults(RANK, 1, f"Seed set to 0\n{SAID}\n", 7)) == []
    assert list(faults(WORKER, 2, "error: process 7, which reads ...; resume with: ...", 7)) == []


@pytest.mark.parametrize(
    ("case", "code", "said", "outcomes"),
    [
        (RANK, 0, SAID, [SILENT]),
        (RANK, None, SAID, [LIMIT]),
        (RANK, 1, f"{SAID}\nTraceback (most recent call last):\nRuntimeError: gloo", [CRASH]),
        (RANK, 1, "", [SILENT]),
        (RANK, 1, SAID.replace("rank 1", "rank 0"), [SILENT]),
        (RANK, 1, SAID.replace("resume with", "try"), [SILENT]),
        (RANK, 1, f"{SAID}\n{SAID}", [SILENT]),
        (WORKER, 2, "error: process 8, which reads ...; resume with: ...", [SILENT]),
        (WORKER, 2, "error: process 7, which reads ...", [SILENT]),
    ],
)
def test_anything_else_is_found(case, code, said, outcomes):
    assert [outcome for outcome, _ in faults(case, code, said, 7)] == outcomes


@pytest.mark.slow
def test_a_small_part_of_it_is_as_wanted(tmp_path):
    rows = processes.run(tmp_path, 0.3, 1)
    assert [(row.what, row.unwanted) for row in rows if row.unwanted] == []
    assert all(row.tried for row in rows)
