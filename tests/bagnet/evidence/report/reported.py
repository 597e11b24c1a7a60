"""Reports for the tests, and how to read and control them in a browser."""

from __future__ import annotations

import torch
from playwright.sync_api import Page
from torch import Tensor

from bagnet.evidence.report.votes import ImageVotes
from bagnet.model.network import BagNet

MODEL = BagNet(33, num_classes=2, width=2)
CLASSES = [f"class-<u>{number}" for number in range(1000)]
NAMES = ["b.png", "c.png", "<img src=x onerror=document.title='evil'>.png"]


def votes(evidence: Tensor, label: int | None = None, name: str = "x.png") -> ImageVotes:
    """An image of noise whose patches have this evidence."""
    height, width = (33 + 8 * (entries - 1) for entries in evidence.shape[1:])
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return ImageVotes(name, label, pixels, evidence.mean((1, 2)), evidence)


def random_evidence(classes: int, side: int, seed: int = 0) -> Tensor:
    """Evidence of several logits for side x side patches."""
    return torch.randn(classes, side, side, generator=torch.Generator().manual_seed(seed)) * 5


def _judged(number: int, name: str) -> ImageVotes:
    """An image with 5 x 5 patches for 12 classes; only the second is classified right."""
    evidence = random_evidence(12, 5, seed=number)
    label = (int(evidence.mean((1, 2)).argmax()) + (number != 1)) % 12
    return votes(evidence, label, name)


IMAGES = [_judged(number, name) for number, name in enumerate(NAMES)]


def place(row: int, column: int) -> str:
    """What the page says about the place of a patch."""
    top, left, bottom, right = MODEL.box(row, column)
    return f"pixels x {left} to {right - 1}, y {top} to {bottom - 1}"


def point(page: Page, row: int, column: int) -> tuple[float, float]:
    """Where in the window the centre of a patch is."""
    top, left, bottom, right = MODEL.box(row, column)
    stage = page.locator("#stage").bounding_box()
    scale = stage["width"] / page.evaluate("now.image.width")
    return stage["x"] + (left + right) / 2 * scale, stage["y"] + (top + bottom) / 2 * scale


def chosen(page: Page) -> int:
    """The class that is chosen in the image's list."""
    return int(page.get_attribute("#classes [aria-pressed=true]", "data-class"))


def rows(page: Page, selector: str) -> list[tuple[str, float]]:
    """Name and number of each row of a list of classes."""
    cells = page.locator(f"{selector} li").evaluate_all(
        "rows => rows.map(row => [row.querySelector('.name').firstChild.textContent,"
        " row.querySelector('.number').textContent])"
    )
    return [(name, to_number(number)) for name, number in cells]


def caption(page: Page) -> tuple[float, float]:
    """The mean of the shown evidence, and the logit."""
    text = page.inner_text("#caption").removesuffix(" (of all votes)")
    mean, logit = text.removeprefix("mean of the shown evidence = ").split(", logit = ")
    return to_number(mean), to_number(logit)


def to_number(text: str) -> float:
    return float(text.replace("−", "-"))
