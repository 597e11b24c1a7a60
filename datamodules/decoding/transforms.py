"""From an image file to uint8 pixels: what all crops share, and those of validation.

Only the part that is seen is decoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from datamodules.decoding.images import MAX_PIXELS, UnreadableImage, image_size, pixels
from datamodules.decoding.region import Region

_LONGEST_ASPECT = 16
"""How many times longer than wide, or wider than long, an image is kept to be cropped."""


class View(NamedTuple):
    """What is seen of an image: a square of a part that is resized.

    Attributes:
        box: The part.
        height: Height to which the part is resized, in pixels.
        width: Width to which the part is resized, in pixels.
        top: First row of the square, in the resized part.
        left: First column of the square, in the resized part.
        mirrored: Whether left and right are exchanged.
    """

    box: Region
    height: int
    width: int
    top: int = 0
    left: int = 0
    mirrored: bool = False


class Transform(ABC):
    """From an image file to a square of pixels.

    Args:
        size: Side of the square, in pixels.

    Raises:
        ValueError: The size is below 1.
    """

    def __init__(self, size: int) -> None:
        check_size("image_size", size)
        self.size = size

    @abstractmethod
    def view(self, width: int, height: int) -> View:
        """What is seen of an image of this size (in pixels). May draw from torch's generator."""

    def __call__(self, data: bytes) -> Tensor:
        """Decode and resize what is seen: uint8 (3, size, size), in channels-last memory.

        Raises:
            UnreadableImage: It cannot be decoded to its end, or has too many pixels.
        """
        view = self.view(*image_size(data))
        return self.resize(pixels(data, view.box), view)

    def resize(self, box: np.ndarray, view: View) -> Tensor:
        """From the pixels of the view's box, uint8 (height, width, 3), to what is seen."""
        bottom, right = view.top + self.size, view.left + self.size
        image = _resize(box, view)[:, view.top : bottom, view.left : right]
        return image.flip(-1) if view.mirrored else image


class EvalTransform(Transform):
    """Resize and centre crop.

    Args:
        image_size: Side of the result, in pixels.
        resize_size: Length of the shorter side before the crop, in pixels; smaller images are
            enlarged.

    Raises:
        ValueError: A size is below 1, or the crop is larger than the resized image.
    """

    def __init__(self, image_size: int = 224, resize_size: int = 256) -> None:
        super().__init__(image_size)
        check_resize(resize_size, image_size)
        self._shorter = resize_size

    def view(self, width: int, height: int) -> View:
        box = not_too_long(width, height)
        rows, columns = resized(box, self._shorter)
        top, left = (round((side - self.size) / 2) for side in (rows, columns))
        return View(box, rows, columns, top, left)


class WholeTransform(EvalTransform):
    """Resize as in validation, without the crop: the result keeps the shape of the image.

    Args:
        resize_size: Length of the shorter side, in pixels.

    Raises:
        ValueError: The size is below 1.
    """

    def __init__(self, resize_size: int = 256) -> None:
        super().__init__(1, resize_size)

    def view(self, width: int, height: int) -> View:
        box = Region(0, 0, width, height)
        view = View(box, *resized(box, self._shorter))
        if view.width * view.height > MAX_PIXELS:
            raise UnreadableImage(
                f"it has {width} x {height} pixels, and would have {view.width} x {view.height} "
                f"when its shorter side is {self._shorter}, more than {MAX_PIXELS:,}"
            )
        return view

    def resize(self, box: np.ndarray, view: View) -> Tensor:
        """From the pixels of an image, uint8 (height, width, 3), to the resized (3, H, W)."""
        return _resize(box, view)


def _resize(box: np.ndarray, view: View) -> Tensor:
    image = torch.from_numpy(box).permute(2, 0, 1)
    size = [view.height, view.width]
    resized: Tensor = v2.functional.resize_image(image, size, antialias=True)
    return resized


def not_too_long(width: int, height: int) -> Region:
    """Take the middle of a strip: enlarged as a whole, it would fill the memory."""
    longest = _LONGEST_ASPECT * min(width, height)
    left, top = (max(0, side - longest) // 2 for side in (width, height))
    return Region(left, top, min(width, longest), min(height, longest))


def resized(box: Region, shorter: int) -> tuple[int, int]:
    """Height and width of a box when its shorter side is resized to this length."""
    side = min(box.width, box.height)
    return shorter * box.height // side, shorter * box.width // side


def check_resize(resize_size: int, image_size: int) -> None:
    check_size("resize_size", resize_size)
    if resize_size < image_size:
        raise ValueError(
            f"resize_size is {resize_size} and image_size {image_size}, so the crop would have "
            f"black borders; use a resize_size of at least {image_size} (the usual ratio gives "
            f"{round(image_size * 256 / 224)})"
        )


def check_size(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}, but it is a number of pixels, at least 1")


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Within this context, torch draws on the CPU from `seed`; afterwards, its state is as before.

    Takes about 3 us. `torch.random.fork_rng` and `torch.manual_seed` would take 80 times as long,
    and the latter also reseeds the accelerators.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
