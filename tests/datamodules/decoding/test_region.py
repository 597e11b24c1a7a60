"""A part of a JPEG: equal to the pixels of the whole image to the bit, or None."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from datamodules.decoding import images, region
from datamodules.decoding.images import UnreadableImage, pixels
from datamodules.decoding.region import NotAvailable, Region, decode_region, why_not
from tests.datamodules.loaders import image_file, noise

REPOSITORY = Path(__file__).parents[3]
needs_decoder = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def whole(data):
    return simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)


def boxes(height, width, count=40):
    """The corners and edges of an image of this size, all of it, and other boxes."""
    rng = np.random.default_rng(width)
    for at, (top, left) in enumerate(rng.integers(0, (height, width), (count, 2)).tolist()):
        top, left = (0 if at % 4 == 1 else top), (0 if at % 4 == 2 else left)
        rows, columns = rng.integers(1, (height - top + 1, width - left + 1)).tolist()
        rows = height - top if at % 5 == 1 else rows
        columns = width - left if at % 5 == 2 else columns
        yield Region(left, top, columns, rows)
    yield Region(0, 0, width, height)
    yield Region(width - 1, height - 1, 1, 1)


def cut(picture, box):
    return picture[box.top : box.top + box.height, box.left : box.left + box.width]


SAMPLINGS = {
    sampling: simplejpeg.encode_jpeg(noise(79, 101, 79), quality=80, colorsubsampling=sampling)
    for sampling in ("444", "422", "420", "440", "411")
}
PLAIN = {
    **SAMPLINGS,
    "tiny": simplejpeg.encode_jpeg(noise(1, 1, 1)),
    "narrow": simplejpeg.encode_jpeg(noise(50, 3, 50), colorsubsampling="420"),
    "low": simplejpeg.encode_jpeg(noise(3, 50, 3), colorsubsampling="420"),
    "a pixel past a block": simplejpeg.encode_jpeg(noise(34, 49, 34), colorsubsampling="420"),
    "whole blocks": simplejpeg.encode_jpeg(noise(64, 96, 64), colorsubsampling="420"),
    "grey": image_file(noise(61, 45, 61), mode="L"),
    "restart markers": image_file(noise(83, 70, 83), restart_marker_blocks=3),
    "own Huffman tables": image_file(noise(83, 70, 83), optimize=True, quality=30),
    "stored as RGB": image_file(noise(40, 70, 40), keep_rgb=True),
    "bytes after its end": SAMPLINGS["420"] + b"\xff\xd8 more",
}


@needs_decoder
@pytest.mark.parametrize("kind", PLAIN)
def test_pixels_are_equal_to_those_of_the_whole_image(kind):
    data = PLAIN[kind]
    expected = whole(data)
    for box in boxes(*expected.shape[:2]):
        found = decode_region(data, box)
        assert found is not None, box
        assert np.array_equal(found, cut(expected, box)), box


@needs_decoder
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        image_file(noise(40, 50, 40), progressive=True),
        image_file(noise(40, 50, 40), mode="CMYK"),
        PLAIN["420"][:-2],
        PLAIN["420"][:-2] + b"\xff\xc4\xff\xd9",
    ],
    ids=["nothing", "no image", "progressive", "CMYK", "no end", "a table before the end"],
)
def test_what_must_be_decoded_whole_is_refused(data):
    assert decode_region(data, Region(0, 0, 8, 8)) is None


@needs_decoder
def test_a_box_that_does_not_fit_is_refused():
    for box in ((0, 0, 102, 79), (0, 0, 101, 80), (101, 0, 1, 1), (0, 79, 1, 1), (5, 5, 0, 5)):
        assert decode_region(PLAIN["420"], Region(*box)) is None
    assert decode_region(PLAIN["420"], Region(2**32 - 1, 2**32 - 1, 2, 2)) is None


@needs_decoder
@pytest.mark.parametrize("kind", ["420", "grey", "restart markers"])
def test_a_file_cut_short_is_refused_wherever_the_box_is(kind):
    data = PLAIN[kind]
    for length in range(0, len(data) - 1, 7):
        assert decode_region(data[:length], Region(0, 0, 8, 8)) is None


def outcome(data, box):
    try:
        return pixels(data, box).tobytes()
    except UnreadableImage:
        return None


@needs_decoder
@pytest.mark.parametrize("kind", ["420", "444", "restart markers"])
def test_damage_has_the_same_outcome_for_any_box_and_decoder(kind, monkeypatch):
    """With random bytes changed, in headers too, nothing crashes and no box hides the damage."""
    rng = np.random.default_rng(7)
    readable = refused = 0
    for _ in range(100):
        data = bytearray(PLAIN[kind])
        for at in rng.integers(2, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        try:
            width, height = images.image_size(bytes(data))
        except UnreadableImage:
            continue
        if (width, height) != Image.open(io.BytesIO(PLAIN[kind])).size:
            continue
        for box in (
            Region(0, 0, 16, 16),
            Region(30, 40, 24, 20),
            Region(width - 9, height - 9, 9, 9),
        ):
            found = outcome(bytes(data), box)
            with monkeypatch.context() as patch:
                patch.setattr(images, "decode_region", lambda data, box: None)
                assert found == outcome(bytes(data), box)
            readable += found is not None
            refused += decode_region(bytes(data), box) is None
    assert readable > 30
    assert refused > 3


@pytest.fixture
def cache_folder(monkeypatch, tmp_path):
    """The cache folder of a user for whom nothing is compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    region._function.cache_clear()
    yield tmp_path / "cache" / "bagnet"
    region._function.cache_clear()


def test_without_a_compiler_images_are_decoded_whole_and_a_remedy_is_named(
    cache_folder, monkeypatch
):
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    assert decode_region(PLAIN["420"], Region(0, 0, 8, 8)) is None
    assert "no C compiler 'no-such-compiler'; install a C compiler and libjpeg" in why_not()
    box = Region(3, 5, 40, 30)
    assert np.array_equal(pixels(PLAIN["420"], box), cut(whole(PLAIN["420"]), box))


def test_a_compiler_that_fails_is_quoted(cache_folder, monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text(
        "#!/bin/sh\necho 'In file:' >&2\necho 'fatal error: no jpeglib.h' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert (
        f"'{compiler}' cannot compile the decoder (fatal error: no jpeglib.h); install" in why_not()
    )
    assert list(cache_folder.iterdir()) == []


def test_a_folder_that_others_may_write_to_is_not_trusted(cache_folder):
    cache_folder.mkdir(parents=True)
    cache_folder.chmod(0o777)
    assert f"others may write to {cache_folder}); set XDG_CACHE_HOME" in why_not()


def test_a_decoder_with_other_pixels_is_not_used():
    with pytest.raises(NotAvailable, match="other pixels"):
        region._check(lambda *arguments: 1)
    with pytest.raises(NotAvailable, match="other pixels"):
        region._check(lambda *arguments: 0)


def test_a_library_that_cannot_be_loaded_is_not_used(tmp_path):
    (tmp_path / "x.so").write_bytes(b"no library")
    with pytest.raises(NotAvailable, match="x.so cannot be loaded"):
        region._load(tmp_path / "x.so")


@needs_decoder
def test_processes_may_compile_it_at_once_and_later_ones_find_it(cache_folder, monkeypatch):
    command = [
        sys.executable,
        "-c",
        "from datamodules.decoding.region import why_not; print(why_not())",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    runs = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [run.communicate()[0] for run in runs] == ["None\n"] * 3
    (library,) = cache_folder.iterdir()
    made = library.stat().st_mtime_ns
    monkeypatch.setattr(region, "_compile", None)
    assert why_not() is None
    assert library.stat().st_mtime_ns == made
