"""Image files: the pixels that Pillow gives, or an error."""

import io

import numpy as np
import pytest
from PIL import Image

from datamodules.decoding.images import UnreadableImage, image_size, pixels
from datamodules.decoding.region import Region

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def encoded(image_format, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, image_format, **options)
    return file.getvalue()


def decode(data):
    return pixels(data, Region(0, 0, *image_size(data)))


@pytest.mark.parametrize(
    ("image_format", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {}),
        ("GIF", "RGB", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
    ],
)
def test_decoding_gives_the_rgb_pixels_that_pillow_gives(image_format, mode, options):
    data = encoded(image_format, mode, **options)
    image = decode(data)
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert image.shape == (30, 40, 3)
    assert image.dtype == np.uint8
    # the decoders may differ in the rounding of a colour space
    assert np.abs(image.astype(int) - reference).max() <= 2


def test_a_16_bit_image_becomes_8_bit():
    file = io.BytesIO()
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(file, "PNG")
    image = decode(file.getvalue())
    assert image.dtype == np.uint8
    assert (image == PIXELS[..., :1]).all()


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    image = decode(file.getvalue())
    assert image.shape == (30, 40, 3)
    assert image[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("data", [b"", b"no image", encoded("JPEG")[:300], encoded("PNG")[:300]])
def test_what_is_no_whole_image_is_an_error(data):
    with pytest.raises(UnreadableImage, match="not a readable image"):
        decode(data)
