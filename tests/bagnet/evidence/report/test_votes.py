"""What a report shows of an image: thresholds, decisions and classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bagnet.evidence.report.votes import (
    MAX_MAPS,
    compute_votes,
    decisions,
    shown_classes,
    thresholds,
)
from bagnet.model.network import BagNet
from tests.bagnet.evidence.report.reported import random_evidence, votes


def test_votes_below_the_threshold_count_as_nothing() -> None:
    steps = np.array([0, 1, 4, 8], np.float32)
    changes = 0
    for seed in range(20):
        evidence = random_evidence(7, 5, seed)
        values = evidence.double().numpy()
        expected = [np.where(values >= t, values, 0).mean((1, 2)).argmax() for t in steps]
        assert decisions(evidence, steps) == expected
        assert expected[0] == evidence.clamp(min=0).double().mean((1, 2)).argmax()
        changes += len(set(expected)) > 1
        assert decisions(evidence, np.array([values.max() + 1], np.float32)) == [-1]
    assert changes  # otherwise a wrong threshold would pass


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1, 40])
def test_thresholds_are_round_numbers_up_to_the_strongest_vote(scale: float) -> None:
    evidence = random_evidence(5, 6) * scale
    steps = thresholds(evidence)
    assert steps[0] == 0
    assert 15 < len(steps) <= 41
    assert steps[-1] <= evidence.max() < steps[-1] + 1.001 * steps[1]
    assert f"{steps[1]:e}"[0] in "125"


def test_if_all_votes_are_against_the_only_threshold_is_zero() -> None:
    evidence = torch.full((2, 3, 3), -1.0)
    assert thresholds(evidence).tolist() == [0]
    assert decisions(evidence, thresholds(evidence)) == [-1]


def test_the_classes_that_matter_are_shown() -> None:
    image = votes(random_evidence(1000, 24), label=1)
    decided = decisions(image.evidence, thresholds(image.evidence))
    shown = shown_classes(image, decided)
    assert len(shown) == len(set(shown)) == MAX_MAPS
    assert shown[:10] == image.logits.topk(10).indices.tolist()
    assert {1, *decided} - {-1} <= set(shown)
    assert sorted(shown_classes(votes(random_evidence(12, 3)), [])) == list(range(12))


def test_among_equal_logits_the_lower_class_is_predicted() -> None:
    image = votes(torch.tensor([1.0, 3.0, 2.0, 3.0, 1.0]).view(5, 1, 1))
    assert image.predicted == 1
    assert shown_classes(image, []) == [1, 3, 2, 0, 4]


def test_a_diverged_network_is_refused() -> None:
    model = BagNet(9, num_classes=2, width=2)
    model.fc.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits for x.png are not finite"):
        compute_votes(model, torch.zeros(3, 16, 16, dtype=torch.uint8), "x.png", None)
