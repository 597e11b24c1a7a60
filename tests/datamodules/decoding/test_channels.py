"""Images of any channels become red, green and blue by the rules of docs/packing.md."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from datamodules.decoding.images import UnreadableImage, image_size, pixels
from datamodules.decoding.region import Region

GREY, RGB, CMYK = 1, 2, 5  # how a TIFF says what its channels mean
UNSPECIFIED, ALPHA = 0, 2  # and what those beyond these mean
INTEGER, SIGNED, FLOAT = 1, 2, 3


def decode(data):
    return pixels(data, Region(0, 0, *image_size(data)))


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values, meaning, extra=(), numbers=INTEGER):
    """A TIFF of values (height, width, channels), which PIL can write only some of."""
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    bits = [values.dtype.itemsize * 8] * channels
    tags = {256: [width], 257: [height], 258: bits, 259: [1], 262: [meaning], 273: [8]}
    tags |= {277: [channels], 278: [height], 279: [len(data)], 339: [numbers] * channels}
    if extra:
        tags[338] = list(extra)
    directory, more = struct.pack("<H", len(tags)), b""
    end = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, entries in sorted(tags.items()):
        value = struct.pack(f"<{len(entries)}H", *entries)
        if len(value) > 4:
            value, more = struct.pack("<I", end + len(more)), more + value
        directory += struct.pack("<HHI", tag, 3, len(entries)) + value.ljust(4, b"\0")
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory + bytes(4) + more


def filled(*channels, kind=np.uint8):
    return np.full((2, 2, len(channels)), channels, kind)


def palette(transparent):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    return saved(image, **({"transparency": 1} if transparent else {}))


def two_pages():
    return saved(
        Image.new("RGB", (2, 2), (9, 8, 7)),
        "TIFF",
        save_all=True,
        append_images=[Image.new("RGB", (4, 4))],
    )


EXAMPLES = {
    "bilevel": (saved(Image.new("1", (2, 2), 1)), (255, 255, 255)),
    "grey": (saved(Image.new("L", (2, 2), 7)), (7, 7, 7)),
    "grey-alpha": (saved(Image.new("LA", (2, 2), (7, 0))), (7, 7, 7)),
    "grey-and-another": (tiff(filled(7, 9), GREY, [UNSPECIFIED]), (7, 7, 7)),
    "grey-16": (tiff(filled(0x1234, kind=np.uint16), GREY), (0x12, 0x12, 0x12)),
    "grey-16-png": (saved(Image.fromarray(filled(0x1234, kind=np.uint16)[..., 0])), (0x12,) * 3),
    "grey-16-signed": (tiff(filled(-5, kind=np.int16), GREY, (), SIGNED), (0, 0, 0)),
    "grey-32-of-8": (tiff(filled(200, kind=np.int32), GREY, (), SIGNED), (200, 200, 200)),
    "grey-32": (tiff(filled(0x1234, kind=np.int32), GREY, (), SIGNED), (0x12, 0x12, 0x12)),
    "grey-float-1": (tiff(filled(0.2, kind=np.float32), GREY, (), FLOAT), (51, 51, 51)),
    "grey-float-255": (tiff(filled(51.2, kind=np.float32), GREY, (), FLOAT), (51, 51, 51)),
    "palette": (palette(False), (9, 8, 7)),
    "palette-alpha": (palette(True), (9, 8, 7)),
    "rgb-16": (tiff(filled(0x1234, 0x2345, 0x3456, kind=np.uint16), RGB), (0x12, 0x23, 0x34)),
    "rgb-alpha": (saved(Image.new("RGBA", (2, 2), (9, 8, 7, 0))), (9, 8, 7)),
    "rgb-alpha-tiff": (tiff(filled(9, 8, 7, 0), RGB, [ALPHA]), (9, 8, 7)),
    "rgb-and-one": (tiff(filled(9, 8, 7, 6), RGB, [UNSPECIFIED]), (9, 8, 7)),
    "rgb-and-three": (tiff(filled(9, 8, 7, 6, 5, 4), RGB, [UNSPECIFIED] * 3), (9, 8, 7)),
    "cmyk": (tiff(filled(0, 255, 255, 0), CMYK), (255, 0, 0)),
    "two-pages": (two_pages(), (9, 8, 7)),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_channels_become_red_green_and_blue_by_a_rule(kind):
    data, colour = EXAMPLES[kind]
    assert decode(data).tolist() == [[list(colour)] * 2] * 2


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (tiff(filled(1, 2, 3, 4, 5), GREY, [UNSPECIFIED] * 4), "5 channels of 8 bits"),
        (
            tiff(filled(*range(12), kind=np.uint16), RGB, [UNSPECIFIED] * 9),
            "12 channels of 16 bits",
        ),
        (tiff(filled(1, 2, 3, kind=np.float32), RGB, (), FLOAT), "3 channels of 32 bits"),
        (tiff(filled(1, kind=np.float64), GREY, (), FLOAT), "1 channel of 64 bits"),
    ],
)
def test_what_no_rule_covers_is_unreadable_and_says_what_it_is(data, what):
    with pytest.raises(UnreadableImage, match=rf"^not a readable image \(a TIFF of {what}\)$"):
        decode(data)


def test_a_tiff_that_is_cut_short_is_not_said_to_have_wrong_channels():
    with pytest.raises(UnreadableImage) as raised:
        decode(saved(Image.new("RGB", (20, 20)), "TIFF")[:-300])
    assert "channel" not in str(raised.value)
