"""The scores of a map, against plain loops and numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bagnet.experiments.explanations.scores import average_precision, overlap, points, sparsity

MASK = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)


def precision_by_hand(evidence: np.ndarray, mask: np.ndarray) -> float:
    """Sum over all thresholds of precision times the step of recall, as in scikit-learn."""
    total, reached = 0.0, 0.0
    for threshold in sorted(set(evidence.ravel().tolist()), reverse=True):
        chosen = evidence >= threshold
        hits = (chosen & mask).sum()
        recall = hits / mask.sum()
        total += (recall - reached) * hits / chosen.sum()
        reached = recall
    return total


@pytest.mark.parametrize("scale", [1, 1e-6, 1e6])  # squashed, the largest would be equal
@pytest.mark.parametrize("shades", [3, 10_000])  # with and without ties
def test_average_precision_is_that_of_the_definition(shades, scale):
    rng = np.random.default_rng(shades)
    for _ in range(5):
        mask = rng.random((9, 7)) < 0.2
        evidence = (rng.integers(-shades, shades, mask.shape) + mask) * np.float32(scale)
        expected = precision_by_hand(evidence, mask)
        assert average_precision(evidence, mask) == pytest.approx(expected, rel=1e-5)


def test_the_scores_of_a_map_by_hand():
    """Of the two strongest pixels, one is in the mask; the mask's other one is the fourth."""
    evidence = np.array([[9, -1, 8, 7], [-2, -3, -4, -5]], dtype=np.float32)
    assert overlap(evidence, MASK) == pytest.approx(1 / 3)  # 1 of 2 + 2 - 1
    assert average_precision(evidence, MASK) == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert points(evidence, MASK)
    assert not points(evidence[::-1], MASK)


def test_the_mask_itself_scores_1_and_its_inverse_next_to_nothing():
    for score in (overlap, average_precision):
        assert score(MASK.astype(np.float32), MASK) == 1
    assert overlap(-MASK.astype(np.float32), MASK) == 0
    assert average_precision(-MASK.astype(np.float32), MASK) == pytest.approx(2 / 8)


def test_a_constant_map_points_nowhere_and_scores_by_chance():
    constant, share = np.zeros(MASK.shape, np.float32), MASK.mean()
    assert not points(constant, MASK)
    assert average_precision(constant, MASK) == pytest.approx(share)
    assert overlap(constant, MASK) == pytest.approx(share / (2 - share))


def test_the_overlap_follows_from_the_rank_accuracy():
    """Arras et al. (2022): the share r of the mask's area that the strongest pixels find."""
    rng = np.random.default_rng(0)
    evidence, mask = rng.normal(size=(20, 20)), rng.random((20, 20)) < 0.3
    strongest = np.argsort(-evidence.ravel())[: mask.sum()]
    r = mask.ravel()[strongest].mean()
    assert overlap(evidence, mask) == pytest.approx(r / (2 - r))


def test_sparsity_counts_small_votes_and_what_the_strongest_have():
    votes = np.array([[0.4, -0.4, 0.5, -8], [0, 0.1, 0.2, 0.3], [0, 0, 0, 0.1]])
    small, strongest = sparsity(votes)
    assert small == pytest.approx(10 / 12)
    assert strongest == pytest.approx(8.5 / 10)  # two of twelve patches, of |-8| + ... = 10
    assert sparsity(np.zeros((3, 3))) == (1, 0)
    assert math.isclose(sparsity(np.ones((10, 10)))[1], 0.1)
