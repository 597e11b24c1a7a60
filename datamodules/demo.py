"""A generated data set whose truth is known: which pixels give the class, and which cannot.

    python -m datamodules.demo data/demo

Every image is a natural-looking background (coloured 1/f noise, a gradient, soft blobs) with two
kinds of things on it:

- Textures: two or three round patches of 22 to 26 px, all of the image's class. A class is a pattern
  in two colours; every colour is in two classes or more. One texture alone gives the class.
- Distractors: two plain marks in one of the textures' colours, more than 33 px apart. Their own
  class, the relation (row, column, rising, falling), cannot be seen by any patch of a BagNet-33,
  and is independent of the image's class, as is their colour.

The boxes of both stand in ``planted.json`` beside the shards, so that evidence can be checked
against the truth.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from datamodules.manifest import MANIFEST, Manifest
from datamodules.pack.progress import progress
from datamodules.shards import shard_name, write_shard

PLANTED = "planted.json"
VERSION = 1  # of the pictures: raise it when the same seed no longer gives the same bytes

COLOURS = {
    "red": (206, 48, 48),
    "green": (60, 168, 84),
    "blue": (44, 84, 200),
    "yellow": (238, 204, 64),
    "white": (240, 240, 236),
    "black": (28, 28, 32),
}
CLASS_NAMES = (
    "red-green stripes",
    "blue-yellow stripes",
    "black-white stripes",
    "red-white checks",
    "blue-black checks",
    "green-yellow checks",
    "red-yellow dots",
    "green-white dots",
    "blue-white dots",
)
RELATIONS = ("row", "column", "rising", "falling")

SIZE = 81  # of an image, px
PATCH = 33  # px: a texture is smaller, the marks of a distractor are further apart
MARK = 12  # diameter of a distractor's mark, px
MARGIN = 3  # px kept free at the edges
GAP = 12  # px between textures, so that no patch sees much of two

Box = tuple[int, int, int, int]  # top, left, bottom, right; half-open, px


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Coloured 1/f^a noise over a gradient, with soft blobs: (size, size, 3) float64, 0 to 255."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf  # no mean
    white = np.fft.rfft2(rng.standard_normal((2, size, size)))
    fields = np.fft.irfft2(white * frequency ** -rng.uniform(1.0, 1.6), s=(size, size))
    fields /= fields.std(axis=(1, 2), keepdims=True)

    y, x = np.mgrid[0:size, 0:size] / (size - 1) - 0.5
    angle = rng.uniform(0, 2 * math.pi)
    gradient = (x * math.cos(angle) + y * math.sin(angle))[..., None]
    base, far = rng.uniform(80, 170, (2, 1)) + rng.uniform(-18, 18, (2, 3))
    image = base + gradient * (far - base)
    for _ in range(rng.integers(1, 4)):
        centre_y, centre_x = rng.uniform(-0.5, 0.5, 2)
        radius = rng.uniform(0.2, 0.45)
        inside = 1 / (1 + np.exp((np.hypot(y - centre_y, x - centre_x) - radius) * 40))
        image += inside[..., None] * (rng.uniform(-30, 30) + rng.uniform(-12, 12, 3))
    image += fields[0][..., None] * rng.uniform(10, 24)
    image += fields[1][..., None] * rng.uniform(-8, 8, 3)
    return image.clip(0, 255)


def _paint(image: np.ndarray, box: Box, colours: np.ndarray) -> None:
    """Paint `colours` (broadcast to the box) into the round area of a square box, smooth at its rim."""
    top, left, bottom, right = box
    radius = (bottom - top) / 2
    offset = np.arange(bottom - top) + 0.5 - radius
    alpha = (radius + 0.5 - np.hypot(offset[:, None], offset[None, :])).clip(0, 1)[..., None]
    area = image[top:bottom, left:right]
    area += alpha * (colours - area)


def texture(rng: np.random.Generator, label: int, diameter: int) -> np.ndarray:
    """The texture of a class, at a random angle, phase and scale: (diameter, diameter, 3), 0 to 255."""
    names, pattern = CLASS_NAMES[label].split()
    pair = np.array([COLOURS[name] for name in names.split("-")], dtype=np.float64)
    period, angle = rng.uniform(7.0, 9.0), rng.uniform(0, math.pi)
    y, x = np.mgrid[0:diameter, 0:diameter] * (2 * math.pi / period)
    u = np.cos(x * math.cos(angle) + y * math.sin(angle) + rng.uniform(0, 2 * math.pi))
    v = np.cos(y * math.cos(angle) - x * math.sin(angle) + rng.uniform(0, 2 * math.pi))
    # Each wave crosses zero where the two colours meet.
    wave = {"stripes": u, "checks": 2 * u * v, "dots": u + v - 0.6}[pattern]
    first = 0.5 + 0.5 * np.tanh(3 * wave)[..., None]
    return (pair[1] + first * (pair[0] - pair[1])) * rng.uniform(0.85, 1.05)


def _free(box: Box, taken: list[Box], gap: int) -> bool:
    """Whether a box keeps `gap` pixels from all boxes placed so far."""
    return all(
        box[0] >= other[2] + gap
        or box[2] + gap <= other[0]
        or box[1] >= other[3] + gap
        or box[3] + gap <= other[1]
        for other in taken
    )


def _square(rng: np.random.Generator, size: int, side: int) -> Box:
    top, left = (int(v) for v in rng.integers(MARGIN, size - MARGIN - side + 1, 2))
    return top, left, top + side, left + side


def _marks(rng: np.random.Generator, size: int, relation: str) -> list[Box]:
    """Two mark boxes in a relation, with more than a patch of empty space between them."""
    far = int(rng.integers(PATCH + MARK + 1, size - 2 * MARGIN - MARK + 1))
    near = int(rng.integers(-4, 5))
    dy, dx = {"row": (near, far), "column": (far, near)}.get(relation, (far, far))
    if relation == "rising":
        dy = -dy
    low, high = MARGIN, size - MARGIN - MARK
    top = int(rng.integers(low - min(dy, 0), high - max(dy, 0) + 1))
    left = int(rng.integers(low - min(dx, 0), high - max(dx, 0) + 1))
    return [(t, ll, t + MARK, ll + MARK) for t, ll in ((top, left), (top + dy, left + dx))]


def draw(seed: int, number: int, label: int, size: int = SIZE) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw one image; the same arguments give the same pixels.

    Returns:
        The image, uint8 (size, size, 3), and its truth: ``label``, ``textures`` and ``distractors``
        (boxes: top, left, bottom, right; half-open, px) and their ``relation``.
    """
    rng = np.random.default_rng((seed, number))
    image = background(rng, size)
    relation = RELATIONS[rng.integers(len(RELATIONS))]
    marks, textures = _place(rng, size, relation)
    colours = tuple(COLOURS.values())
    colour = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.85, 1.05)
    for box in marks:
        _paint(image, box, colour)
    for box in textures:
        _paint(image, box, texture(rng, label, box[2] - box[0]))
    image += rng.normal(0, 3, image.shape)  # a camera's noise: nothing is perfectly flat
    truth = {"label": label, "textures": textures, "distractors": marks, "relation": relation}
    return image.clip(0, 255).round().astype(np.uint8), truth


def _place(rng: np.random.Generator, size: int, relation: str) -> tuple[list[Box], list[Box]]:
    """Boxes of the marks and of the textures; what does not fit together is drawn again."""
    count = int(rng.integers(2, 4))
    while True:
        marks = _marks(rng, size, relation)
        textures: list[Box] = []
        for _ in range(40):
            side = int(rng.integers(*DIAMETERS))
            top, left = (int(v) for v in rng.integers(MARGIN, size - MARGIN - side + 1, 2))
            box = (top, left, top + side, left + side)
            if _free(box, marks, 2) and _free(box, textures, GAP):
                textures.append(box)
            if len(textures) == count:
                return marks, textures


def generate(
    out: Path,
    train: int = TRAIN,
    val: int = VAL,
    seed: int = 0,
    report: Callable[[int], None] | None = None,
) -> bool:
    """Write the data set into ``out/train`` and ``out/val``, unless it is there already.

    Args:
        out: Folder of the data set.
        train: Training images.
        val: Validation images.
        seed: Of all pictures; the same arguments give the same bytes.
        report: Is told how many images are done.

    Returns:
        Whether there was anything to do.

    Raises:
        ValueError: Too few images, or ``out`` holds other data, which is left as it is.
    """
    counts = {"train": train, "val": val}
    for split, count in counts.items():
        if count < len(CLASS_NAMES):
            raise ValueError(
                f"{count} {split} images are too few: give at least one for each of the "
                f"{len(CLASS_NAMES)} classes"
            )
    missing = [split for split in counts if not _is_done(out / split, counts[split], seed)]
    done = 0
    for split in missing:
        _write_split(out / split, counts[split], seed, lambda n, d=done: report and report(d + n))
        done += counts[split]
    return bool(missing)
