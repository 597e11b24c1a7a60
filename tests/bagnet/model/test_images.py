"""Every public function that takes images says in one line what it takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import bagnet

MODEL = bagnet.BagNet(9, num_classes=3, width=2)
OF_BATCHES: list[Callable[[Tensor], Tensor]] = [
    MODEL,
    MODEL.logits_map,
    lambda images: bagnet.evidence_map(MODEL, images),
    lambda images: bagnet.BagNetExplainer(MODEL).explain(images, 0),
    lambda images: bagnet.BagNetExplainer(MODEL).attribute(images, 0),
]


@pytest.mark.parametrize("function", OF_BATCHES)
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(3, 20, 20),
            r"images \(B, 3, H, W\), not torch.float32 \(3, 20, 20\): add a dim",
        ),
        (torch.zeros(1, 3, 20, 20, dtype=torch.uint8), r"not torch.uint8 .*: normalise it"),
        (
            torch.zeros(1, 20, 20, 3),
            r"not torch.float32 \(1, 20, 20, 3\): give what bagnet.normalize",
        ),
        (Image.new("RGB", (20, 20)), "not a Image: convert it"),
        (np.zeros((1, 3, 20, 20), np.float32), "not a ndarray: convert it"),
    ],
)
def test_what_is_no_batch_of_images_is_one_line(function, images, message):
    with pytest.raises(ValueError, match=message) as error:
        function(images)
    assert "\n" not in str(error.value)


def test_what_is_no_image_is_one_line():
    with pytest.raises(ValueError, match=r"one normalised float image \(3, H, W\), not a Image"):
        bagnet.dense_evidence(MODEL, Image.new("RGB", (20, 20)))
    with pytest.raises(ValueError, match="not a Image: convert it"):
        bagnet.normalize(Image.new("RGB", (20, 20)))


def test_following_the_messages_leads_to_the_evidence():
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    assert bagnet.evidence_map(MODEL, bagnet.normalize(image[None])).shape == (1, 3, 2, 2)
