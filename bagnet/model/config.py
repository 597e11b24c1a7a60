"""The `config.json` beside `model.safetensors`, in a folder as Hugging Face and timm have it."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from bagnet.model.card import Card, card_of
from bagnet.model.images import IMAGENET_MEAN, IMAGENET_STD
from bagnet.model.registry import classifier_of

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LARGEST = 64 * 2**20
"""Bytes of a config that are read; the names of a hundred thousand classes take a tenth."""


def config_of(model: nn.Module) -> dict[str, Any]:
    """What `config.json` says of a network: its card, and how to prepare its images.

    Raises:
        ValueError: The network's name is not known.
    """
    known, head = asdict(card_of(model)), classifier_of(model)
    name = known.pop("name")
    if name is None:
        raise ValueError(
            "the network has no name: load it by bagnet.load, or give it one with "
            "bagnet.model.card.set_card"
        )
    return {
        "architecture": name,
        "num_classes": head.out_features,
        "num_features": head.in_features,
        **known,
        "pretrained_cfg": card_of(model).preprocessing,
    }


def read_config(path: Path) -> Card | None:
    """Read a `config.json` of ours, or one of timm, which says less; None for another library's.

    It warns if the network is for images that are normalised otherwise than here.

    Raises:
        ValueError: It is not such a file.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path.name} has more than {LARGEST:,} bytes")
    values = json.loads(content)
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} is no table of names and values")
    if "architecture" not in values:
        return None
    images = values.get("pretrained_cfg")
    images = images if isinstance(images, dict) else {}
    for key, ours in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        if images.get(key, list(ours)) != list(ours):
            warnings.warn(
                f"{path}: the network is for images with the {key} {images[key]}, and here they "
                f"have ImageNet's, {list(ours)}: expect wrong predictions",
                stacklevel=2,
            )
    return Card.of({**values, "name": values.get("architecture")})
