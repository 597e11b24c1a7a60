"""What the classifier asks of its data, whoever reads them: classes and labels that fit it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bagnet.model.card import Card, OtherClasses, card_of, outputs_for
from datamodules.common.batch import UNREADABLE

ENOUGH = 16
"""Labels that say something about the number of classes."""


def card_of_data(data: Any) -> Card:
    """What a data module says of its images, for the network that is trained on them."""
    classes, names = (tuple(getattr(data, key, None) or ()) for key in ("classes", "class_names"))
    sides = (getattr(data, key, None) for key in ("image_size", "resize_size"))
    return Card(None, classes, names, *sides)


def present_classes(data: Any, device: torch.device) -> Tensor | None:
    """Labels of the classes that count in evaluations of a data module, if not all do."""
    labels = getattr(data, "present", None)
    return None if labels is None else torch.tensor(labels, device=device)


def require_classes(model: nn.Module, outputs: int, data: Card) -> None:
    """Refuse data whose labels mean something else than the network's outputs.

    Args:
        model: The network.
        outputs: Number of its outputs.
        data: What is known of the data.

    Raises:
        ValueError: The data has another number of classes, others, or in another order.
    """
    own, given = card_of(model).classes, data.classes
    try:
        order, _ = outputs_for(given, own, outputs, "the network")
        if order != list(range(outputs)):
            raise OtherClasses("the network numbers the classes in another order than the data")
    except OtherClasses as error:
        raise ValueError(
            f"{error}: give BagNetClassifier num_classes={len(given)} and the data's classes "
            "(classes=data.classes), with weights=FILE if it is trained already"
        ) from None


def class_weights(data: Any) -> list[float]:
    """Weights with which all classes count equally in a loss: N / (K n_c) for the labels' classes.

    Over the training data, the mean weight of an image is one.

    Args:
        data: A data module with `class_counts`, the number n_c of training images of each class.

    Raises:
        ValueError: It has none, or a class has no images.
    """
    counts = getattr(data, "class_counts", None)
    if counts is None:
        raise ValueError(
            "balanced needs a data module with class_counts, the number of training images of each "
            "class, as ImageNetDataModule has them; give one, or leave balanced out"
        )
    counts = [int(count) for count in counts]
    if 0 in counts:
        label = counts.index(0)
        names = tuple(getattr(data, "class_names", None) or ())
        name = f" ({names[label]})" if names else ""
        raise ValueError(
            f"class {label}{name} has no training images, so it cannot count in the loss like the "
            "others: pack the data without it, or leave balanced out"
        )
    return [sum(counts) / (len(counts) * count) for count in counts]


@contextmanager
def explained(labels: Tensor, outputs: int, first: bool) -> Iterator[None]:
    """Let `require_labels` explain what goes wrong with a batch.

    Args:
        labels: int64 (B,).
        outputs: Number of the network's outputs.
        first: Whether the labels are looked at before anything goes wrong. This waits for a GPU,
            where a wrong label ends the process; on a CPU, it is an error that can be explained.
    """
    if first:
        require_labels(labels, outputs)
    try:
        yield
    except IndexError:
        require_labels(labels, outputs)
        raise


def require_labels(labels: Tensor, outputs: int) -> None:
    """Refuse labels that the network has no output for.

    The loss would only name the label, and on a GPU end the process.

    Raises:
        ValueError: A label is outside of 0 to outputs - 1, and not -1.
    """
    if not labels.numel():
        return
    least, most = (int(each) for each in torch.aminmax(labels))
    if most >= outputs or least < UNREADABLE:
        wrong = most if most >= outputs else least
        raise ValueError(
            f"a label is {wrong}, but the network has {outputs:,} classes, 0 to {outputs - 1:,}: "
            "set num_classes to the number of the data's classes"
        )


def doubt(labels: Tensor, outputs: int) -> str:
    """Say so if the labels of a shuffled batch leave most of the outputs unused; else empty."""
    most = int(labels.max())
    if len(labels) < ENOUGH or 2 * (most + 1) > outputs:
        return ""
    return (
        f"the network has {outputs:,} classes, but the largest label of the first {len(labels)} "
        f"images is {most}: is num_classes right?"
    )
