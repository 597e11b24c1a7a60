"""The audit: what its command says."""

import re
import subprocess
import sys

import pytest

from datamodules.audit.__main__ import main
from datamodules.audit.writer import AuditWriter
from tests.datamodules.audit.auditing import REPOSITORY, edit, facts, file, finds, remove, train


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
    assert " ".join(lines[1].split()) == "0 6 of 5004 1,536 0 0 1, 2, 256 exact so far"


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
    edit(run, 200, 0, 11, remove)
    command = [sys.executable, "-m", "datamodules.audit", str(run)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
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
