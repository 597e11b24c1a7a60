"""Mixed batches and their loss, against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from bagnet.training.recipe.mixing import classification_loss, largest, mix

IMAGES = torch.randint(0, 256, (6, 3, 8, 10), dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 2, 3, 1, 0])


def shares_of(labels: torch.Tensor) -> torch.Tensor:
    return F.one_hot(labels, 4).float()


def test_mixup_adds_the_image_before_in_the_labels_proportion():
    images, shares = mix(IMAGES, LABELS, 4, mixup=1.0, cutmix=0.0, seed=3)
    own = shares[0, 0]  # images 0 and 5 have one class, so take the others
    part = shares[1, 1]
    assert own == 1
    assert 0 < part < 1
    torch.testing.assert_close(
        shares, part * shares_of(LABELS) + (1 - part) * shares_of(LABELS.roll(1))
    )
    torch.testing.assert_close(
        images, part * IMAGES.float() + (1 - part) * IMAGES.roll(1, 0).float()
    )


def test_cutmix_labels_have_the_proportion_of_the_pixels():
    images, shares = mix(IMAGES, LABELS, 4, mixup=0.0, cutmix=1.0, seed=5)
    pasted = (images == IMAGES.roll(1, 0)).all(1)
    kept = (images == IMAGES).all(1)
    assert (pasted | kept).all()
    part = kept[1].float().mean()  # no two pixels of these images are equal
    assert 0 < part < 1
    torch.testing.assert_close(
        shares[1], part * shares_of(LABELS)[1] + (1 - part) * shares_of(LABELS)[0]
    )


def test_what_is_drawn_depends_on_the_seed_alone():
    def mixed(seed: int) -> torch.Tensor:
        torch.rand(7)
        return mix(IMAGES, LABELS, 4, mixup=1.0, cutmix=1.0, seed=seed)[0]

    before = torch.random.get_rng_state()
    assert torch.equal(mixed(1), mixed(1))
    torch.random.set_rng_state(before)
    torch.rand(14)
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    mixed(1), mixed(2)
    assert torch.equal(torch.random.get_rng_state(), after)
    assert len({tuple(mixed(seed).flatten().tolist()) for seed in range(8)}) == 8


def test_unreadable_samples_have_no_share():
    labels = torch.tensor([0, -1, -1, 3, 1, 0])
    _, shares = mix(IMAGES, labels, 4, mixup=1.0, cutmix=0.0, seed=3)
    assert shares[2].sum() == 0
    assert 0 < shares[1].sum() < 1
    assert largest(shares)[2] == -1
    assert largest(shares)[1] == 0


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5]), st.booleans())
def test_the_loss_is_the_same_for_labels_and_for_their_shares(seed, smoothing, weighted):
    torch.manual_seed(seed)
    logits = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.randint(-1, 4, (5,))
    shares = (labels[:, None] == torch.arange(4)).double()
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    hard = classification_loss(logits, labels, smoothing, weight)
    torch.testing.assert_close(classification_loss(logits, shares, smoothing, weight), hard)


def test_the_loss_of_mixed_labels_is_the_mixture_of_the_losses():
    logits, other = torch.randn(6, 4), LABELS.roll(1)
    shares = 0.3 * shares_of(LABELS) + 0.7 * shares_of(other)
    expected = 0.3 * F.cross_entropy(logits, LABELS) + 0.7 * F.cross_entropy(logits, other)
    torch.testing.assert_close(classification_loss(logits, shares), expected)


def test_the_loss_without_smoothing_is_torchs():
    logits = torch.randn(6, 4)
    torch.testing.assert_close(
        classification_loss(logits, LABELS, 0.1),
        F.cross_entropy(logits, LABELS, label_smoothing=0.1),
    )


@pytest.mark.parametrize("labels", [torch.full((3,), -1), torch.zeros(3, 4)])
def test_a_batch_without_a_readable_sample_has_no_loss(labels):
    logits = torch.randn(3, 4, requires_grad=True)
    loss = classification_loss(logits, labels, 0.1)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
