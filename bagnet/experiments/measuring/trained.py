"""What experiments examine: a trained BagNet, and the images of its classes."""

from __future__ import annotations

import argparse
from pathlib import Path

from bagnet.evidence.maps import require_bagnet
from bagnet.model.network import BagNet
from bagnet.model.registry import BAGNETS
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``load_trained`` takes, and where results go."""
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="of a BagNet")
    add("--name", choices=BAGNETS, help="the network, for weights that do not say it")
    add("--data.root", dest="root", required=True, metavar="DIR", help="packed data")
    add("--data.image_size", dest="image_size", type=int, default=224, metavar="PX", help="(224)")
    add("--data.resize_size", dest="resize_size", type=int, default=256, metavar="PX", help="(256)")
    add("--out", type=Path, metavar="DIR", help="default: the checkpoint's folder")


def load_trained(
    checkpoint: Path,
    root: str,
    *,
    batch_size: int,
    image_size: int,
    resize_size: int,
    name: str | None = None,
) -> tuple[BagNet, ImageNetDataModule]:
    """Load a network, in evaluation mode, and open the data.

    Args:
        checkpoint: As for `load_model`, and so is ``name``.
        root: Packed data; ``batch_size``, ``image_size`` and ``resize_size`` are as for `ImageNetDataModule`.

    Raises:
        ValueError: One cannot be read, the network is no BagNet, or it tells another number of classes apart.
    """
    model = require_bagnet(load_model(checkpoint, name=name))
    data = ImageNetDataModule(
        root, batch_size=batch_size, workers=0, image_size=image_size, resize_size=resize_size
    )
    if model.fc.out_features != data.num_classes:
        raise ValueError(
            f"{checkpoint} tells {model.fc.out_features} classes apart and {root} "
            f"has {data.num_classes}: give the checkpoint of a network trained on this data"
        )
    return model, data
