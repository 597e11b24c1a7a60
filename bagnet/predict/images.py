"""The images: which ones, what the network sees of them, and where that lies in their files."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bagnet.model.card import card_of
from datamodules.common.files import user_path
from datamodules.decoding.folders import list_images, read_image
from datamodules.decoding.images import image_size
from datamodules.decoding.transforms import EvalTransform, View
from datamodules.processes.children import default_workers

Box = tuple[int, int, int, int]
"""Top, left, bottom and right in pixels, half-open, as `BagNet.box` gives them."""


class Seen(NamedTuple):
    """What the network sees of an image.

    Attributes:
        file: Path of the image.
        pixels: uint8 (3, size, size).
        view: Where that lies in the image.
    """

    file: Path
    pixels: Tensor
    view: View


def find(places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """List files as they are, and the images below folders sorted by name.

    Returns:
        The files, in the order of `places`, and notes on what is left out of folders.

    Raises:
        ValueError: A folder has no images or cannot be listed.
    """
    found, notes = [], []
    for place in places:
        files, left_out = list_images(place) if place.is_dir() else ([place], [])
        found += files
        notes += left_out
    return found, notes


def read_images(model: nn.Module, paths: str | Path | Sequence[str | Path]) -> Tensor:
    """Read image files as a network's validation saw its images: resized, and the centre cropped.

    Sizes are those that the network's file names (`model.card`), and 224 of 256 pixels if it names
    none. `bagnet.normalize` makes the network's inputs from the pixels.

    Args:
        model: The network.
        paths: A file, or several.

    Returns:
        Pixels, uint8 (B, 3, size, size).

    Raises:
        ValueError: A file cannot be read as an image, or there are none.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from bagnet.model.network import BagNet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (640, 480)).save(f"{folder}/grey.png")
        ...     images = read_images(BagNet(9, num_classes=10, width=4), f"{folder}/grey.png")
        >>> images.shape
        torch.Size([1, 3, 224, 224])
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    if not files:
        raise ValueError("there are no images to read: give at least one file")
    card = card_of(model)
    transform = EvalTransform(card.image_size or 224, card.resize_size or 256)
    return torch.stack([read_image(user_path(file), transform) for file in files])


def batches(
    files: Sequence[Path], transform: EvalTransform, size: int
) -> Generator[list[Seen | str], None, None]:
    """Read images in threads, one batch ahead of the caller.

    Yields:
        At most `size` images, in the order of `files`; for one that cannot be read, the reason.
    """

    def read(file: Path) -> Seen | str:
        def see(data: bytes) -> Seen:
            return Seen(file, transform(data), transform.view(*image_size(data)))

        try:
            return read_image(file, see)
        except ValueError as error:
            return str(error)

    pool = ThreadPoolExecutor(default_workers())
    with warnings.catch_warnings():  # decoders do the same, and threads would mix up the filters
        warnings.simplefilter("ignore")
        try:
            ahead: list[Future[Seen | str]] = []
            for first in range(0, len(files) + size, size):
                ready = ahead
                ahead = [pool.submit(read, file) for file in files[first : first + size]]
                if ready:
                    yield [future.result() for future in ready]
        finally:
            pool.shutdown(cancel_futures=True)


def in_image(box: Box, view: View) -> Box:
    """Find the pixels of the image that a box of what the network sees comes from.

    Pixels that are seen in part belong to it.
    """
    top, left, bottom, right = box
    rows, columns = view.box.height, view.box.width
    return (
        view.box.top + (view.top + top) * rows // view.height,
        view.box.left + (view.left + left) * columns // view.width,
        view.box.top - -(view.top + bottom) * rows // view.height,
        view.box.left - -(view.left + right) * columns // view.width,
    )
