"""Image files: their size, known without decoding them, and their pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image

from datamodules.decoding.region import Region, decode_region

# Only these, because PIL can also open formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""How the names of files in these formats end, in lower case."""

MAX_PIXELS = 89_478_485
"""The largest image that is decoded, to a quarter of a gigabyte, as in PIL. ImageNet's largest has
61 million pixels."""


class UnreadableImage(ValueError):
    """The bytes are not an image that can be decoded to its end."""


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image file, in pixels. Takes 3 us for a JPEG.

    Raises:
        UnreadableImage: It is not an image of a known format, or it claims to have more than
            `MAX_PIXELS`, as a few bytes can (a decompression bomb).
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        width, height = _size_by_pil(data)
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    return width, height


def _size_by_pil(data: bytes) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                size: tuple[int, int] = image.size
                return size
    except Image.DecompressionBombError:
        raise UnreadableImage(f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise any exception
        raise UnreadableImage("not a readable image") from error


def pixels(data: bytes, box: Region) -> np.ndarray:
    """Decode a part of an image file to RGB, as PIL does. An animation gives its first frame.

    Whether the file is readable does not depend on the part, and the pixels do not depend on which
    decoder is used. The rest of a JPEG, behind the part, is only searched for its end.

    Args:
        data: The file.
        box: The part, within the `image_size` that the caller has requested and so checked.

    Returns:
        uint8 (box.height, box.width, 3), contiguous.

    Raises:
        UnreadableImage: The file cannot be decoded to its end.
    """
    region = decode_region(data, box)
    if region is not None:
        return region
    rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    return np.ascontiguousarray(_whole(data)[rows, columns])


def _whole(data: bytes) -> np.ndarray:
    try:
        # The pixels are PIL's, in a few percent less time. If it were not strict, the missing part
        # of an image would be grey.
        image: np.ndarray = simplejpeg.decode_jpeg(
            data, "RGB", fastdct=False, fastupsample=False, strict=True
        )
        return image
    except ValueError:
        pass  # not a JPEG, or CMYK, or flawed; PIL knows which flaws are harmless
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            return np.array(to_rgb(file))  # a copy, because it must be writable
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImage(f"not a readable image ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8 bits of red, green and blue."""
    if image.mode.startswith("I"):  # 16 bits per pixel, which PIL would clip at 255
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P":  # a palette may carry transparency, which only RGBA can hold
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
