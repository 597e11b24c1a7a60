from __future__ import annotations

from pathlib import Path

import pytest

from bagnet.runs import Run


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Run:
    return Run("mine")


@pytest.fixture
def finished(run: Run) -> Run:
    run.checkpoints.mkdir(parents=True)
    run.last.write_bytes(b"")
    return run


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden", "/etc", "a b"])
def test_a_name_that_leaves_the_folder_of_runs_is_refused(name):
    with pytest.raises(ValueError, match="cannot name a folder"):
        Run(name)


def test_a_new_run_needs_a_free_folder(run):
    run.refuse_to_overwrite()


def test_a_folder_with_a_run_is_not_overwritten(finished):
    with pytest.raises(ValueError, match=r"runs/mine already holds a run.*--resume auto.*--run"):
        finished.refuse_to_overwrite()


def test_auto_resumes_the_last_checkpoint_or_starts_anew(run):
    assert run.checkpoint_to_resume("auto") is None
    run.checkpoints.mkdir(parents=True)
    run.last.write_bytes(b"")
    assert run.checkpoint_to_resume("auto") == run.last


def test_a_file_is_resumed_if_it_exists(run, tmp_path):
    with pytest.raises(ValueError, match=r"--resume other.ckpt: no such file"):
        run.checkpoint_to_resume("other.ckpt")
    Path("other.ckpt").write_bytes(b"")
    assert run.checkpoint_to_resume("other.ckpt") == Path("other.ckpt")


def test_the_wandb_id_lives_as_long_as_the_run(run):
    first = run.wandb_id(resuming=False)
    assert run.wandb_id(resuming=True) == first
    assert run.wandb_id(resuming=False) != first  # a new run in its place is another one
