from __future__ import annotations

import pytest
import torch

from bagnet.model.network import BagNet
from bagnet.model.receptive_field import receptive_field
from bagnet.model.registry import build_model


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("alexnet", 195), ("vgg11", 150), ("vgg16", 212), ("resnet50", 427), ("bagnet33", 33)],
)
def test_the_receptive_field_is_the_known_one(name, pixels):
    with torch.device("meta"):
        assert receptive_field(build_model(name))[0] == pixels


@pytest.mark.parametrize("patch", [9, 17, 33])
def test_the_receptive_field_of_a_bagnet_is_its_patch(patch):
    assert receptive_field(BagNet(patch, 2, width=1)) == (patch, 8)


def test_the_receptive_field_of_a_densenet_follows_its_longest_path():
    with torch.device("meta"):
        network = build_model("densenet169")
    # Its stem sees 11 px at stride 4; a block of n layers adds 2 n strides, a transition one.
    expected = 11 + 2 * 6 * 4 + 4 + 2 * 12 * 8 + 8 + 2 * 32 * 16 + 16 + 2 * 32 * 32
    assert receptive_field(network) == (expected, 32)
