"""Image files: their size, known without decoding them, and their pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image

# No more than these: PIL can also open formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

MAX_PIXELS = 89_478_485
"""The largest image that is decoded, to a quarter of a gigabyte; PIL's limit too. ImageNet's largest has 61 million."""


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image file, in pixels; takes 3 us for a JPEG.

    Raises:
        ValueError: No image of a known format, or one of more than `MAX_PIXELS`, which a few bytes
            can claim (a decompression bomb).
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        width, height = _size_by_pil(data)
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    return width, height


def _size_by_pil(data: bytes) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.size
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise whatever their parsers happen to raise
        raise ValueError("not a readable image") from error


def pixels(data: bytes) -> np.ndarray:
    """Decode an image file to RGB: uint8 (H, W, 3), as PIL does, of an animation the first frame.

    Raises:
        ValueError: It cannot be decoded to its end, or has more than `MAX_PIXELS`.
    """
    image_size(data)
    try:
        # Exact, as PIL decodes, and in a few per cent less time. Strict: else the part of an image
        # that is missing would be grey.
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError:
        pass  # no JPEG, or one with CMYK or with flaws, of which PIL knows the harmless ones
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.array(to_rgb(image))
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"not a readable image ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8 bits of red, green and blue."""
    if image.mode.startswith("I"):  # 16 bits a pixel: PIL would clip at 255
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P":  # a palette may carry transparency, which only RGBA can hold
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
