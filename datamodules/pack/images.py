"""Turns any image into an RGB JPEG, and keeps the bytes of what already is one."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from datamodules.decoding.images import FORMATS, UnreadableImage, to_rgb


def to_rgb_jpeg(data: bytes, resize: int | None = None, quality: int = 90) -> bytes:
    """Decode an image completely and return it as an RGB JPEG.

    The bytes of an RGB JPEG that need not shrink are returned unchanged. EXIF data is ignored, and
    lost on re-encoding: pixels stay as they are stored, as ImageNet loaders see them.

    Args:
        data: The image file.
        resize: The most pixels of the shorter side; None for no limit.
        quality: JPEG quality of images that must be encoded again, 1 to 95.

    Raises:
        UnreadableImage: The format is unknown, the file is cut short or damaged, or the image has
            more pixels than PIL's limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                side = min(image.size)
                limit = side if resize is None else min(side, resize)
                if image.format == "JPEG" and image.mode == "RGB" and limit == side:
                    # At an eighth of the size libjpeg still reads every coefficient, in half
                    # the time: enough to know that the image is whole.
                    image.draft("RGB", (1, 1))
                    image.load()
                    return data
                picture = to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make PIL raise nearly anything
        raise UnreadableImage(str(error).split(" <_io.")[0] or type(error).__name__) from None
    if limit < side:
        width, height = (max(limit, round(each * (limit / side))) for each in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()
