"""The explainer: one dense map for each image, in the shape that benchmarks expect."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.explainer import BagNetExplainer
from bagnet.model.network import BagNet


@pytest.fixture(scope="module")
def model() -> BagNet:
    torch.manual_seed(0)
    return BagNet(9, num_classes=3, width=2).double().eval()


IMAGES = torch.randn(2, 3, 12, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("targets", [[2, 0], (2, 0), torch.tensor([2, 0])])
def test_each_image_is_explained_for_its_class(model, targets):
    maps = BagNetExplainer(model).explain(IMAGES, targets)
    assert maps.shape == (2, 1, 12, 15)
    torch.testing.assert_close(maps[0, 0], dense_evidence(model, IMAGES[0], 2))
    torch.testing.assert_close(maps[1, 0], dense_evidence(model, IMAGES[1], 0))


def test_one_class_is_for_all_images_and_captum_would_call_it_the_same_way(model):
    explainer = BagNetExplainer(model)
    maps = explainer.explain(IMAGES, [1, 1])
    torch.testing.assert_close(explainer.explain(IMAGES, 1), maps)
    torch.testing.assert_close(explainer.attribute(IMAGES, target=torch.tensor(1)), maps)


def test_bad_input_gets_a_clear_message(model):
    with pytest.raises(ValueError, match="Linear is not a BagNet"):
        BagNetExplainer(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"shape \(3,\) for 2 images: give one class for each"):
        BagNetExplainer(model).explain(IMAGES, [0, 1, 2])
    with pytest.raises(ValueError, match="no class 3"):
        BagNetExplainer(model).explain(IMAGES, [0, 3])
