"""The comparisons of trainings notice what they are for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.soak import numerics
from tests.soak.commands import Ended
from tests.soak.numerics import COMPARISONS, compared
from tests.soak.outcomes import CRASH, LOST
from tests.soak.steps import FAULTS

UNIT = 0.02


def result(losses: float = 1.0, weights: float = 1.0, falls: float = 0.1) -> numerics.Trained:
    curve = torch.tensor([losses] * 10 + [losses * falls] * 10)
    return {"losses": curve, "weights": {"a": torch.full((3,), weights)}}


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda each: each.what)
def test_each_comparison_has_a_bound_that_is_kept_and_one_that_is_not(comparison):
    expected, _ = comparison.names

    def row(other: object) -> numerics.Row:
        results = {expected: result(), comparison.unit: result(1 + UNIT)}
        return compared(comparison, lambda name: results.get(name, other))

    bound = comparison.bound * (UNIT if comparison.unit else 1)
    near, far = 1 + bound / 2, 1 + 2 * bound
    exact = comparison.difference is numerics.weight_difference
    kept = result(weights=near) if exact else result(near)
    if exact:
        kept["weights"]["a"] = kept["weights"]["a"].double() + bound / 2
    assert not row(kept).unwanted
    for planted in (result(far, far + 1e-5), result(torch.nan, torch.nan)):
        assert list(row(planted).unwanted) == [LOST]
    assert list(row(Ended(1, "Traceback", 1.0)).unwanted) == [CRASH]


def test_a_training_that_learns_nothing_is_no_comparison():
    row = compared(COMPARISONS[0], lambda name: result(falls=0.9))
    (detail,) = row.unwanted[LOST]
    assert "nothing is learned" in detail


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, for the trainings of all tests."""
    folder = tmp_path_factory.mktemp("numerics")
    numerics.prepare(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "number"), [*zip(FAULTS, (0, 1, 3, 4), strict=True)])
def test_each_comparison_finds_a_training_with_its_fault(folder, fault, number):
    comparison = COMPARISONS[number]
    faulty = replace(comparison, names=(comparison.names[0], fault))
    row = compared(faulty, partial(numerics.trained, folder))
    (detail,) = row.unwanted[LOST]
    assert "nothing is learned" not in detail
