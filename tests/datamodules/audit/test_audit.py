"""The audit: runs that are exact are found exact, over any kills and restarts."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.audit.verdict import audit
from datamodules.audit.writer import AuditWriter
from tests.datamodules.audit.auditing import BATCH, REPOSITORY, SAMPLES, STEPS, facts, file, train


def test_a_file_has_a_header_and_a_line_a_step(tmp_path):
    folder = tmp_path / "a" / "b"
    writer = AuditWriter(folder, 7, 1, 2, facts())
    writer.close()
    assert not folder.exists()  # Lightning builds loaders that it never iterates
    writer.record(0, 0, [4, 5, 6])
    writer.record(0, 1, [7, 8, 9], [8])
    again = AuditWriter(folder, 7, 1, 2, facts())
    again.record(0, 2, [1, 2, 3])
    assert [json.loads(line) for line in file(folder, 7, 1).read_text().splitlines()] == [
        {"session": 7, "rank": 1, "world_size": 2, **facts()},
        {"epoch": 0, "step": 0, "ids": [4, 5, 6]},
        {"epoch": 0, "step": 1, "ids": [7, 8, 9], "unreadable": [8]},
        {"epoch": 0, "step": 2, "ids": [1, 2, 3]},
    ]


def test_a_record_is_one_write_and_one_that_is_cut_short_is_completed(tmp_path, monkeypatch):
    write, written = os.write, []

    def short(descriptor, data):
        written.append(write(descriptor, data[: limits.pop()]))
        return written[-1]

    writer = AuditWriter(tmp_path, 1, 0, 1, facts())
    monkeypatch.setattr(os, "write", short)
    limits = [10_000]
    writer.record(0, 0, list(range(BATCH)))
    limits = [10_000, 5, 1]
    writer.record(0, 1, list(range(BATCH)))
    assert len(written) == 4
    assert file(tmp_path, 1, 0).read_text().splitlines()[2] == (
        '{"epoch":0,"step":1,"ids":[0,1,2,3,4,5]}'
    )


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left.*make room.*1-rank00000.jsonl") as info:
        AuditWriter(tmp_path, 1, 0, 1, facts()).record(0, 0, [1])
    assert info.value.errno == 28


def test_records_survive_a_sigkill(tmp_path):
    script = f"""
import os, signal, sys
from pathlib import Path
from datamodules.audit.writer import AuditWriter
assert "rich" not in sys.modules
writer = AuditWriter(Path({str(tmp_path)!r}), 5, 0, 1, {facts(num_samples=6000)!r})
for step in range(700):
    writer.record(0, step, list(range(step * 6, step * 6 + 6)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY)
    assert done.returncode == -signal.SIGKILL
    (epoch,) = audit(tmp_path).epochs
    assert (epoch.steps, epoch.samples, epoch.verdict) == (700, 4200, "exact so far")


@st.composite
def histories(draw):
    """Starts of a run, as (first place, last place of each rank, cut), and their accumulation."""
    sessions, done = [], 0
    for _ in range(draw(st.integers(1, 5))):
        begin = draw(st.one_of(st.just(done), st.integers(0, done)))  # a checkpoint of some time
        steps = draw(st.integers(0, 2 * STEPS + 2))
        ranks = draw(st.sampled_from([1, 2, 3, 6]))
        ends = [begin + steps + draw(st.integers(0, 3)) for _ in range(ranks)]
        sessions.append((begin, ends, draw(st.booleans())))
        done = min(ends)
    return sessions, draw(st.sampled_from([1, 2, 4, 8]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(histories())
def test_any_history_of_kills_and_restarts_is_exact(history):
    sessions, accumulate = history
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (begin, ends, cut) in enumerate(sessions, start=99):
            train(folder, number, begin, ends, accumulate=accumulate)
            for rank in range(len(ends)):
                path = file(folder, number, rank)
                if cut and (rank + number) % 2 and path.exists():
                    path.write_text(path.read_text() + '{"epoch":9,"step":3,"ids":[1,2')
        started = [(begin, ends) for begin, ends, _ in sessions if max(ends) > begin]
        if not started:
            with pytest.raises(ValueError, match="has no records"):
                audit(folder)
            return
        report = audit(folder)

    done, lost, ranks = min(started[-1][1]), {}, {}
    for number, (begin, ends) in enumerate(started):
        stop = min((later for later, _ in started[number + 1 :]), default=done)
        for place in range(begin, max(ends)):
            if place < stop:
                ranks.setdefault(place // STEPS, {})[len(ends)] = None
            elif number < len(started) - 1:
                lost[place // STEPS] = lost.get(place // STEPS, 0) + 1
    assert not report.problems
    assert report.restarts == len(started) - 1
    assert report.verdict == ("exact" if done and done % STEPS == 0 else "exact so far")
    assert len(report.epochs) == -(-done // STEPS)
    for number, epoch in enumerate(report.epochs):
        steps = min(STEPS, done - number * STEPS)
        assert (epoch.epoch, epoch.steps, epoch.length) == (number, steps, STEPS)
        assert epoch.samples == steps * BATCH
        assert epoch.left_out == (SAMPLES - STEPS * BATCH if steps == STEPS else None)
        assert epoch.redone == lost.get(number, 0)
        assert epoch.world_sizes == tuple(ranks[number])
        assert epoch.verdict == ("exact" if steps == STEPS else "exact so far")


def test_a_run_that_begins_again_takes_the_place_of_everything_before(run):
    train(run, 300, 0, (16,), seed=4)
    report = audit(run)
    assert report.verdict == "exact"
    assert report.world_sizes == (1,)
    assert [epoch.redone for epoch in report.epochs] == [8, 6 + 6]


def test_what_a_lost_session_did_wrong_does_not_matter(tmp_path):
    train(tmp_path, 100, 0, (6,))
    train(tmp_path, 200, 2 * STEPS, (20,), seed=4)  # epoch 1 is lacking
    train(tmp_path, 300, 5, (7,))
    report = audit(tmp_path)
    assert report.verdict == "exact so far"
    assert [(epoch.steps, epoch.redone) for epoch in report.epochs] == [(7, 1)]


def test_unreadable_samples_are_counted_and_are_no_fault(tmp_path):
    train(tmp_path, 1, 0, (16, 16), unreadable=range(20, 52))
    report = audit(tmp_path)
    assert report.verdict == "exact"
    assert all(32 - 4 <= epoch.unreadable <= 32 for epoch in report.epochs)


def test_whole_windows_of_accumulation_are_an_epoch(tmp_path):
    train(tmp_path, 1, 0, (12,), accumulate=3)
    assert [(e.length, e.left_out, e.verdict) for e in audit(tmp_path).epochs] == [
        (6, 16, "exact"),
        (6, 16, "exact"),
    ]


def test_a_run_that_continues_while_it_is_read_is_read_as_it_was(tmp_path):
    train(tmp_path, 1, 0, (10, 9))
    written = []

    def advance(count):  # the file of rank 0 was read, and that of rank 1 not yet
        if not written:
            train(tmp_path, 1, 9, (40, 40))
        written.append(count)

    report = audit(tmp_path, advance)
    assert [epoch.steps for epoch in report.epochs] == [8, 1]
    assert report.verdict == "exact so far"
