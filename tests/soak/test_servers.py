"""A few misbehaving servers; and what must not come of one is counted in the right column."""

from __future__ import annotations

import threading

import pytest

from tests.soak import servers
from tests.soak.commands import Ended, Memory, call
from tests.soak.outcomes import CRASH, LIMIT, LOST, SILENT
from tests.soak.servers import MEGABYTES, OTHER, Attempt, row_of

FINE = Ended(0, "memory: 1.0 MB\n", 1.0)
REFUSED = Ended(2, "error: cannot read http://127.0.0.1:1/a: HTTP 503\nmemory: 1.0 MB\n", 1.0)


def test_a_few_servers_do_no_harm(tmp_path):
    rows = servers.run(tmp_path, 0.02, seed=1)
    assert sum(row.tried for row in rows) == 9
    assert not [row for row in rows if row.unwanted]


@pytest.mark.parametrize(
    ("ended", "again", "outcome"),
    [
        (Ended(OTHER, "", 1.0), FINE, LOST),
        (REFUSED, REFUSED, LOST),
        (REFUSED, Ended(OTHER, "", 1.0), LOST),
        (Ended(None, "", 30.0), FINE, LIMIT),
        (Ended(0, f"memory: {MEGABYTES + 1} MB\n", 1.0), FINE, LIMIT),
        (Ended(1, "Traceback\nKeyError: 3\n", 1.0), FINE, CRASH),
        (Ended(-9, "", 1.0), FINE, CRASH),
        (Ended(2, "error: something is wrong\n", 1.0), FINE, SILENT),
        (Ended(2, "", 1.0), FINE, SILENT),
    ],
)
def test_what_must_not_be_is_counted(ended, again, outcome):
    assert list(row_of("shards", [Attempt("shards", "x", ended, again)]).unwanted) == [outcome]


def test_right_bytes_and_a_refusal_are_as_wanted():
    attempts = [Attempt("shards", "x", ended, FINE) for ended in (FINE, REFUSED)]
    row = row_of("shards", attempts)
    assert (row.tried, row.unwanted) == (2, {})
    assert row.measured == "1 refused; at most 1.0 s, 1 MB"
    assert row_of("weights", attempts).tried == 0


def eat() -> int:
    memory = Memory()
    assert len(bytearray(b"x") * 100_000_000) == 100_000_000
    print(f"memory: {memory.grown():.1f} MB")
    return 0


def hang() -> int:
    print("waiting")
    return threading.Event().wait()


def test_memory_and_time_of_a_reader_are_measured(tmp_path):
    (tmp_path / "work").mkdir()
    assert 90 < call(eat, tmp_path / "work").grown < 200
    hung = call(hang, tmp_path / "work", seconds=2.0)
    assert hung.code is None
    assert hung.fault("") == (LIMIT, f"no end within {hung.seconds:.0f} s, {hung.last}")
