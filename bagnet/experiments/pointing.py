"""Whether the evidence points at what gives the class, where the truth is known.

For each validation image of the demo, take the patch with the strongest evidence for the class that
the network predicts: the patch its decision rests on most. A map has one entry for each stride (8
px), so an entry stands for the cell of one stride around the centre of its patch, which is also how
the pictures draw it. It points at a texture if its cell touches the box of one. The chance level is
that share for an entry drawn at random, and pointing_true_class is the same measure for the true
class instead of the predicted one. Textures
are smaller than a patch and the images are not resized, so the planted boxes are in the pixels that
the network sees.

Writes pointing.json and evidence.png, the evidence of one image of each class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bagnet.evidence.maps import evaluating
from bagnet.evidence.pictures.plots import Example, contact_sheet, save_png
from bagnet.experiments.measuring.results import write_text
from bagnet.experiments.measuring.trained import load_trained
from bagnet.experiments.options import BagNetOptions
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from datamodules.common.batch import Box
from datamodules.demo.generate import PLANTED
from datamodules.imagenet import ImageNetDataModule

BATCH_SIZE = 50
SHOWN = 12  # images in evidence.png, at most


@dataclass(frozen=True)
class Pointing:
    """Shares of the validation images, 0 to 1."""

    images: int
    pointing: float
    pointing_true_class: float
    chance: float
    top1: float
    top5: float


def run(options: BagNetOptions) -> None:
    """Measure, print a table, and write ``pointing.json`` and ``evidence.png``."""
    planted = load_planted(Path(options.data.root or "") / "val")
    size = planted["image_size"]
    model, data = load_trained(
        options.checkpoint,
        options.data.root,
        batch_size=BATCH_SIZE,
        image_size=size,
        resize_size=size,
    )
    console = Console(highlight=False, soft_wrap=True)
    result, examples = measure(model, data, planted["images"], console)

    out = options.out or options.checkpoint.parent
    save_png(contact_sheet(examples, model.box), out / "evidence.png")
    write_text(json.dumps(asdict(result), indent=1) + "\n", out / "pointing.json")
    console.print(_table(result))
    console.print(f"evidence of {len(examples)} images: {out / 'evidence.png'}")


def load_planted(folder: Path) -> dict[str, Any]:
    """Read what is planted in the images of a split.

    Raises:
        ValueError: The folder has no such file, or it is damaged.
    """
    path = folder / PLANTED
    remedy = "make the data with `python -m datamodules.demo`"
    try:
        planted = json.loads(path.read_text(encoding="utf-8"))
        return {"image_size": int(planted["image_size"]), "images": dict(planted["images"])}
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist, so nobody knows what is planted in the images; {remedy}"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); {remedy}") from None


def measure(
    model: BagNet, data: ImageNetDataModule, planted: dict[str, Any], console: Console
) -> tuple[Pointing, list[Example]]:
    """Go through the validation images once.

    Args:
        model: The network.
        data: The data; its images are not resized.
        planted: By key, the truth about each image: its ``textures`` are boxes.
        console: Where the progress is shown.

    Returns:
        The result, and the first image of each class, in the order of the classes.
    """
    examples: dict[int, Example] = {}
    rows = []
    loader = data.val_dataloader()
    batches = track(loader, "pointing", total=len(loader), console=console, transient=True)
    for image, label, key, logits, evidence in _images(model, data, batches):
        if key not in planted:
            raise ValueError(f"{PLANTED} says nothing of the image {key}; make the data again")
        boxes = [tuple(box) for box in planted[key]["textures"]]
        order = logits.argsort(descending=True).tolist()
        predicted = order[0]
        on_texture = np.array(
            [
                [touches(boxes, cell(model, i, j)) for j in range(evidence.shape[2])]
                for i in range(evidence.shape[1])
            ]
        ).ravel()
        rows.append(
            (
                on_texture[int(evidence[predicted].argmax())],
                on_texture[int(evidence[label].argmax())],
                on_texture.mean(),
                predicted == label,
                label in order[:5],
            )
        )
        if label not in examples:
            examples[label] = Example(
                image=image.permute(1, 2, 0).numpy(),
                evidence=evidence[predicted].numpy(),
                logit=logits[predicted].item(),
                true=data.class_names[label],
                predicted=data.class_names[predicted],
                planted=boxes,
            )
    shares = (float(share) for share in np.mean(rows, axis=0))
    shown = [example for _, example in sorted(examples.items())][:SHOWN]
    return Pointing(len(rows), *shares), shown


def _images(
    model: BagNet, data: ImageNetDataModule, batches: Any
) -> Iterator[tuple[Tensor, int, str, Tensor, Tensor]]:
    """Each image (3, H, W), its label and key, logits (classes,), evidence (classes, H', W')."""
    for images, labels, sample_ids in batches:
        with evaluating(model):
            inputs = normalize(images)
            # Two passes: that both ways to the logits agree is worth seeing in every caption.
            logits, evidence = model(inputs), model.logits_map(inputs)
        for row, sample_id in enumerate(sample_ids.tolist()):
            key = data.val_manifest.sample(sample_id).key
            yield images[row], int(labels[row]), key, logits[row], evidence[row]


def cell(model: BagNet, i: int, j: int) -> tuple[float, float, float, float]:
    """The square of one stride around the centre of a patch: (top, left, bottom, right), px."""
    top, left, bottom, right = model.box(i, j)
    y, x, half = (top + bottom) / 2, (left + right) / 2, model.stride / 2
    return y - half, x - half, y + half, x + half


def touches(boxes: list[Box], area: tuple[float, float, float, float]) -> bool:
    """Whether an area and one of the boxes (half-open) have a point in common."""
    top, left, bottom, right = area
    return any(top < b[2] and b[0] < bottom and left < b[3] and b[1] < right for b in boxes)


def _table(result: Pointing) -> Table:
    table = Table("validation images", f"{result.images:,}")
    lines = {
        "top-1": result.top1,
        "top-5": result.top5,
        "strongest patch lies on a planted texture": result.pointing,
        "the same for a random patch": result.chance,
    }
    for name, share in lines.items():
        table.add_row(name, f"{share:.1%}")
    table.columns[1].justify = "right"
    return table
