"""What a report shows of an image: thresholds, decisions and classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bagnet.evidence.report.votes import (
    MAX_MAPS,
    compute_votes,
    decisions,
    patch_classes,
    shown_classes,
    thresholds,
)
from bagnet.model.network import BagNet
from tests.bagnet.evidence.report.reported import random_votes


def test_votes_below_the_threshold_count_as_nothing() -> None:
    steps = np.array([0, 1, 4, 8], np.float32)
    changes = 0
    for seed in range(20):
        evidence = random_votes(7, 5, seed).evidence
        votes = evidence.double().numpy().reshape(7, 25)
        expected = [int(np.where(votes >= t, votes, 0).mean(1).argmax()) for t in steps]
        assert decisions(evidence, steps) == expected
        changes += len(set(expected)) > 1
        assert decisions(evidence, np.array([votes.max() + 1], np.float32)) == [-1]
    assert changes  # otherwise a wrong threshold would pass


def test_at_threshold_zero_the_decision_is_that_of_the_clipped_mean() -> None:
    for seed in range(20):
        evidence = random_votes(50, 4, seed).evidence
        clipped = evidence.clamp(min=0).double().mean((1, 2))
        assert decisions(evidence, np.zeros(1, np.float32)) == [int(clipped.argmax())]


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1, 40])
def test_thresholds_are_round_numbers_up_to_the_strongest_vote(scale: float) -> None:
    evidence = random_votes(5, 6).evidence * scale
    steps = thresholds(evidence)
    strongest = float(evidence.max())
    assert steps[0] == 0
    assert 15 < len(steps) <= 41
    assert steps[-1] <= strongest < steps[-1] + 1.001 * steps[1]
    assert f"{steps[1]:e}"[0] in "125"


def test_if_all_votes_are_against_the_only_threshold_is_zero() -> None:
    evidence = torch.full((2, 3, 3), -1.0)
    assert thresholds(evidence).tolist() == [0]
    assert decisions(evidence, thresholds(evidence)) == [-1]


def test_the_classes_that_matter_are_shown() -> None:
    image = random_votes(1000, 24)
    decided = decisions(image.evidence, thresholds(image.evidence))
    shown = shown_classes(image, decided)
    assert len(shown) == len(set(shown)) == MAX_MAPS
    assert shown[:10] == image.logits.topk(10).indices.tolist()
    assert {1, *decided} - {-1} <= set(shown)
    few = random_votes(12, 3)
    assert sorted(shown_classes(few, [])) == list(range(12))


def test_the_top_classes_of_a_patch_are_in_order() -> None:
    evidence = random_votes(30, 4).evidence
    logits, classes = patch_classes(evidence)
    assert logits.shape == classes.shape == (4, 4, 5)
    order = evidence[:, 2, 3].argsort(descending=True)[:5]
    assert torch.equal(classes[2, 3], order)
    assert torch.equal(logits[2, 3], evidence[order, 2, 3])


def test_a_diverged_network_is_refused() -> None:
    model = BagNet(9, num_classes=2, width=2)
    model.fc.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits for x.png are not finite"):
        compute_votes(model, torch.zeros(3, 16, 16, dtype=torch.uint8), "x.png", None)
