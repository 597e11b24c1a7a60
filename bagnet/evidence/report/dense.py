"""Maps around every pixel in a report, small enough for a page.

A map is stored in 255 levels, from -limit to limit, where the colours of the page end. The maps of
an image lie one below the other in a grey PNG.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bagnet.evidence.dense import dense_evidence
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize

if TYPE_CHECKING:
    from bagnet.evidence.report.votes import ImageVotes

MAX_BYTES = 32_000_000
"""What all maps of a page take at most, as text in the page."""

ZERO = 128
"""The level of no evidence; 1 and 255 are those of -limit and limit."""


@dataclass(frozen=True)
class DenseMaps:
    """The evidence around every pixel of an image, or of every second one, and so on.

    Attributes:
        classes: The classes whose maps these are.
        means: The mean over all pixels of each map, in logits.
        step: Every how many pixels there is an entry, from pixel `step // 2` on.
        png: The levels of all maps, grey (classes * H', W').
    """

    classes: tuple[int, ...]
    means: tuple[float, ...]
    step: int
    png: bytes


def dense_maps(model: BagNet, image: ImageVotes, images: int) -> DenseMaps:
    """Compute the maps for the predicted and the true class.

    Args:
        model: The network.
        image: The image.
        images: Number of images on the page, which share `MAX_BYTES` equally. If the maps would
            need more than that, they become coarser.
    """
    maps = dense_evidence(model, normalize(image.pixels[None])[0], image.judged).float().numpy()
    levels = ZERO + np.rint(127 * (maps / image.limit).clip(-1, 1)).astype(np.int16)
    means = tuple(float(each.mean(dtype=np.float64)) for each in maps)
    for step in count(1):
        taken = levels[:, step // 2 :: step, step // 2 :: step].astype(np.uint8)
        png = _png(taken.reshape(-1, taken.shape[2]))
        if 4 * (-(-len(png) // 3)) <= MAX_BYTES // images:
            return DenseMaps(tuple(image.judged), means, step, png)
    raise AssertionError("an entry fits")


def _png(grey: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG", optimize=True)
    return file.getvalue()
