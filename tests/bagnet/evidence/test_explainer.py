"""The explainer: one dense map for each image, in the shape that benchmarks expect."""

from __future__ import annotations

import pytest
import torch
from captum.attr import NoiseTunnel
from torch import nn

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.explainer import BagNetExplainer
from tests.bagnet.evidence.networks import network

EXPLAINER = BagNetExplainer(network(9, classes=3))
IMAGES = torch.randn(2, 3, 12, 15, dtype=torch.float64)


@pytest.mark.parametrize(
    ("targets", "labels"),
    [([2, 0], [2, 0]), (torch.tensor([2, 0]), [2, 0]), (1, [1, 1]), (torch.tensor(1), [1, 1])],
)
def test_each_image_is_explained_for_its_class_as_captum_would_ask(targets, labels):
    maps = EXPLAINER.explain(IMAGES, targets)
    expected = [
        dense_evidence(EXPLAINER.model, image, label)
        for image, label in zip(IMAGES, labels, strict=True)
    ]
    torch.testing.assert_close(maps, torch.stack(expected)[:, None])
    torch.testing.assert_close(EXPLAINER.attribute(IMAGES, target=targets), maps)
    torch.testing.assert_close(EXPLAINER.explain(IMAGES, target=targets), maps)


def test_without_a_target_it_explains_the_class_that_the_network_chooses():
    chosen = EXPLAINER.model(IMAGES).argmax(1)
    torch.testing.assert_close(EXPLAINER.explain(IMAGES), EXPLAINER.explain(IMAGES, chosen))


def test_captums_noise_tunnel_gives_the_mean_over_noisy_images(monkeypatch):
    seen = []
    explain = BagNetExplainer.explain

    def noted(explainer, images, target):
        seen.append((images, target))
        return explain(explainer, images, target)

    monkeypatch.setattr(BagNetExplainer, "explain", noted)
    maps = NoiseTunnel(EXPLAINER).attribute(IMAGES, nt_samples=3, stdevs=0.1, target=[2, 0])
    ((noisy, target),) = seen
    noise = noisy - IMAGES.repeat_interleave(3, 0)
    assert 0.08 < noise.std() < 0.12
    assert list(target) == [2, 2, 2, 0, 0, 0]
    expected = explain(EXPLAINER, noisy, target).unflatten(0, (2, 3)).mean(1)
    torch.testing.assert_close(maps, expected)


def test_bad_input_gets_a_clear_message():
    with pytest.raises(ValueError, match="Linear is not a BagNet"):
        BagNetExplainer(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"shape \(3,\) for 2 images: give one class for each"):
        EXPLAINER.explain(IMAGES, [0, 1, 2])
    with pytest.raises(ValueError, match="no class 3"):
        EXPLAINER.explain(IMAGES, [0, 3])
