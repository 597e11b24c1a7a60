"""The explainer: one dense map for each image, in the shape that benchmarks expect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from torch import nn

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.explainer import BagNetExplainer, quantus_explain
from bagnet.evidence.maps import pixel_evidence
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


def test_the_shares_of_pixels_sum_to_the_logits():
    maps = BagNetExplainer(EXPLAINER.model, "pixel_evidence").explain(IMAGES, [2, 0])
    expected = [pixel_evidence(EXPLAINER.model, IMAGES[n], label) for n, label in ((0, 2), (1, 0))]
    torch.testing.assert_close(maps, torch.stack(expected)[:, None])
    logits = EXPLAINER.model(IMAGES).detach()[range(2), [2, 0]]
    torch.testing.assert_close(maps.sum((1, 2, 3)), logits)


@pytest.mark.parametrize("method", ["evidence", "pixel_evidence"])
def test_quantus_gets_arrays_for_the_arrays_that_it_gives(method):
    """Its metrics call `explain_func(model=, inputs=, targets=, device=, **explain_func_kwargs)`.

    Checked by hand with Quantus 0.6.0 (and NumPy 2.4, where its areas under curves need an older
    one): PixelFlipping, FaithfulnessCorrelation, Sparseness, MaxSensitivity and MPRT take it; and
    for a `bagnet-0-0-0-0`, whose patches of 3 px do not overlap, RegionPerturbation with patches of
    8 px and `pixel_evidence` gave the sums of the largest falls of the logit, up to 1e-5.
    """
    call = {"model": EXPLAINER.model, "inputs": IMAGES.numpy(), "targets": np.array([2, 0])}
    maps = quantus_explain(**call, method=method, device="cpu")
    assert isinstance(maps, np.ndarray)
    expected = BagNetExplainer(EXPLAINER.model, method).explain(IMAGES, [2, 0])
    np.testing.assert_array_equal(maps, expected.numpy())


def test_bad_input_gets_a_clear_message():
    with pytest.raises(ValueError, match="there is no method 'saliency': choose from evidence, pi"):
        BagNetExplainer(EXPLAINER.model, "saliency")
    with pytest.raises(ValueError, match="Linear is not a BagNet"):
        BagNetExplainer(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"shape \(3,\) for 2 images: give one class for each"):
        EXPLAINER.explain(IMAGES, [0, 1, 2])
    with pytest.raises(ValueError, match="no class 3"):
        EXPLAINER.explain(IMAGES, [0, 3])
