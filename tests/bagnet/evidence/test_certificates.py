"""Certificates against brute force: certified images withstand every attack, others do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bagnet.evidence.aggregation import clipped, masked
from bagnet.evidence.certificates import certify_clipped, certify_masked, entries_touched
from bagnet.evidence.maps import evidence_map
from tests.bagnet.evidence.networks import network

EXTREMES = (-1e6, 1e6)  # masked to 0 or clipped to -1, and unbounded or clipped to 1


def withstands(
    evidence: Tensor, label: int, window: int, classify: Callable[[Tensor], Tensor]
) -> bool:
    """Whether a map (classes, H', W') keeps its class under all extremes in all windows."""
    height, width = evidence.shape[1:]
    attacks = [evidence]
    rows, columns = min(window, height), min(window, width)
    for i, j in itertools.product(range(height - rows + 1), range(width - columns + 1)):
        # One value for each entry of the label, and one for each entry of the others.
        for values in itertools.product(EXTREMES, repeat=2 * rows * columns):
            attack = evidence.clone()
            own, other = torch.tensor(values).view(2, rows, columns)
            attack[:, i : i + rows, j : j + columns] = other
            attack[label, i : i + rows, j : j + columns] = own
            attacks.append(attack)
    logits = classify(torch.stack(attacks).double())
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
    return bool((logits[:, label] > others.amax(1)).all())


@pytest.mark.parametrize(
    ("certify", "aggregate", "boost"),
    [(certify_clipped, lambda e, window: clipped(e), 40.0), (certify_masked, masked, 12.0)],
    ids=["clipped", "masked"],
)
@pytest.mark.parametrize(
    ("size", "window"), [((4, 4), 1), ((5, 4), 2), ((2, 5), 2), ((1, 7), 2), ((2, 1), 3)]
)
def test_certified_images_withstand_every_attack_and_others_do_not(
    certify, aggregate, boost, size, window
):
    generator = torch.Generator().manual_seed(window + size[1])
    evidence = torch.randn(24, 3, *size, generator=generator) * 10
    labels = torch.randint(3, (24,), generator=generator)
    strength = torch.linspace(0, 2 * boost, 24)
    evidence[torch.arange(24), labels] += strength[:, None, None]
    certified = certify(evidence, labels, window)
    expected = [
        withstands(one, int(label), window, lambda maps: aggregate(maps, window))
        for one, label in zip(evidence, labels, strict=True)
    ]
    assert certified.tolist() == expected
    is_whole_map = window >= max(size)
    assert any(expected) != is_whole_map
    assert not all(expected)


@pytest.mark.parametrize("certify", [certify_clipped, certify_masked])
def test_neither_a_wrong_decision_nor_a_tie_is_certified(certify):
    evidence = torch.ones(3, 2, 6, 6)
    evidence[:2, 0] = 100
    assert certify(evidence, torch.tensor([0, 1, 0]), 1).tolist() == [True, False, False]


@pytest.mark.parametrize(("patch", "pixels"), [(9, 1), (9, 8), (17, 5), (33, 8), (33, 9)])
def test_an_attack_touches_exactly_so_many_entries(patch, pixels):
    model = network(patch)
    side = patch + 6 * model.stride
    plain = torch.randn(1, 3, side, side, dtype=torch.float64)
    clean = evidence_map(model, plain)
    most = 0
    for start in range(side - pixels + 1):
        attacked = plain.clone()
        attacked[..., start : start + pixels, :] += 10
        rows = (evidence_map(model, attacked) != clean).any(1).any(-1)[0].nonzero()
        most = max(most, int(rows.max() - rows.min()) + 1 if len(rows) else 0)
    assert most == entries_touched(model, pixels) < clean.shape[2]
    with pytest.raises(ValueError, match="0 pixels changes nothing"):
        entries_touched(model, 0)
