"""What travels with weights: the network's name, its classes, and the size of its images.

Our checkpoints and `.safetensors` files carry it; files of others do not. Class ids are compared
wherever a network meets data, always by `outputs_for`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from bagnet.model.images import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Card:
    """What is known of a network; what is not known is None or empty.

    Attributes:
        name: Name of the network, for `bagnet.model.registry.build_model`.
        classes: Class ids (names of folders, wnids), in the order of the outputs.
        class_names: Class names for people, in the same order.
        image_size: Side of the images in validation, in pixels.
        resize_size: Shorter side before they are cropped, in pixels.
    """

    name: str | None = None
    classes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    image_size: int | None = None
    resize_size: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Card:
        """Read the values from a file.

        Raises:
            ValueError: A value is of another kind.
        """
        name, sides = values.get("name"), [values.get(key) for key in ("image_size", "resize_size")]
        classes, names = (tuple(values.get(key) or ()) for key in ("classes", "class_names"))
        if not (
            isinstance(name, str | None)
            and all(isinstance(text, str) for text in (*classes, *names))
            and len(set(classes)) == len(classes)
            and len(names) in (0, len(classes))
            and all(side is None or (type(side) is int and side > 0) for side in sides)
        ):
            raise ValueError("what it says of its network makes no sense")
        return cls(name, classes, names, *sides)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How validation prepares an image, in timm's words (`timm.data.create_transform`)."""
        side, shorter = self.image_size or 224, self.resize_size or 256
        share = side / shorter
        if math.floor(side / share) != shorter:  # as timm computes the shorter side
            share = math.nextafter(share, 0)
        return {
            "input_size": (3, side, side),
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": share,
            "crop_mode": "center",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        }

    def reordered(self, order: Sequence[int], classes: Sequence[str]) -> Card:
        """The card of the same network with its outputs in another order, for these classes."""
        names = tuple(self.class_names[number] for number in order) if self.class_names else ()
        return replace(self, classes=tuple(classes), class_names=names)


def card_of(model: nn.Module) -> Card:
    """What is known of a network: of one from `load_model` what its file says."""
    card = getattr(model, "card", None)
    return card if isinstance(card, Card) else Card()


def set_card(model: nn.Module, card: Card) -> None:
    """Attach what is known of a network, which `save_weights` and checkpoints write with it."""
    object.__setattr__(model, "card", card)  # nn.Module's is for tensors and modules


class OtherClasses(ValueError):
    """A network does not know the classes of the data."""


def outputs_for(
    classes: Sequence[str], own: Sequence[str], outputs: int, file: object
) -> tuple[list[int], str]:
    """Find a network's output for each class of the data.

    Args:
        classes: Class ids of the data, by label.
        own: Class ids of the network, by output; empty if it does not know them.
        outputs: Number of the network's outputs.
        file: Where the network comes from, for messages.

    Returns:
        The number of an output for each class, and what the user should know; empty if nothing.

    Raises:
        OtherClasses: The network has other classes, or more, or fewer.
    """
    in_order = list(range(outputs))
    if outputs != len(classes) or len(own) not in (0, outputs):
        raise OtherClasses(f"{len(classes):,} classes here, {outputs:,} in {file}")
    if tuple(own) == tuple(classes):
        return in_order, ""
    if set(own) == set(classes):
        place = {identity: number for number, identity in enumerate(own)}
        return [place[identity] for identity in classes], (
            f"{file} numbers the classes in another order; its outputs now have the data's"
        )
    numbers = tuple(map(str, in_order))  # what shards have that do not name their classes
    if not own or numbers in (tuple(own), tuple(classes)):
        return in_order, (
            f"{file} and the data do not both name their {outputs:,} classes: they are taken for "
            "the same, in the same order"
        )
    unknown = next(identity for identity in classes if identity not in own)
    raise OtherClasses(f"other classes here than in {file}, which does not know {unknown!r}")
