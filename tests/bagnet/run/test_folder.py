"""A run's folder: its name, and the checkpoint to resume from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bagnet.run.folder import Run
from datamodules.common.files import replacing


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Run:
    return Run("mine")


@pytest.fixture
def finished(run: Run) -> Run:
    save(run.last)
    return run


def save(path: Path) -> None:
    with replacing(path) as temporary:
        torch.save({"weights": torch.arange(1000.0)}, temporary)


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden", "/etc", "a b"])
def test_a_name_that_leaves_the_folder_of_runs_is_refused(name):
    with pytest.raises(ValueError, match="cannot name a folder"):
        Run(name)


def test_a_name_is_short_enough_for_wandb():
    with pytest.raises(ValueError, match="--name of 120 characters is too long"):
        Run("x" * 120)


def test_a_new_run_needs_a_free_folder(run):
    run.refuse_to_overwrite()


def test_a_folder_with_a_run_is_not_overwritten(finished):
    with pytest.raises(ValueError, match=r"runs/mine already holds a run.*--resume auto.*--name"):
        finished.refuse_to_overwrite()


def test_auto_resumes_the_last_checkpoint_or_starts_anew(run):
    assert run.checkpoint_to_resume("auto") is None
    save(run.last)
    assert run.checkpoint_to_resume("auto") == run.last


def flip(path: Path) -> None:
    """Flip one bit in the middle of the weights."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 100] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(finished, capsys, damage):
    finished.keep_previous()
    save(finished.last)
    damage(finished.last)
    assert finished.checkpoint_to_resume("auto") == finished.previous
    assert "runs/mine/checkpoints/last.ckpt is damaged" in capsys.readouterr().err
    damage(finished.previous)
    with pytest.raises(ValueError, match="no whole checkpoint; delete runs/mine"):
        finished.checkpoint_to_resume("auto")


def test_a_save_that_is_interrupted_leaves_a_checkpoint(finished):
    for _ in range(2):
        finished.keep_previous()
        assert finished.last.read_bytes() == finished.previous.read_bytes()


def test_a_file_is_resumed_if_it_exists_and_is_whole(run, tmp_path):
    with pytest.raises(ValueError, match=r"--resume other.ckpt: no such file"):
        run.checkpoint_to_resume("other.ckpt")
    save(Path("other.ckpt"))
    assert run.checkpoint_to_resume("other.ckpt") == Path("other.ckpt")
    cut(Path("other.ckpt"))
    with pytest.raises(ValueError, match=r"other.ckpt is not a checkpoint, or it is incomplete"):
        run.checkpoint_to_resume("other.ckpt")
