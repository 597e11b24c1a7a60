"""Image files: the pixels that Pillow gives, or an error."""

import io

import numpy as np
import pytest
from PIL import Image

from datamodules.decoding.images import UnreadableImage, image_size, pixels
from datamodules.decoding.region import Region
from tests.datamodules.loaders import image_file, noise

PIXELS = noise(30, 40)


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
    data = image_file(PIXELS, image_format, mode, **options)
    image = decode(data)
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert image.shape == (30, 40, 3)
    assert image.dtype == np.uint8
    # the decoders may round the conversion of a colour space differently
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


@pytest.mark.parametrize(
    "data", [b"", b"no image", image_file(PIXELS)[:300], image_file(PIXELS, "PNG")[:300]]
)
def test_anything_but_a_complete_image_is_an_error(data):
    with pytest.raises(UnreadableImage, match="not a readable image"):
        decode(data)
