"""What is frozen stays as it was to the bit, and is trained once it is thawed."""

from __future__ import annotations

import math

import pytest
import torch

from bagnet.run.folder import Run
from bagnet.training.recipe.freezing import Freezing
from tests.bagnet.run.fitting import fit


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


def saved(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.last, weights_only=True)["state_dict"]


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_network_is_frozen_for_some_epochs_and_then_trained(run):
    fit(run, 60.0, Freezing(1), max_steps=1)
    start = saved(run)
    fit(run, 60.0, Freezing(1), max_epochs=1, resume=run.last)
    frozen = saved(run)
    assert changed(start, frozen) == {"model.fc.weight", "model.fc.bias"}
    fit(run, 60.0, Freezing(1), max_epochs=2, resume=run.last)
    assert changed(frozen, saved(run)) == set(frozen)


def test_the_classifier_alone_can_be_trained_throughout(run):
    fit(run, 60.0, Freezing(math.inf), max_epochs=1)
    first = saved(run)
    fit(run, 60.0, Freezing(math.inf), max_epochs=3, resume=run.last)
    assert changed(first, saved(run)) == {"model.fc.weight", "model.fc.bias"}


@pytest.mark.parametrize("step", [4, 13])
def test_a_resumed_run_ends_with_the_same_bits(run, step):
    fit(run, 60.0, Freezing(1))
    whole = saved(run)
    parts = Run("parts")
    fit(parts, 60.0, Freezing(1), max_steps=step)
    fit(parts, 60.0, Freezing(1), resume=parts.last)
    assert changed(whole, saved(parts)) == set()
