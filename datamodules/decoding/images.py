"""Image files: their size, known without decoding them, and their pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLESPERPIXEL, ImageFileDirectory_v2

from datamodules.decoding.region import Region, decode_region

# Only these, because PIL can also open formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

MAX_PIXELS = 89_478_485
"""The largest image that is decoded, to a quarter of a gigabyte, as in PIL. ImageNet's largest has
61 million pixels."""

MAX_BYTES = 1 << 30
"""The largest file that is read as an image; none of `MAX_PIXELS` pixels needs so many."""

PNG = b"\x89PNG\r\n\x1a\n"
"""How a PNG begins."""

# What the pixels do not need: texts, colour profile, and what cameras and phones tell.
_ABOUT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")


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
        with opened(data) as image:
            width, height = image.size
    check_pixels(width, height)
    return width, height


def check_pixels(width: int, height: int) -> None:
    """Raise an `UnreadableImage` if there are more than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")


@contextmanager
def opened(data: bytes, any_size: bool = False) -> Iterator[Image.Image]:
    """Open an image file with PIL, whose errors on damaged bytes become one.

    Args:
        data: The file.
        any_size: Open JPEGs of any size; the caller must call `check_pixels`.

    Raises:
        UnreadableImage: It has more than `MAX_PIXELS`, or PIL raised an error, here or in the
            caller's block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(data, any_size) as image:
                if not any_size:
                    check_pixels(*image.size)
                yield image
    except (MemoryError, UnreadableImage):
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # PIL's plugins raise any exception
        reason = str(error).split(" <_io.")[0] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = _channels(data) or reason
        raise UnreadableImage(f"not a readable image ({reason})") from error


def _open(data: bytes, any_size: bool) -> Image.Image:
    if any_size and data.startswith(b"\xff\xd8\xff"):  # `Image.open` would refuse a large one
        return JpegImageFile(io.BytesIO(data))
    return Image.open(io.BytesIO(_pixels_only(data)), formats=FORMATS)


def _channels(data: bytes) -> str:
    """What a TIFF holds that PIL does not open, such as five channels; empty for other files."""
    with suppress(Exception):
        file = io.BytesIO(data)
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        count, bits = tags.get(SAMPLESPERPIXEL, 1), tags.get(BITSPERSAMPLE, (1,))
        return f"a TIFF of {count} channel{'s' * (count != 1)} of {bits[0]} bits"
    return ""


def _pixels_only(data: bytes) -> bytes:
    """Leave out texts and colour profile of a PNG: PIL refuses those of more than a megabyte."""
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _ABOUT:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


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
    with opened(data) as file:
        return np.array(to_rgb(file))  # a copy, because it must be writable


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8 bits of red, green and blue."""
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image), posinf=0, neginf=0)
        # Usually 1 is white, and resampling may give a little more. PIL takes 255 for white.
        return _grey(np.rint(values * (255 if values.max() <= 1.5 else 1)))
    if image.mode.startswith("I"):  # PIL would clip at 255
        wide = np.asarray(image).astype(np.int64)
        has_8_bits = image.mode == "I" and wide.max() <= 255  # in 32, as NumPy's users store them
        return _grey(wide if has_8_bits else wide >> 8)
    if image.mode == "P":  # a palette may carry transparency, which only RGBA can hold
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
