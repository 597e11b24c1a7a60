"""The images: which ones, what the network sees of them, and where that lies in their files."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from datamodules.common.processes import default_workers
from datamodules.decoding.folders import list_images, read_image
from datamodules.decoding.images import image_size
from datamodules.decoding.transforms import EvalTransform, View

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
