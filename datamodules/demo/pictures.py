"""Draw one image of the demo: a background, textures that give its class, and distractors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from datamodules.common.batch import Box

WARM = {"red": (206, 48, 48), "yellow": (238, 204, 64), "pink": (224, 96, 168)}
COOL = {"green": (60, 168, 84), "blue": (44, 84, 200), "turquoise": (64, 190, 190)}
COLOURS = WARM | COOL
# A Latin square: one colour or pattern leaves three classes, any two of them leave one.
CLASS_NAMES = (
    "red-green stripes",
    "yellow-blue stripes",
    "pink-turquoise stripes",
    "red-blue checks",
    "yellow-turquoise checks",
    "pink-green checks",
    "red-turquoise dots",
    "yellow-green dots",
    "pink-blue dots",
)
RELATIONS = ("row", "column", "rising", "falling")

SIZE = 89  # of an image, px
PATCH = 33  # px: textures are smaller, the marks of a distractor are further apart
MARK = 12  # diameter of a distractor's mark, px
DIAMETERS = range(26, 31)  # of a texture, px
COUNTS = (2, 3)  # textures in an image
MARGIN = 3  # px kept free at the edges
GAP = 12  # px between textures, so that no patch sees much of two


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw coloured 1/f^a noise, a gradient and soft blobs: float32 (size, size, 3), 0 to 255."""
    period = -(-size // 32) * 32  # the noise is periodic, and round numbers are fast
    frequency = np.hypot(np.fft.fftfreq(period)[:, None], np.fft.rfftfreq(period)[None, :])
    frequency[0, 0] = np.inf  # the mean becomes 0
    white = np.fft.rfft2(rng.standard_normal((2, period, period), dtype=np.float32))
    noise = np.fft.irfft2(white * (frequency ** -rng.uniform(1.0, 1.6)).astype(np.float32))
    noise = (noise / noise.std(axis=(1, 2), keepdims=True))[:, :size, :size, None]

    x = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    y = x[:, None]
    angle = rng.uniform(0, 2 * math.pi)
    gradient = (x * math.cos(angle) + y * math.sin(angle))[..., None]
    base, far = rng.uniform(80, 170, (2, 1)) + rng.uniform(-18, 18, (2, 3))
    image = gradient * _float(far - base) + _float(base)
    for _ in range(rng.integers(1, 4)):
        centre_y, centre_x = rng.uniform(-0.5, 0.5, 2)
        radius = rng.uniform(0.2, 0.45)
        inside = 0.5 + 0.5 * np.tanh((radius - np.hypot(y - centre_y, x - centre_x)) * 20)
        image += inside[..., None] * _float(rng.uniform(-30, 30) + rng.uniform(-12, 12, 3))
    image += noise[0] * _float(rng.uniform(10, 24)) + noise[1] * _float(rng.uniform(-8, 8, 3))
    return _float(image.clip(0, 255))


def _float(values: Any) -> np.ndarray:
    """Convert to float32: half the time, and precise enough for 256 shades."""
    return np.asarray(values, dtype=np.float32)


def _paint(image: np.ndarray, box: Box, colours: np.ndarray) -> None:
    """Paint `colours` (broadcast to the box) into the disc in a square box, with a smooth rim."""
    top, left, bottom, right = box
    radius = (bottom - top) / 2
    offset = np.arange(bottom - top) + 0.5 - radius
    alpha = (radius + 0.5 - np.hypot(offset[:, None], offset[None, :])).clip(0, 1)[..., None]
    area = image[top:bottom, left:right]
    area += alpha * (colours - area)


def texture(rng: np.random.Generator, label: int, diameter: int) -> np.ndarray:
    """Draw a class's texture, turned and scaled at random: (diameter, diameter, 3), 0 to 255."""
    names, pattern = CLASS_NAMES[label].split()
    pair = np.array([COLOURS[name] for name in names.split("-")], dtype=np.float64)
    period, angle = rng.uniform(7.0, 9.0), rng.uniform(0, math.pi)
    y, x = np.mgrid[0:diameter, 0:diameter] * (2 * math.pi / period)
    u = np.cos(x * math.cos(angle) + y * math.sin(angle) + rng.uniform(0, 2 * math.pi))
    v = np.cos(y * math.cos(angle) - x * math.sin(angle) + rng.uniform(0, 2 * math.pi))
    # Each wave crosses zero where the two colours meet.
    wave = {"stripes": u, "checks": 2 * u * v, "dots": u + v - 0.6}[pattern]
    first = 0.5 + 0.5 * np.tanh(3 * wave)[..., None]
    return np.asarray((pair[1] + first * (pair[0] - pair[1])) * rng.uniform(0.85, 1.05))


def _marks(rng: np.random.Generator, size: int, relation: str) -> list[Box]:
    """Place two marks in a relation, with more than a patch of empty space between them."""
    far = int(rng.integers(PATCH + MARK + 1, size - 2 * MARGIN - MARK + 1))
    near = int(rng.integers(-4, 5))
    dy, dx = {"row": (near, far), "column": (far, near)}.get(relation, (far, far))
    if relation == "rising":
        dy = -dy
    low, high = MARGIN, size - MARGIN - MARK
    top = int(rng.integers(low - min(dy, 0), high - max(dy, 0) + 1))
    left = int(rng.integers(low - min(dx, 0), high - max(dx, 0) + 1))
    return [(t, ll, t + MARK, ll + MARK) for t, ll in ((top, left), (top + dy, left + dx))]


def draw(
    rng: np.random.Generator, label: int, size: int = SIZE
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw one image.

    Args:
        rng: Source of all randomness.
        label: Its class.
        size: Its side in pixels.

    Returns:
        The image, uint8 (size, size, 3), and its truth: `label`, the boxes of `textures` and
        `distractors`, and the `relation` of the distractors.
    """
    image = background(rng, size)
    relation = RELATIONS[rng.integers(len(RELATIONS))]
    marks, textures = _place(rng, size, relation)
    colours = tuple(COLOURS.values())
    colour = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.85, 1.05)
    for box in marks:
        _paint(image, box, colour)
    for box in textures:
        _paint(image, box, texture(rng, label, box[2] - box[0]))
    # Like a camera's noise: nothing is perfectly flat.
    image += 3 * rng.standard_normal(image.shape, dtype=np.float32)
    truth = {"label": label, "textures": textures, "distractors": marks, "relation": relation}
    return image.clip(0, 255).round().astype(np.uint8), truth


def _place(rng: np.random.Generator, size: int, relation: str) -> tuple[list[Box], list[Box]]:
    """Place marks and textures; an arrangement that leaves no room is drawn again."""
    count = int(rng.choice(COUNTS))
    while True:
        marks = _marks(rng, size, relation)
        textures: list[Box] = []
        while len(textures) < count:
            side = int(rng.choice(DIAMETERS))
            free = np.ones((size - 2 * MARGIN - side + 1,) * 2, dtype=bool)  # of top left corners
            for boxes, gap in ((marks, 2), (textures, GAP)):
                for box in boxes:
                    first = [max(0, edge - gap - side + 1 - MARGIN) for edge in box[:2]]
                    last = [max(0, edge + gap - MARGIN) for edge in box[2:]]
                    free[first[0] : last[0], first[1] : last[1]] = False
            corners = np.flatnonzero(free)
            if len(corners) == 0:
                break
            top, left = divmod(int(rng.choice(corners)), free.shape[1])
            top, left = top + MARGIN, left + MARGIN
            textures.append((top, left, top + side, left + side))
        else:
            return marks, textures
