"""The best checkpoint is that of the epoch with the best validation, and costs no second write."""

from __future__ import annotations

import math

import pytest
import torch

from bagnet.run.folder import Run
from tests.bagnet.run.fitting import fit, step

SHORT = {"limit_train_batches": 2, "limit_val_batches": 1}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


def best(run: Run) -> int | None:
    """The step of the best checkpoint; None if there is none."""
    return step(run.best) if run.best.exists() else None


@pytest.mark.parametrize(
    ("scores", "options", "steps"),
    [
        ((0.1, 0.3, 0.2, 0.3), {}, 4),
        ((math.nan, 0.2, math.nan), {}, 4),
        ((math.nan, math.nan), {}, None),
        ((0.3, 0.2), {"check_val_every_n_epoch": 2}, 4),
        ((0.1, 0.3, 0.2), {"val_check_interval": 2, "limit_train_batches": 3}, 6),
        ((), {"limit_val_batches": 0}, None),
    ],
)
def test_the_best_checkpoint_is_the_last_of_the_epoch_with_the_best_validation(
    run, scores, options, steps
):
    epochs = options.get("check_val_every_n_epoch", 1) * len(scores)
    defaults = {"max_epochs": max(1, epochs), **SHORT}
    fit(run, 60.0, scores=scores, **{**defaults, **options})
    assert best(run) == steps


def test_the_best_checkpoint_is_the_same_file_as_the_last_one(run):
    fit(run, 60.0, scores=(0.1, 0.2), **SHORT)
    assert run.best.samefile(run.last)
    assert step(run.previous) == 2
    fit(run, 60.0, scores=(0.1,), max_epochs=3, **SHORT, resume=run.last)
    assert (step(run.last), best(run)) == (6, 4)  # the resumed run knows the best score
    assert run.best.samefile(run.previous)


def test_in_another_folder_the_best_checkpoint_begins_anew(run):
    fit(run, 60.0, scores=(0.1, 0.2), **SHORT)
    other = Run("other")
    fit(other, 60.0, scores=(0.1,), max_epochs=3, **SHORT, resume=run.last)
    assert best(other) == 6


def test_a_run_of_version_0_2_can_be_resumed(run):
    fit(run, 60.0, **SHORT)
    old = torch.load(run.last, weights_only=True)
    old["callbacks"] = {"ModelCheckpoint{'monitor': 'val/top1'}": {"best_model_score": 0.1}}
    torch.save(old, "old.ckpt")
    with pytest.warns(UserWarning, match="ModelCheckpoint"):
        fit(run, 60.0, scores=(0.1,), max_epochs=3, **SHORT, resume="old.ckpt")
    assert best(run) == 6
