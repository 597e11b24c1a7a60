"""Decoding on the GPU that trains: the workers draw what is to be seen of each plain JPEG and hand out its bytes.

What a GPU's decoder may not take, or not for certain in the right colours, the workers decode as ever.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
import torchvision
from torch import Tensor

from datamodules.decoding.images import UnreadableImage, image_size, pixels
from datamodules.decoding.region import Region
from datamodules.decoding.transforms import Transform, View, seen

GREY = 128
"""Each value of the pixels in the place of a sample that cannot be read."""

_SAMPLINGS = {"444", "422", "420", "440", "411", "Gray"}


class File(NamedTuple):
    """A plain JPEG, and what is to be seen of it."""

    data: bytes
    view: View


class Encoded(NamedTuple):
    """A batch of B images, n of which are files still: `decode` makes their pixels.

    Attributes:
        images: uint8 (B - n, 3, S, S) RGB in channels-last memory: the others, in their order.
        labels: int64 (B,).
        sample_ids: int64 (B,).
        places: int64 (n,), those of the files in the batch, rising.
        files: uint8, the bytes of all files one after the other.
        ends: int64 (n,), of each file in these.
        views: int64 (n, 7): left, top, width and height of the box, height, width, mirrored or not.
    """

    images: Tensor
    labels: Tensor
    sample_ids: Tensor
    places: Tensor
    files: Tensor
    ends: Tensor
    views: Tensor


class PlainJpegsUndecoded:
    """Does what a transform does, but leaves plain JPEGs as they are; the draws are the same.

    Args:
        transform: says what is to be seen, and decodes the other images.
    """

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def __call__(self, data: bytes) -> Tensor | File:
        """Draw what is seen: the file with that, or uint8 (3, size, size).

        Raises:
            UnreadableImage: it cannot be decoded to its end, or has too many pixels.
        """
        if _is_plain_jpeg(data):
            return File(data, self._transform.view(*image_size(data)))
        return self._transform(data)


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether it is one by its header and its last two bytes; takes 3 us."""
    try:
        _, _, colours, sampling = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    # nvJPEG promises neither to know the markers that tell RGB, CMYK and YCCK, nor to notice that
    # a file is cut short.
    return colours in ("YCbCr", "Gray") and sampling in _SAMPLINGS and data.endswith(b"\xff\xd9")


def encode(
    images: Sequence[Tensor | File], labels: Tensor, sample_ids: Tensor, size: int
) -> Encoded:
    """Pack a batch into few tensors, which processes can share and a CUDA device can have pinned.

    Args:
        images: a file each, or uint8 (3, size, size).
        labels: int64 (B,).
        sample_ids: int64 (B,).
        size: S, in pixels.
    """
    decoded = [image for image in images if isinstance(image, Tensor)]
    files = [image for image in images if isinstance(image, File)]
    places = [place for place, image in enumerate(images) if isinstance(image, File)]
    rows = torch.empty((len(decoded), size, size, 3), dtype=torch.uint8)
    for row, image in zip(rows, decoded, strict=True):
        row.copy_(image.permute(1, 2, 0))
    views = [(*v.box, v.height, v.width, v.mirrored) for v in (file.view for file in files)]
    return Encoded(
        images=rows.permute(0, 3, 1, 2),
        labels=labels,
        sample_ids=sample_ids,
        places=torch.tensor(places, dtype=torch.int64),
        files=torch.from_numpy(np.asarray(bytearray().join(file.data for file in files))),
        ends=torch.tensor([len(file.data) for file in files], dtype=torch.int64).cumsum(0),
        views=torch.tensor(views, dtype=torch.int64).reshape(-1, 7),
    )


def decode(encoded: Encoded, device: torch.device) -> tuple[Tensor, dict[int, str]]:
    """Make the images of a batch.

    Returns:
        uint8 (B, 3, S, S) RGB on the device, in channels-last memory, grey where a file could not
        be read; and why not, by the place of the file in the batch.
    """
    count, size = len(encoded.labels), encoded.images.shape[-1]
    views = [View(Region(*row[:4]), row[4], row[5], bool(row[6])) for row in encoded.views.tolist()]
    is_decoded = torch.ones(count, dtype=torch.bool)
    is_decoded[encoded.places] = False
    causes: dict[int, str] = {}
    stream = _stream(device)
    with torch.cuda.stream(stream):
        images = torch.full((count, size, size, 3), GREY, dtype=torch.uint8, device=device)
        images = images.permute(0, 3, 1, 2)
        images[is_decoded.nonzero()[:, 0].to(device)] = encoded.images.to(device)
        boxes = _boxes(encoded, views, device)
        for place, view, box in zip(encoded.places.tolist(), views, boxes, strict=True):
            if isinstance(box, UnreadableImage):
                causes[place] = str(box)
            else:
                images[place] = seen(box, view, size)
    if stream is not None:
        stream.synchronize()
        images.record_stream(torch.cuda.current_stream(device))
    return images, causes


def _boxes(
    encoded: Encoded, views: list[View], device: torch.device
) -> list[Tensor | UnreadableImage]:
    """The boxes of the views, uint8 (3, height, width), or why there is none."""
    if not views:
        return []
    files = list(encoded.files.tensor_split(encoded.ends[:-1]))
    try:
        # Looked up in here: torchvision means to remove it, and nothing else needs it.
        whole = torchvision.io.decode_jpeg(files, mode="RGB", device=device)
    except RuntimeError as error:  # it does not say which file it means
        cause = str(error).partition("\n")[0]
        told = f"{device} cannot decode a batch, so one CPU core does, slowly: {cause}"
        warnings.warn(told, stacklevel=2)  # Python shows equal ones once
        return [_box_by_cpu(file, view.box) for file, view in zip(files, views, strict=True)]
    return [
        image[:, box.top : box.top + box.height, box.left : box.left + box.width]
        for image, (box, *_) in zip(whole, views, strict=True)
    ]


def _box_by_cpu(file: Tensor, box: Region) -> Tensor | UnreadableImage:
    try:
        return torch.from_numpy(pixels(file.numpy().tobytes(), box)).permute(2, 0, 1)
    except UnreadableImage as error:
        return error


@cache
def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """For all work of `decode` on a GPU, which waits for its end.

    torchvision decodes on a stream of its own into memory of the current one, without regard for
    what that has still to do: on the training's, it would overwrite images that are yet to be
    resized. Beside it, a batch is decoded while the step before is computed.
    """
    return torch.cuda.Stream(device) if device.type == "cuda" else None
