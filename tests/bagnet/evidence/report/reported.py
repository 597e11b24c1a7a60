"""Reports for the tests, and what Python computes for their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bagnet.evidence.__main__ import main
from bagnet.evidence.maps import evidence_map
from bagnet.evidence.report.votes import ImageVotes
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from tests.bagnet.evidence.networks import network

SIDE = 65  # pixels; 5 x 5 patches of 33
CLASSES = [f"class-<u>{number}" for number in range(12)]
EVIL = "<img src=x onerror=document.title='evil'>.png"
FILES = ("b.png", "c.png", EVIL)


@dataclass(frozen=True)
class Report:
    """A report, and for each of its images, in order, what Python computes for it."""

    page: Path
    model: BagNet
    names: list[str]
    labels: list[int]
    logits: np.ndarray  # (images, classes)
    evidence: np.ndarray  # (images, classes, 5, 5)

    @property
    def predicted(self) -> list[int]:
        return self.logits.argmax(1).tolist()

    def pixels(self, row: int, column: int) -> str:
        """What the page says about the place of a patch."""
        top, left, bottom, right = self.model.box(row, column)
        return f"pixels x {left} to {right - 1}, y {top} to {bottom - 1}"


def make_report(folder: Path) -> Report:
    """Report on three images, of which the second is right and the others are wrong."""
    model = network(33, width=4, classes=len(CLASSES)).float()
    rng = np.random.default_rng(0)
    images = []
    for _ in FILES:
        noise = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        images.append(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    inputs = normalize(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    with torch.no_grad():  # scores of a few logits, as trained networks have
        features = model.features(inputs).mean((2, 3))
        model.fc.bias.sub_(model(inputs).mean(0))
        model.fc.weight.mul_(30 / features.norm())
        model.fc.bias.sub_(model(inputs).mean(0))
        logits = model(inputs)
    evidence = evidence_map(model, inputs)
    entries = []
    for row, (file, image) in enumerate(zip(FILES, images, strict=True)):
        label = (int(logits[row].argmax()) + (row != 1)) % len(CLASSES)
        path = folder / "images" / CLASSES[label] / file
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        entries.append((path, label, row))
    entries.sort()
    settings = {"name": "bagnet33", "width": 4, "num_classes": len(CLASSES)}
    content = {"state_dict": model.state_dict(), "hyper_parameters": settings}
    torch.save(content, folder / "tiny.ckpt")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    command = ["report", folder / "images", "--checkpoint", folder / "tiny.ckpt"]
    command += ["--classes", folder / "classes.txt", "--out", folder / "report.html"]
    sizes = ["--data.image_size", str(SIDE), "--data.resize_size", str(SIDE)]
    assert main([*map(str, command), *sizes]) == 0
    order = [row for *_, row in entries]
    return Report(
        folder / "report.html",
        model,
        [path.relative_to(folder / "images").as_posix() for path, *_ in entries],
        [label for _, label, _ in entries],
        logits.numpy()[order],
        evidence.numpy()[order],
    )


def random_votes(classes: int, side: int, seed: int = 0) -> ImageVotes:
    """An image of class 1 with random evidence for side x side patches."""
    random = torch.Generator().manual_seed(seed)
    evidence = torch.randn(classes, side, side, generator=random) * 5
    pixels = torch.randint(0, 256, (3, 32, 32), generator=random, dtype=torch.uint8)
    return ImageVotes("x.png", 1, pixels, evidence.mean((1, 2)), evidence)
