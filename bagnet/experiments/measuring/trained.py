"""What experiments examine: a trained BagNet, and the images of its classes."""

from __future__ import annotations

from pathlib import Path

from bagnet.evidence.maps import require_bagnet
from bagnet.model.network import BagNet
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule


def load_trained(
    checkpoint: Path,
    root: str | None,
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
    if root is None:
        raise ValueError("add --data.root DIR")
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
