"""Images beside the evidence for a class, in one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor, nn

from bagnet.evidence.maps import evaluating, evidence_map, require_bagnet, rows_of
from bagnet.evidence.pictures.plots import Example, contact_sheet, rgb
from bagnet.model.card import card_of
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize


def evidence_picture(model: nn.Module, images: Tensor, target: int | None = None) -> Image.Image:
    """Draw images beside their evidence: which patches vote for a class, and which against it.

    Red patches vote for the class and blue ones against it. The colours end at s logits, which
    stands above each map; the dashed square is the patch with the strongest evidence. A notebook
    shows the picture, and `.save("evidence.png")` writes it.

    Args:
        model: A BagNet.
        images: Pixels, uint8 (B, 3, H, W), such as `bagnet.read_images` gives.
        target: The class; by default the one that the network predicts for each image.

    Raises:
        ValueError: The network is not a BagNet, there is no such class, or the images are something
            else, none, or smaller than its patch.

    Examples:
        >>> import torch
        >>> model = BagNet(9, num_classes=10, width=4)
        >>> evidence_picture(model, torch.zeros(1, 3, 41, 41, dtype=torch.uint8)).mode
        'RGB'
    """
    bagnet = require_bagnet(model)
    if target is not None:
        rows_of(bagnet, target)
    normalize(images[:0])
    if not len(images):
        raise ValueError("there are no images to draw: give at least one, (B, 3, H, W)")
    card = card_of(model)
    names = card.class_names or card.classes or tuple(map(str, range(bagnet.num_classes)))
    of = "the predicted class" if target is None else names[target]
    sheet = contact_sheet(explained(bagnet, images, names, target), bagnet.box, of=of)
    return Image.fromarray(rgb(sheet))


def explained(
    model: BagNet,
    images: Tensor,
    names: Sequence[str],
    target: int | None = None,
    labels: Sequence[int] | None = None,
) -> list[Example]:
    """Compute what a contact sheet shows.

    Args:
        model: The network.
        images: Pixels, uint8 (B, 3, H, W).
        names: Names of the classes.
        target: The class; by default the predicted one of each image.
        labels: The true class of each image, -1 for one that cannot be read; by default that which
            is explained.
    """
    weight = model.fc.weight
    inputs = normalize(images.to(weight.device), weight.dtype)
    with evaluating(model):
        # Two passes, as each caption shows that both ways to the logit agree.
        logits, evidence = model(inputs).float().cpu(), evidence_map(model, inputs).float().cpu()
    classes = logits.argmax(1).tolist() if target is None else [target] * len(images)
    return [
        Example(
            image=images[n].permute(1, 2, 0).cpu().numpy(),
            evidence=evidence[n, number].numpy(),
            logit=float(logits[n, number]),
            true=names[number] if labels is None else _name(names, labels[n]),
            predicted=names[number],
        )
        for n, number in enumerate(classes)
    ]


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label >= 0 else "unreadable"
