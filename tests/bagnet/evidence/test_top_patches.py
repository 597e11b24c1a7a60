"""The strongest patches of each class, against all of them sorted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bagnet.evidence.top_patches import OTHERS, OWN, TopPatches


def by_hand(evidence, labels, label, row, k):
    """The best patches of all images that count, sorted."""
    found = []
    for number in range(len(labels)):
        if labels[number] < 0 or (labels[number] == label) != (row == OWN):
            continue
        votes = evidence[number, label]
        place = int(votes.argmax())
        entry = divmod(place, votes.shape[1])
        found.append((-float(votes.max()), number, entry, int(labels[number])))
    return [(-value, number, entry, of) for value, number, entry, of in sorted(found)[:k]]


def update(top: TopPatches, evidence: Tensor, labels: Tensor, sample_ids: Tensor) -> None:
    best, places = evidence.flatten(2).max(2)
    top.update_best(best, places, evidence.shape[3], labels, sample_ids)


@settings(deadline=None, max_examples=60)
@given(
    images=st.integers(1, 30), batch=st.integers(1, 9), k=st.integers(1, 5), seed=st.integers(0, 99)
)
def test_it_finds_what_sorting_all_of_them_finds_in_any_order(images, batch, k, seed):
    torch.manual_seed(seed)
    classes = 3
    # Few values, so that many are equal.
    evidence = torch.randint(0, 4, (images, classes, 2, 3)).float()
    labels = torch.randint(-1, classes, (images,))
    top = TopPatches(classes, k)
    for ids in torch.randperm(images).split(batch):
        update(top, evidence[ids], labels[ids], ids)
    for label in range(classes):
        for row in (OWN, OTHERS):
            patches = top.best(label, row)
            mine = [(p.evidence, p.sample_id, p.entry, p.label) for p in patches]
            assert mine == by_hand(evidence, labels, label, row, k)


def test_a_class_without_images_has_no_patches():
    top = TopPatches(2, 3)
    update(top, torch.randn(2, 2, 1, 1), torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert len(top.best(0, OWN)) == 2
    assert top.best(1, OWN) == []
    assert len(top.best(1, OTHERS)) == 2
    assert top.best(0, OTHERS) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_evidence_comes_in_any_precision(dtype):
    top = TopPatches(1, 1)
    update(top, torch.full((1, 1, 1, 1), 0.1, dtype=dtype), torch.tensor([0]), torch.tensor([5]))
    (patch,) = top.best(0, OWN)
    assert patch.evidence == float(torch.tensor(0.1, dtype=dtype))
