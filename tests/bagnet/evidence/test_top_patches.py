"""The strongest patches of each class, against all of them sorted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bagnet.evidence.top_patches import OTHERS, OWN, TopPatches


def by_hand(evidence, labels, label, row, k):
    """All images that count, their best patch for a class, sorted."""
    found = []
    for number in range(len(labels)):
        if labels[number] < 0 or (labels[number] == label) != (row == OWN):
            continue
        votes = evidence[number, label]
        place = int(votes.argmax())
        entry = divmod(place, votes.shape[1])
        found.append((-float(votes.max()), number, entry, int(labels[number])))
    return [(-value, number, entry, of) for value, number, entry, of in sorted(found)[:k]]


@settings(deadline=None, max_examples=60)
@given(
    images=st.integers(1, 30),
    batch=st.integers(1, 9),
    k=st.integers(1, 5),
    ranks=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_it_finds_what_sorting_all_of_them_finds_on_any_number_of_ranks(
    images, batch, k, ranks, seed
):
    torch.manual_seed(seed)
    classes = 3
    # Few values, so that many are equal.
    evidence = torch.randint(0, 4, (images, classes, 2, 3)).float()
    labels = torch.randint(-1, classes, (images,))
    found = [TopPatches(classes, k) for _ in range(ranks)]
    for number, begin in enumerate(range(0, images, batch)):
        these = slice(begin, begin + batch)
        found[number % ranks].update(evidence[these], labels[these], torch.arange(images)[these])
    for other in reversed(found[1:]):
        found[0].merge(other)
    for label in range(classes):
        for row in (OWN, OTHERS):
            patches = found[0].best(label, row)
            mine = [(p.evidence, p.sample_id, p.entry, p.label) for p in patches]
            assert mine == by_hand(evidence, labels, label, row, k)


def test_memory_does_not_grow_with_the_data():
    top = TopPatches(10, 4)
    sizes = set()
    for number in range(20):
        top.update(torch.randn(8, 10, 3, 3), torch.arange(8), torch.arange(8) + 8 * number)
        sizes.add((top._evidence.numel(), top._where.numel()))
    assert sizes == {(2 * 10 * 4, 2 * 10 * 4 * 4)}


def test_a_class_without_images_has_no_patches():
    top = TopPatches(2, 3)
    top.update(torch.randn(2, 2, 1, 1), torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert len(top.best(0, OWN)) == 2
    assert top.best(1, OWN) == []
    assert len(top.best(1, OTHERS)) == 2
    assert top.best(0, OTHERS) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_evidence_comes_in_any_precision(dtype):
    top = TopPatches(1, 1)
    top.update(torch.full((1, 1, 1, 1), 0.1, dtype=dtype), torch.tensor([0]), torch.tensor([5]))
    (patch,) = top.best(0, OWN)
    assert patch.evidence == float(torch.tensor(0.1, dtype=dtype))
