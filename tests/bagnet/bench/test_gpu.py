"""`benchmarks/gpu.sh`: every piece is run and reported, whatever happens in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from bagnet.bench import gpu
from bagnet.bench.__main__ import main
from bagnet.bench.gpu import PIECES, StopAfter
from bagnet.bench.lib.piece import Failed, Piece

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.sh"


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    """Rehearses pieces that are given as functions; returns exit code, summary and records."""

    def run(*names: str, **pieces) -> tuple[int, str, dict]:
        for name, piece in pieces.items():
            monkeypatch.setitem(PIECES, name, piece)
        folders = ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "data")]
        code = main(["gpu", "--rehearse", *folders, *(names or pieces)])
        record = json.loads((tmp_path / "out" / "pieces.json").read_text())
        return code, (tmp_path / "out" / "summary.md").read_text(), record

    return run


@pytest.fixture
def piece(tmp_path):
    return Piece("steps", tmp_path, tmp_path / "data", rehearse=True, seconds=100)


def test_a_piece_that_fails_is_reported_and_the_next_one_runs(rehearse, tmp_path, capsys):
    def broken(piece):
        piece.python("a program", "-c", "print('its last words'); raise SystemExit(3)")

    def wrong(piece):
        raise KeyError("compiled")

    def good(piece):
        piece.python("a bench", "-c", "print('its table')", output=piece.table)
        return "fast | very"

    code, summary, record = rehearse(broken=broken, wrong=wrong, good=good)
    assert code == 1
    assert summary.startswith("# 1 piece ok, 2 failed\n")
    assert "A rehearsal on a CPU, whose figures mean nothing: " in summary
    assert ", torch " in summary
    assert "| broken | FAILED | " in summary
    assert "| a program: exit code 3, expected 0 |" in summary
    assert "its last words" in summary
    assert "| KeyError: 'compiled' |" in summary
    assert 'raise KeyError("compiled")' in summary
    assert "| fast \\| very |" in summary
    assert "## good\n\n```\nits table\n```" in summary
    assert [outcome["ok"] for outcome in record.values()] == [False, False, True]
    shown = capsys.readouterr().out
    assert "broken, at most 570 s\n  a program\n  FAILED after " in shown
    assert f"summary: {tmp_path / 'out' / 'summary.md'}" in shown


def test_pieces_of_several_calls_are_in_one_summary(rehearse):
    def fails(piece):
        raise Failed("too hot")

    code, summary, _ = rehearse(first=fails, second=lambda piece: "done")
    assert (code, summary.count("FAILED")) == (1, 1)
    code, summary, record = rehearse("first", first=lambda piece: "cool")
    assert code == 0
    assert summary.startswith("# 2 pieces ok, 0 failed\n")
    assert [record[name]["found"] for name in ("first", "second")] == ["cool", "done"]


def test_a_program_that_takes_too_long_is_killed(tmp_path):
    short = Piece("steps", tmp_path, tmp_path, rehearse=True, seconds=0)
    with pytest.raises(Failed, match="asleep: not done after 1 s"):
        short.python("asleep", "-c", "import time; time.sleep(600)")


def test_programs_get_what_they_need_and_are_logged_whole(piece, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    names = ["WANDB_MODE", "TORCH_COMPILE_DISABLE", "MINE"]
    code = f"import os; print([os.environ[name] for name in {names}])"
    piece.python("a title", "-c", code, variables={"MINE": "yes"})
    command, said = piece.log.read_text().splitlines()
    assert command.startswith(f"$ {sys.executable} -c 'import os;")
    assert said == "['disabled', '1', 'yes']"


def test_sigterm_comes_after_the_step_and_only_once(monkeypatch):
    kill = Mock()
    monkeypatch.setattr(os, "kill", kill)
    for step in (1, 2, 3):
        StopAfter(2).on_train_batch_end(Mock(global_step=step), Mock(), None, None, step - 1)
    kill.assert_called_once_with(os.getpid(), signal.SIGTERM)


def ran(folder: Path, curve: str = "step,train/loss_step\n1,2.0\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text(curve)
    return folder


def test_a_resumed_run_must_be_exact_and_have_the_curve_of_the_whole_one(piece, monkeypatch):
    runs = {"whole": ran(piece.data / "runs/whole"), "stopped": ran(piece.data / "runs/stopped")}
    monkeypatch.setattr(piece, "train", lambda name, *words, **rest: runs[name])
    report = Mock(verdict="exact", restarts=1, problems=[])
    monkeypatch.setattr(gpu, "audit", lambda folder: report)
    assert "the same curve" in gpu._stop(piece)
    ran(runs["stopped"], "step,train/loss_step\n1,2.5\n")
    with pytest.raises(Failed, match="curve of the resumed run differs: step 1"):
        gpu._stop(piece)
    report.restarts = 0
    with pytest.raises(Failed, match="the audit says exact, 0 restarts"):
        gpu._stop(piece)


def test_float16_that_leaves_something_infinite_fails(piece, monkeypatch):
    monkeypatch.setattr(piece, "train", lambda *words: ran(piece.data))
    monkeypatch.setattr(gpu, "not_finite", lambda run: [])
    assert "loss 2 to 2" in gpu._mixed(piece)
    monkeypatch.setattr(gpu, "not_finite", lambda run: ["state_dict.w"])
    with pytest.raises(Failed, match="not finite: state_dict.w"):
        gpu._mixed(piece)


def test_trainings_are_compared_with_their_steps(piece, monkeypatch):
    monkeypatch.setattr(piece, "train", lambda name, *words: name)
    rates = {"plain": 90.0, "compiled": 150.0, "compiled-ddp": 100.0}
    monkeypatch.setattr(gpu, "steady", lambda run: (rates[run], 0.01))
    assert gpu._train(piece).startswith("plain 90 images/s, 1.0% waiting for data; compiled 150 ")
    seconds = {"cudnn-benchmark": [[0.04, 0.04]], "compiled-benchmark": [[0.02], [0.02]]}
    figures = {"settings": {"batch_size": "4"}, "seconds_per_step": seconds}
    (piece.out / "steps-128.json").write_text(json.dumps(figures))
    found = gpu._train(piece)
    assert "plain 90 images/s (90% of the step's 100)" in found
    assert "compiled-ddp 100 images/s (50% of the step's 200)" in found


def test_a_python_without_the_packages_is_one_line(tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    environment = {**os.environ, "BAGNET_PYTHON": str(bare)}
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {bare} lacks the packages in requirements.txt; ")


@pytest.mark.slow
def test_every_piece_works_at_toy_size(tmp_path):
    """What benchmarks/gpu.sh does on a GPU, with other sizes and without compiling."""
    done = subprocess.run(
        [SCRIPT, "--rehearse", "--out", tmp_path / "out", "--data", tmp_path / "data"],
        env={**os.environ, "BAGNET_PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert done.returncode == 0, summary
    assert summary.startswith(f"# {len(PIECES)} pieces ok, 0 failed\n")
    rows = [line.split(" | ") for line in summary.splitlines() if line.startswith("| ")][2:]
    assert [row[0].removeprefix("| ") for row in rows] == list(PIECES)
    assert all(row[1] == "ok" for row in rows)
    for variant in gpu.STEPS:
        assert f"\n {variant} " in summary
    assert summary.count(" of the step's ") == 3
    assert "exit code 143 after step 40" in summary
    assert "finite" in summary
    for name in [*gpu.TRAININGS, "mixed", "sync", "whole", "stopped"]:
        assert (tmp_path / "out" / f"{name}.csv").exists()
