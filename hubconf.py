"""The BagNets of the paper, for `torch.hub.load(REPOSITORY, "bagnet33", pretrained=True)`."""

from __future__ import annotations

from torch.nn import Module as _Module

from bagnet.model.network import BagNet as _BagNet
from bagnet.model.registry import build_model as _build_model
from bagnet.model.sources import AUTHORS as _AUTHORS
from bagnet.model.weights import load_model as _load_model

dependencies = ["torch", "safetensors"]


def bagnet9(pretrained: bool = False, num_classes: int = 1000) -> _Module:
    """A BagNet of 9x9 patches: fresh, or with the weights for ImageNet of Brendel & Bethge.

    With both `pretrained` and another `num_classes` than 1000, only the classifier is fresh.
    """
    return _bagnet("bagnet9", pretrained, num_classes)


def bagnet17(pretrained: bool = False, num_classes: int = 1000) -> _Module:
    """A BagNet of 17x17 patches, see `bagnet9`."""
    return _bagnet("bagnet17", pretrained, num_classes)


def bagnet33(pretrained: bool = False, num_classes: int = 1000) -> _Module:
    """A BagNet of 33x33 patches, see `bagnet9`."""
    return _bagnet("bagnet33", pretrained, num_classes)


def _bagnet(name: str, pretrained: bool, num_classes: int) -> _Module:
    if not pretrained:
        return _build_model(name, num_classes)
    model = _load_model(_AUTHORS[name], name)
    assert isinstance(model, _BagNet)
    if num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    return model
