"""timm's names, against a network of timm and its own functions."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bagnet.model.card import Card, card_of, set_card
from bagnet.model.config import config_of
from bagnet.model.network import BLOCKS_3X3, BagNet

IMAGES = torch.randn(2, 3, 41, 36, generator=torch.Generator().manual_seed(0))


def network(patch: int = 9, classes: int = 3, width: int = 2) -> BagNet:
    torch.manual_seed(0)
    return BagNet(patch, classes, width).eval()


@settings(max_examples=10, deadline=None)
@given(
    patch=st.sampled_from([patch for patch in BLOCKS_3X3 if patch < 36]),
    classes=st.integers(1, 20),
    width=st.sampled_from([1, 2, 3]),
    again=st.integers(0, 5),
)
def test_the_parts_make_the_whole_before_and_after_a_reset(patch, classes, width, again):
    model = network(patch, classes, width)
    for count in (classes, again, classes):
        assert model.num_classes == count
        features = model.forward_features(IMAGES)
        assert features.shape == (2, model.num_features, *model.map_size(41, 36))
        assert torch.equal(features, model.features(IMAGES))
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (2, model.num_features)
        assert torch.equal(model.forward_head(features), model.get_classifier()(pooled))
        assert torch.equal(model(IMAGES), model.forward_head(features))
        assert model(IMAGES).shape == (2, count or model.num_features)
        model.reset_classifier(again if count == classes else classes)


def test_the_names_and_what_they_do_are_timms():
    ours, theirs = network(classes=7), timm.create_model("resnet18", num_classes=7).eval()
    for count in (7, 0, 4):
        for model in (ours, theirs):
            model.reset_classifier(count)
            classifier = model.get_classifier()
            assert model.num_classes == count
            assert isinstance(classifier, nn.Linear if count else nn.Identity)
            if count:
                assert classifier.weight.shape == (count, model.num_features)
            logits = model.forward_head(model.forward_features(IMAGES))
            assert torch.equal(model(IMAGES), logits)
            assert logits.shape == (2, count or model.num_features)


def test_a_fresh_classifier_is_where_the_network_is_and_knows_no_classes():
    model = network().double()
    set_card(model, Card("bagnet9", ("n01", "n02", "n03"), ("cat", "dog", "fox"), 64, 72))
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="has no classifier: give it one"):
        config_of(model)
    model.reset_classifier(3)
    assert model.fc.weight.dtype == torch.float64
    assert card_of(model) == Card("bagnet9", image_size=64, resize_size=72)
    for arguments in ((-1,), (3, "max")):
        with pytest.raises(ValueError, match=r"num_classes=-?\d must be at least 0, and glob"):
            model.reset_classifier(*arguments)


def test_timm_finds_how_images_are_prepared():
    model = network()
    set_card(model, Card("bagnet9", image_size=64, resize_size=72))
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 64, 64)
    assert config["crop_pct"] == 64 / 72
    assert config["interpolation"] == "bilinear"
    assert model.default_cfg == model.pretrained_cfg
    assert model.pretrained_cfg["num_classes"] == 3
    assert getattr(model, model.pretrained_cfg["classifier"]) is model.get_classifier()
    assert timm.data.resolve_model_data_config(network())["crop_pct"] == 0.875
