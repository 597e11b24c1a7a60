"""Turns any image into an RGB JPEG, and keeps the bytes of what already is one."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image

from datamodules.decoding.images import UnreadableImage, check_pixels, opened, to_rgb

Quality = int | Literal["lossless"]
"""Quality of a JPEG, 1 to 95; or a PNG instead, which loses nothing."""

MAX_SIDE = 65_500
"""The most pixels of a JPEG's side that libjpeg writes."""


def to_rgb_jpeg(data: bytes, resize: int | None = None, quality: Quality = 90) -> bytes:
    """Decode an image completely and return it as an RGB JPEG (or PNG, if it may lose nothing).

    The bytes of an RGB JPEG that need not shrink are returned unchanged; without loss, so are those
    of an RGB PNG. EXIF data is ignored, and lost on re-encoding: pixels stay as they are stored, as
    ImageNet loaders see them.

    Args:
        data: The image file.
        resize: The most pixels of the shorter side; None for no limit.
        quality: Of images that must be encoded again.

    Raises:
        UnreadableImage: The format is unknown, the file is cut short or damaged, or the image has
            more than `MAX_PIXELS`, or sides that a JPEG cannot have. A JPEG that must shrink may
            have more, unless it is progressive.
    """
    kept = ("JPEG", "PNG") if quality == "lossless" else ("JPEG",)
    with opened(data, any_size=True) as image:
        side = min(image.size)
        limit = side if resize is None else min(side, resize)
        width, height = (max(limit, round(each * (limit / side))) for each in image.size)
        _check_pixels(image, (width, height))
        if image.format in kept and image.mode == "RGB" and limit == side:
            # At an eighth of the size libjpeg still reads every coefficient, in half the time:
            # enough to know that the image is whole.
            image.draft("RGB", (1, 1))
            image.load()
            return data
        picture = to_rgb(image)
        if limit < side:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        encoded = io.BytesIO()
        if quality == "lossless":
            picture.save(encoded, "PNG")
        elif max(picture.size) > MAX_SIDE:
            raise UnreadableImage(
                "{} x {} pixels, and a side of a JPEG has at most {:,}".format(
                    *picture.size, MAX_SIDE
                )
            )
        else:
            picture.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _check_pixels(image: Image.Image, size: tuple[int, int]) -> None:
    """Let a large JPEG that will have this size be decoded at 1/2, 1/4 or 1/8, in bounded memory.

    Raises:
        UnreadableImage: Even so there would be too many pixels. A progressive JPEG is in memory as
            a whole, whatever is made of it.
    """
    scales = image.format == "JPEG" and "progressive" not in image.info
    try:
        check_pixels(*image.size)
    except UnreadableImage as error:
        if not scales:
            raise
        if size == image.size:
            raise UnreadableImage(f"{error}; --resize makes it smaller") from None
        image.draft(image.mode, size)
        check_pixels(*image.size)
