"""The comparisons of trainings notice what they are for."""

from __future__ import annotations

import pytest
import torch

from tests.soak import numerics
from tests.soak.commands import Ended
from tests.soak.numerics import COMPARISONS, compared
from tests.soak.outcomes import CRASH, LOST


def result(losses: float = 1.0, weights: float = 1.0) -> numerics.Trained:
    return {"losses": torch.full((20,), losses), "weights": {"a": torch.full((3,), weights)}}


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda each: each.what)
def test_each_comparison_has_a_bound_that_is_kept_and_one_that_is_not(comparison):
    expected, _ = comparison.names

    def row(other: object) -> numerics.Row:
        return compared(comparison, lambda name: result() if name == expected else other)

    near, far = 1 + comparison.bound / 2, 1 + 2 * comparison.bound
    exact = comparison.difference is numerics.weight_difference
    kept = result(weights=near) if exact else result(near)
    if exact:
        kept["weights"]["a"] = kept["weights"]["a"].double() + comparison.bound / 2
    assert not row(kept).unwanted
    for planted in (result(far, far + 1e-5), result(torch.nan, torch.nan)):
        assert list(row(planted).unwanted) == [LOST]
    assert list(row(Ended(1, "Traceback", 1.0)).unwanted) == [CRASH]
