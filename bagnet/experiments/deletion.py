"""How fast a decision falls, or arises, with the pixels that its evidence names first.

The image is cut into cells of 8x8 pixels. Deletion replaces them by the mean colour one after the other, the ones with the
most dense evidence for the predicted class first; insertion starts from the mean colour and puts them back in the same
order. The area under the probability of the class says how good the order is: small for deletion, large for insertion
(Petsiuk et al., RISE, BMVC 2018). The same areas are measured for cells in random order.

Writes deletion.json.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from bagnet.evidence import dense_evidence
from bagnet.evidence.maps import evaluating
from bagnet.experiments.measuring.results import write_text
from bagnet.experiments.measuring.trained import load_trained
from bagnet.experiments.options import DeletionOptions
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from bagnet.training.metrics import UNREADABLE
from datamodules.imagenet import ImageNetDataModule

CELL = 8  # px
STEPS = 16  # between the whole image and none of it


@dataclass(frozen=True)
class Areas:
    """Means over the images of the areas, 0 to 1."""

    images: int
    deletion: float
    deletion_random: float
    insertion: float
    insertion_random: float


def run(options: DeletionOptions) -> None:
    """Measure, print a table, and write ``deletion.json``."""
    if options.images < 1:
        raise ValueError(f"--images {options.images} measures nothing: give at least 1")
    model, data = load_trained(
        options.checkpoint,
        options.data.root,
        batch_size=1,
        image_size=options.data.image_size,
        resize_size=options.data.resize_size,
        name=options.name,
    )
    console = Console(highlight=False, soft_wrap=True)
    result = measure(model, data, options.images, console)
    out = options.out or options.checkpoint.parent
    write_text(json.dumps(asdict(result), indent=1) + "\n", out / "deletion.json")
    table = Table(f"{result.images:,} images", "by evidence", "random")
    table.add_row("deletion", f"{result.deletion:.3f}", f"{result.deletion_random:.3f}")
    table.add_row("insertion", f"{result.insertion:.3f}", f"{result.insertion_random:.3f}")
    console.print(table)


def measure(model: BagNet, data: ImageNetDataModule, images: int, console: Console) -> Areas:
    """Measure the first ``images`` validation images that are readable, as many as there are."""
    chance = torch.Generator().manual_seed(0)
    rows: list[Tensor] = []
    batches = data.val_dataloader()
    total = min(images, len(batches))
    for pixels, labels, _ in track(
        batches, "deletion", total=total, console=console, transient=True
    ):
        if labels.item() == UNREADABLE:
            continue
        image = normalize(pixels)[0]
        with evaluating(model):
            target = int(model(image[None]).argmax())
        dense = dense_evidence(model, image, target)
        evidence = F.avg_pool2d(dense[None], CELL, ceil_mode=True)[0]
        random = torch.rand(evidence.shape, generator=chance)
        rows.append(
            torch.stack(
                [*areas(model, image, target, evidence), *areas(model, image, target, random)]
            )
        )
        if len(rows) == images:
            break
    if not rows:
        raise ValueError(f"{data.root} has no readable validation image: nothing was measured")
    deletion, insertion, deletion_random, insertion_random = torch.stack(rows).mean(0).tolist()
    return Areas(len(rows), deletion, deletion_random, insertion, insertion_random)


def areas(model: BagNet, image: Tensor, target: int, priority: Tensor) -> tuple[Tensor, Tensor]:
    """Areas under the curves of deletion and insertion.

    Args:
        model: The network.
        image: Normalised, so that zero is the mean colour, (3, H, W).
        target: The class whose probability is followed.
        priority: Of each cell, (ceil(H / 8), ceil(W / 8)); the largest goes first.

    Returns:
        Two numbers, 0 to 1.
    """
    rank = priority.flatten().argsort(descending=True).argsort().view(priority.shape)
    counts = torch.linspace(0, rank.numel(), STEPS + 1).round()
    chosen = rank < counts[:, None, None]
    chosen = chosen.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    chosen = chosen[:, None, : image.shape[1], : image.shape[2]]
    with evaluating(model):
        deleted = model(image * ~chosen).softmax(1)[:, target]
        inserted = model(image * chosen).softmax(1)[:, target]
    return torch.trapezoid(deleted) / STEPS, torch.trapezoid(inserted) / STEPS
