"""From an image file to pixels: uint8 in, uint8 out; normalisation happens on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchvision.transforms import v2

from datamodules.images import pixels


def train_transform(image_size: int = 224, min_scale: float = 0.08) -> v2.Transform:
    """Random resized crop and flip: uint8 (3, H, W) -> (3, image_size, image_size).

    Args:
        image_size: side of the result, in pixels.
        min_scale: smallest area of a crop, as a share of the image's.

    Raises:
        ValueError: an image size below one pixel, or a share outside (0, 1].
    """
    _check_size("image_size", image_size)
    if not 0 < min_scale <= 1:
        raise ValueError(
            f"min_scale is {min_scale}, but it is a share of the image: 0 < share <= 1"
        )
    crop = v2.RandomResizedCrop(image_size, scale=(min_scale, 1.0), antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


def eval_transform(image_size: int = 224, resize_size: int = 256) -> v2.Transform:
    """Resize and centre crop: uint8 (3, H, W) -> (3, image_size, image_size).

    Args:
        image_size: side of the result, in pixels.
        resize_size: length of the shorter side before the crop, in pixels; smaller images are
            enlarged.

    Raises:
        ValueError: a size below one pixel, or a crop larger than the resized image, which would
            have black borders.
    """
    _check_size("image_size", image_size)
    _check_size("resize_size", resize_size)
    if resize_size < image_size:
        raise ValueError(
            f"resize_size is {resize_size} and image_size {image_size}, so the crop would have "
            f"black borders; use a resize_size of at least {image_size} (the usual ratio gives "
            f"{round(image_size * 256 / 224)})"
        )
    return v2.Compose([v2.Resize(resize_size, antialias=True), v2.CenterCrop(image_size)])


def _check_size(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}, but it is a number of pixels, at least 1")


def decode(data: bytes) -> Tensor:
    """Decode an image file to RGB: uint8 (3, H, W), in channels-last memory.

    Raises:
        ValueError: it cannot be decoded to its end, or has too many pixels.
    """
    return torch.from_numpy(pixels(data)).permute(2, 0, 1)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Draw what torch draws on the CPU from `seed`, and leave the process's random state as it was.

    Costs about 3 us. `torch.random.fork_rng` and `torch.manual_seed` would cost 80 times as much,
    and the latter reseeds the accelerators too.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
