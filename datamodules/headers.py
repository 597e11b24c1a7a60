"""What an image file says of itself, read without decoding it."""

from __future__ import annotations

import io
import warnings

from PIL import Image

# No more than these: PIL can also open formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

MAX_PIXELS = 89_478_485
"""The largest image that is decoded: a quarter of a gigabyte, which is also PIL's limit. ImageNet's largest has 61 million."""


def check_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image file, in pixels; costs about 15 us.

    Raises:
        ValueError: No image of a known format, or one of more than `MAX_PIXELS`, which a few bytes
            can claim (a decompression bomb).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels ({error})") from None
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise whatever their parsers happen to raise
        raise ValueError("not a readable image") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    return width, height
