"""A report of three images as a page, what Python says of them, and how tests get about on the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from bagnet.evidence import evidence_map
from bagnet.evidence.__main__ import main
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from datamodules.decoding.transforms import EvalTransform
from tests.bagnet.evidence.report.browser import Browser

SIDE = 65  # pixels; 5 x 5 patches of 33
CLASSES = [f"class-<u>{number}" for number in range(12)]
EVIL = "<img src=x onerror=document.title='evil'>.png"
FILES = ("b.png", "c.png", EVIL)


@dataclass(frozen=True)
class Report:
    """A page, and for each of its images, in order, what Python says of it."""

    page: Path
    model: BagNet
    names: list[str]
    labels: list[int]
    logits: np.ndarray  # (images, classes)
    evidence: np.ndarray  # (images, classes, 5, 5)

    @property
    def predicted(self) -> list[int]:
        return self.logits.argmax(1).tolist()

    def box(self, image: int, row: int, column: int) -> str:
        top, left, bottom, right = self.model.box(row, column)
        return f"pixels x {left} to {right - 1}, y {top} to {bottom - 1}"


def make_report(folder: Path) -> Report:
    """The second image is right, the others are wrong."""
    torch.manual_seed(1)
    model = BagNet(33, num_classes=len(CLASSES), width=4).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    rng = np.random.default_rng(0)
    pictures = []
    for file in FILES:
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((80, 70), Image.Resampling.BICUBIC)
        picture.save(folder / "x.png")
        seen = EvalTransform(SIDE, SIDE)((folder / "x.png").read_bytes())
        pictures.append((file, picture, normalize(seen[None])))
    inputs = torch.cat([each for *_, each in pictures])
    with torch.no_grad():  # scores of a few logits, as those of trained networks are
        features = model.features(inputs).mean((2, 3))
        model.fc.bias.sub_(model(inputs).mean(0))
        model.fc.weight.mul_(30 / features.norm())
        model.fc.bias.sub_(model(inputs).mean(0))
        logits = model(inputs)
    evidence = evidence_map(model, inputs)
    entries = []
    for row, (file, picture, _) in enumerate(pictures):
        label = (int(logits[row].argmax()) + (row != 1)) % len(CLASSES)
        path = folder / "images" / CLASSES[label] / file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        entries.append((path, label, row))
    entries.sort()
    settings = {"name": "bagnet33", "width": 4, "num_classes": len(CLASSES)}
    content = {"state_dict": model.state_dict(), "hyper_parameters": settings}
    torch.save(content, folder / "tiny.ckpt")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    command = ["report", folder / "images", "--checkpoint", folder / "tiny.ckpt"]
    command += ["--classes", folder / "classes.txt", "--out", folder / "report.html"]
    sizes = ["--image-size", str(SIDE), "--resize-size", str(SIDE)]
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


def is_chosen(browser: Browser, name: str) -> bool:
    rows = "#classes [aria-pressed=true] .name"
    return browser.js(f"document.querySelector('{rows}').firstChild.textContent") == name


def point_at(browser: Browser, report: Report, row: int, column: int) -> tuple[float, float]:
    """Where in the window the centre of a patch is."""
    left, top, width, height = browser.box("#stage")
    y0, x0, y1, x1 = report.model.box(row, column)
    return left + (x0 + x1) / 2 / SIDE * width, top + (y0 + y1) / 2 / SIDE * height
