"""The audit: runs that are exact are found exact over kills and restarts, and each lie is found."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.audit.__main__ import main
from datamodules.audit.verdict import audit
from datamodules.audit.writer import AuditWriter
from datamodules.plan import TrainPlan

COUNTS = (13, 1, 30, 8)
SAMPLES = sum(COUNTS)
BATCH = 6
STEPS = 8  # and 4 samples are left out of each epoch
REPOSITORY = Path(__file__).parents[2]


def facts(**others):
    return {
        "num_samples": SAMPLES,
        "global_batch": BATCH,
        "accumulate": 1,
        "seed": 3,
        "dataset": "d" * 64,
        **others,
    }


def train(folder, session, begin, ends, unreadable=(), **others):
    """A start of the run at step `begin` of all epochs, with a rank for each of the `ends`."""
    own = facts(**others)
    length = SAMPLES // (BATCH * own["accumulate"]) * own["accumulate"]
    for rank, end in enumerate(ends):
        writer = AuditWriter(folder, session, rank, len(ends), own)
        for epoch, step in (divmod(place, length) for place in range(begin, end)):
            plan = TrainPlan(
                COUNTS,
                seed=own["seed"],
                epoch=epoch,
                global_batch=BATCH,
                streams=2,
                accumulate=own["accumulate"],
            )
            ids = plan.batch(step, rank, len(ends)).tolist()
            writer.record(epoch, step, ids, [i for i in ids if i in unreadable])
        writer.close()


def file(folder, session, rank):
    return folder / f"{session}-rank{rank:05d}.jsonl"


@pytest.fixture
def run(tmp_path):
    """Two epochs and 3 steps; killed in step 5 of epoch 1, resumed at its step 2 on 3 ranks."""
    train(tmp_path, 100, 0, (14, 13))
    train(tmp_path, 200, 10, (19, 19, 19))
    return tmp_path


def edit(folder, session, rank, place, change):
    """Change the record of a step; what `change` returns takes its place."""
    path = file(folder, session, rank)
    header, *lines = path.read_text().splitlines(keepends=True)
    epoch, step = divmod(place, STEPS)
    (number,) = (
        i for i, line in enumerate(lines) if line.startswith(f'{{"epoch":{epoch},"step":{step},')
    )
    changed = change(json.loads(lines[number]))
    if not isinstance(changed, str):
        changed = json.dumps(changed) + "\n"
    lines[number] = changed
    path.write_text(header + "".join(lines))
    return number + 2


def remove(record):
    return ""


def replace_first(sample):
    def change(record):
        return {**record, "ids": [sample, *record["ids"][1:]]}

    return change


def finds(folder, capsys, pattern):
    """The command says this, and exits with 1; returns all it says."""
    assert main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert re.search(pattern, out), out
    assert out.endswith("NOT EXACT\n")
    return out


# --- what is written ---------------------------------------------------------------------------


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


def test_a_record_is_one_write_and_one_that_is_cut_short_goes_on(tmp_path, monkeypatch):
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


def test_a_record_costs_microseconds(tmp_path):
    writer, ids = AuditWriter(tmp_path, 1, 0, 1, facts()), list(range(10**6, 10**6 + 256))
    begin = time.process_time()
    for step in range(1000):
        writer.record(0, step, ids)
    assert time.process_time() - begin < 0.5


# --- what is exact -----------------------------------------------------------------------------


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


@settings(max_examples=250, deadline=None, derandomize=True)
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


def test_a_run_that_goes_on_meanwhile_is_read_as_it_was(tmp_path):
    train(tmp_path, 1, 0, (10, 9))
    written = []

    def advance(count):  # the file of rank 0 was read, and that of rank 1 not yet
        if not written:
            train(tmp_path, 1, 9, (40, 40))
        written.append(count)

    report = audit(tmp_path, advance)
    assert [epoch.steps for epoch in report.epochs] == [8, 1]
    assert report.verdict == "exact so far"


# --- what is not -------------------------------------------------------------------------------


def test_a_sample_that_comes_again_is_found(run, capsys):
    sample = int(json.loads(file(run, 100, 0).read_text().splitlines()[3])["ids"][1])  # step 2
    edit(run, 100, 1, 5, replace_first(sample))
    finds(
        run,
        capsys,
        rf"epoch 0: 1 sample more than once: {sample} in step 2 \(session 100, rank 0\) and step 5 "
        r"\(session 100, rank 1\)\n",
    )
    assert [epoch.verdict for epoch in audit(run).epochs] == ["NOT EXACT", "exact", "exact so far"]


def test_a_sample_that_comes_again_after_a_restart_is_found(run, capsys):
    sample = int(json.loads(file(run, 100, 0).read_text().splitlines()[9])["ids"][0])  # 1, 0
    edit(run, 200, 2, 12, replace_first(sample))
    finds(run, capsys, rf"epoch 1: 1 sample .*{sample} in step 0 .*100.* and step 4 \(session 200")


@pytest.mark.parametrize("step", [3, 7])
def test_a_step_that_is_done_twice_is_found(tmp_path, capsys, step):
    train(tmp_path, 100, 0, (8, 8))
    path = file(tmp_path, 100, 1)
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[1 + step])
    what = f"has epoch 0, step {step} after epoch 0, step 7"
    finds(tmp_path, capsys, rf"100-rank00001.jsonl, line 10: {what}\n")


def test_a_sample_that_is_lacking_is_found(run, capsys):
    edit(run, 200, 1, 12, lambda record: {**record, "ids": record["ids"][1:]})
    finds(run, capsys, r"epoch 1, step 4: 5 samples in a global batch of 6, session 200\n")


def test_a_missing_step_is_found(run, capsys):
    for rank in range(3):
        for place in (12, 13):
            edit(run, 200, rank, place, remove)
    out = finds(run, capsys, r"epoch 1, steps 4 to 5: no records\n")
    assert re.search(r"1 +6 of 8 +36 +16 ", out)


def test_the_missing_record_of_a_rank_is_found(run, capsys):
    edit(run, 200, 2, 12, remove)
    finds(run, capsys, r"epoch 1, step 4: no record of rank 2, session 200\n")


def test_the_missing_first_record_of_a_rank_after_a_restart_is_found(run, capsys):
    edit(run, 200, 1, 10, remove)
    finds(run, capsys, r"epoch 1, step 2: no record of rank 1, session 200\n")


def test_the_missing_file_of_a_rank_is_found(run, capsys):
    file(run, 100, 1).unlink()
    out = finds(run, capsys, r"epoch 0, steps 0 to 7: no record of rank 1, session 100\n")
    assert "epoch 1, steps 0 to 1: no record of rank 1, session 100\n" in out


def test_a_rank_that_stops_recording_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (20, 11))
    finds(tmp_path, capsys, r"epoch 1, step 3: no record of rank 1, session 100, .* for 9 steps\n")


def test_a_restart_that_leaves_a_gap_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (10, 9))
    train(tmp_path, 200, 12, (16,))
    out = finds(tmp_path, capsys, r"epoch 1, steps 2 to 3: no records, a gap before session 200\n")
    assert "epoch 1, step 1: no record of rank 1, session 100\n" in out


def test_a_run_whose_beginning_was_not_recorded_is_found(tmp_path, capsys):
    train(tmp_path, 100, 2 * STEPS + 1, (24,))
    out = finds(tmp_path, capsys, r"epochs 0 to 1: no records\n")
    assert "epoch 2, step 0: no records, a gap before session 100\n" in out


def test_an_epoch_that_is_cut_short_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (16, 16))
    for rank in range(2):
        for place in (6, 7):
            edit(tmp_path, 100, rank, place, remove)
    out = finds(tmp_path, capsys, r"epoch 0, steps 6 to 7: no records\n")
    assert re.search(r"0 +6 of 8 .*NOT EXACT", out)


def test_an_epoch_that_is_left_out_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (24,))
    for place in range(8, 16):
        edit(tmp_path, 100, 0, place, remove)
    finds(tmp_path, capsys, r"epoch 1: no records\n")


def test_an_epoch_that_is_too_long_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (9,))
    edit(tmp_path, 100, 0, 8, lambda record: {**record, "epoch": 0, "step": 8})
    finds(tmp_path, capsys, r"epoch 0, step 8: an epoch has 8 steps\n")


@pytest.mark.parametrize("sample", [-1, SAMPLES, 10**12])
def test_a_sample_that_does_not_exist_is_found(run, capsys, sample):
    edit(run, 200, 0, 10, replace_first(sample))
    finds(run, capsys, rf"epoch 1: 1 sample not from 0 to 51: {sample} in step 2 \(session 200")


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 4), ("accumulate", 2), ("dataset", "e" * 64)],
)
def test_a_restart_with_another_order_is_found(tmp_path, capsys, name, value):
    train(tmp_path, 100, 0, (9,))
    train(tmp_path, 200, 8, (16,), **{name: value})
    finds(tmp_path, capsys, rf"session 200 goes on with {name} {value} where session 100 had ")


@pytest.mark.parametrize(("name", "value"), [("num_samples", 53), ("global_batch", 5)])
def test_a_restart_with_other_sizes_is_found(run, capsys, name, value):
    for rank in range(3):
        path = file(run, 200, rank)
        header, *lines = path.read_text().splitlines(keepends=True)
        path.write_text(json.dumps({**json.loads(header), name: value}) + "\n" + "".join(lines))
    finds(run, capsys, rf"session 200 goes on with {name} {value} where session 100 had ")


@pytest.mark.parametrize(("name", "value"), [("seed", 5), ("world_size", 2)])
def test_ranks_that_disagree_are_found(run, capsys, name, value):
    path = file(run, 200, 1)
    path.write_text(path.read_text().replace(f'"{name}":3', f'"{name}":{value}'))
    finds(run, capsys, rf"session 200: rank 1 has {name} {value} and rank 0 has 3\n")


@pytest.mark.parametrize(
    "text",
    [
        "{\n",
        "\0\0\0\n",
        "7\n",
        "[]\n",
        '{"epoch":1,"step":3}\n',
        '{"epoch":-1,"step":3,"ids":[1]}\n',
        '{"epoch":1,"step":3,"ids":[1.5]}\n',
        '{"epoch":1,"step":3,"ids":[[1],2]}\n',
        '{"epoch":1,"step":3,"ids":[[1],[2]]}\n',
        '{"epoch":1,"step":99999999999999999999,"ids":[1]}\n',
    ],
)
def test_a_line_that_cannot_be_read_is_named(run, capsys, text):
    line = edit(run, 200, 0, 11, lambda record: text)
    out = finds(run, capsys, rf"200-rank00000.jsonl, line {line}: cannot be read\n")
    assert "epoch 1, step 3: no record of rank 0, session 200\n" in out


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (r"\{", "("),
        (r".*", "[]"),
        (r'"rank":1', '"rank":"1"'),
        (r'"world_size":3', '"world_size":1'),
        (r'"world_size":3', '"world_size":1000000000000'),
        (r'"accumulate":1', '"accumulate":0'),
        (r'"accumulate":1', '"accumulate":9'),
        (r'"num_samples":52', '"num_samples":52.0'),
        (r',"seed":3', ""),
    ],
)
def test_a_header_that_makes_no_sense_is_named(run, capsys, part, other):
    path = file(run, 200, 1)
    header, _, lines = path.read_text().partition("\n")
    path.write_text(re.sub(part, other, header, count=1) + "\n" + lines)
    finds(run, capsys, r"200-rank00001.jsonl, line 1: is no header of this file")


def test_the_header_of_another_file_is_named(run, capsys):
    file(run, 200, 3).write_bytes(file(run, 200, 2).read_bytes())
    finds(run, capsys, r"200-rank00003.jsonl, line 1: is no header of this file")


# --- the command -------------------------------------------------------------------------------


def test_the_command_prints_a_table(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([str(run)]) == 0
    captured = capsys.readouterr()
    assert [line.split() for line in captured.out.splitlines()] == [
        ["epoch", "steps", "samples", "left", "out", "unreadable", "redone", "ranks", "verdict"],
        ["0", "8", "of", "8", "48", "4", "0", "0", "2", "exact"],
        ["1", "8", "of", "8", "48", "4", "0", "4", "2,", "3", "exact"],
        ["2", "3", "of", "8", "18", "0", "0", "3", "exact", "so", "far"],
        ["3", "epochs,", "1", "restart,", "world", "sizes", "2,", "3:", "exact", "so", "far"],
    ]
    assert not captured.err


def test_an_imagenet_run_fits_into_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    own = facts(num_samples=1_281_167, global_batch=256)
    for session, ranks, begin in ((1, 1, 0), (2, 2, 2), (3, 256, 4)):
        for rank in range(ranks):
            writer, share = AuditWriter(tmp_path, session, rank, ranks, own), 256 // ranks
            for step in range(begin, begin + 2):
                first = 256 * step + share * rank
                writer.record(0, step, range(first, first + share))
            writer.close()
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split() == [
        "0",
        "6",
        "of",
        "5004",
        "1,536",
        "0",
        "0",
        "1,",
        "2,",
        "256",
        "exact",
        "so",
        "far",
    ]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_terminal_gets_twenty_problems_and_a_pipe_all(tmp_path, capsys, monkeypatch, is_terminal):
    train(tmp_path, 1, 0, (200,))
    for place in range(0, 100, 2):
        edit(tmp_path, 1, 0, place, remove)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    out = finds(tmp_path, capsys, "epoch 0, step 2: no records")
    assert out.count(": no records") == (20 if is_terminal else 50)
    assert ("and 30 more" in out) == is_terminal


def test_a_process_prints_the_same(run):
    def process():
        return subprocess.run(
            [sys.executable, "-m", "datamodules.audit", str(run)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "80"},
        )

    done = process()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("3 epochs, 1 restart, world sizes 2, 3: exact so far\n")
    edit(run, 200, 0, 11, remove)
    done = process()
    assert (done.returncode, done.stderr) == (1, "")
    assert "epoch 1, step 3: no record of rank 0, session 200\n" in done.stdout


def test_nothing_to_check_is_an_error_that_says_where_to_look(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert re.match(
        r"error: no such folder: .*nowhere; .*--data.audit_dir", capsys.readouterr().err
    )
    file(tmp_path, 1, 0).write_text('{"session":1,"ra')  # killed in the first write
    assert main([str(tmp_path)]) == 2
    assert re.match(r"error: .* has no records: .*--data.audit_dir", capsys.readouterr().err)


def test_the_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python -m datamodules.audit audit/" in capsys.readouterr().out
