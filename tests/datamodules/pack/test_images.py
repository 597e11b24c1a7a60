"""Any image becomes an RGB JPEG; what is one already keeps its bytes."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datamodules.decoding.images import UnreadableImage, image_size, pixels
from datamodules.decoding.region import Region
from datamodules.pack.images import to_rgb_jpeg
from tests.datamodules.pack.builders import REPOSITORY


def photo(width=48, height=32):
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def encode(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(data, kind="JPEG"):
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == (kind, "RGB")
    return np.asarray(image).astype(int)


def test_an_rgb_jpeg_keeps_its_bytes():
    for data in (encode(photo()), encode(photo(), progressive=True)):
        assert to_rgb_jpeg(data) == data
        assert to_rgb_jpeg(data, resize=32) == data  # the shorter side fits


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(photo(), "PNG"), photo()),
        (encode(photo(), "WEBP", lossless=True), photo()),
        (encode(photo().convert("L")), photo().convert("L")),
        (encode(photo().convert("L"), "PNG"), photo().convert("L")),
        (encode(photo().convert("CMYK")), photo()),
        (encode(photo().quantize(256, dither=Image.Dither.NONE), "PNG"), photo()),
        (encode(photo().convert("L").convert("P"), "GIF"), photo().convert("L")),
        (encode(photo().convert("RGBA"), "PNG"), photo()),
        (encode(photo().convert("1"), "PNG"), photo().convert("1")),
    ],
    ids=["png", "webp", "grey", "grey-png", "cmyk", "palette", "gif", "alpha", "bilevel"],
)
def test_every_kind_becomes_an_rgb_jpeg_that_looks_the_same(data, expected):
    converted = to_rgb_jpeg(data, quality=95)
    assert converted != data
    error = np.abs(decode(converted) - np.asarray(expected.convert("RGB")).astype(int))
    assert error.mean() < 5


def test_sixteen_bits_are_scaled_and_not_clipped():
    wide = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    grey = decode(to_rgb_jpeg(encode(Image.fromarray(wide), "PNG")))
    assert np.abs(grey - (wide >> 8)[..., None]).max() < 6


def test_floats_from_0_to_1_and_8_bits_in_32_are_not_black():
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    for stored in (ramp / np.float32(255), ramp.astype(np.float32), ramp.astype(np.int32)):
        grey = decode(to_rgb_jpeg(encode(Image.fromarray(stored), "TIFF")))
        assert np.abs(grey - ramp[..., None].astype(int)).max() < 6
    holes = np.where(ramp > 9, ramp / np.float32(255), np.nan)
    grey = decode(to_rgb_jpeg(encode(Image.fromarray(holes), "TIFF"), quality="lossless"), "PNG")
    assert (grey == np.where(ramp > 9, ramp, 0)[..., None]).all()


def test_a_jpeg_with_a_second_picture_keeps_its_bytes():
    data = encode(photo(), "MPO", save_all=True, append_images=[photo()], quality=98)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert to_rgb_jpeg(data) == data


@pytest.mark.parametrize("kind", ["text", "profile"])
def test_a_png_with_megabytes_of_text_or_profile_is_read(kind):
    text = PngInfo()
    text.add_text("history", "x" * (3 << 20), zip=True)
    options = {"pnginfo": text} if kind == "text" else {"icc_profile": bytes(3 << 20)}
    data = encode(photo(), "PNG", **options)
    assert image_size(data) == photo().size
    whole = Region(0, 0, *photo().size)
    assert (pixels(data, whole) == np.asarray(photo())).all()
    assert np.abs(decode(to_rgb_jpeg(data, quality=95)) - np.asarray(photo())).mean() < 5


@pytest.mark.parametrize("picture", [photo(), photo().convert("L"), photo().quantize(256)])
def test_without_loss_every_pixel_stays_and_is_shrunk_no_other_way(picture):
    expected = picture.convert("RGB")
    png = to_rgb_jpeg(encode(picture, "PNG"), quality="lossless")
    assert (decode(png, "PNG") == np.asarray(expected)).all()
    assert to_rgb_jpeg(png, quality="lossless") == png
    small = decode(to_rgb_jpeg(png, resize=8, quality="lossless"), "PNG")
    assert (small == np.asarray(expected.resize((12, 8), Image.Resampling.BICUBIC))).all()
    jpeg = encode(photo())
    assert to_rgb_jpeg(jpeg, quality="lossless") == jpeg


def test_a_side_that_a_jpeg_cannot_have_is_the_reason():
    wide = encode(Image.new("RGB", (70_000, 1)), "PNG")
    with pytest.raises(UnreadableImage, match="70000 x 1 pixels, and a side of a JPEG has at most"):
        to_rgb_jpeg(wide)
    assert to_rgb_jpeg(wide, quality="lossless") == wide


def test_resize_makes_the_shorter_side_fit_and_never_enlarges():
    wide = to_rgb_jpeg(encode(photo(400, 100)), resize=50)
    assert decode(wide).shape == (50, 200, 3)
    tall = to_rgb_jpeg(encode(photo(30, 91), "PNG"), resize=15)
    assert decode(tall).shape == (46, 15, 3)
    small = to_rgb_jpeg(encode(photo(40, 20), "PNG"), resize=50)
    assert decode(small).shape == (20, 40, 3)


def test_quality_counts_where_an_image_is_encoded():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    sizes = [len(to_rgb_jpeg(encode(noise, "PNG"), quality=q)) for q in (30, 90)]
    assert sizes[0] < sizes[1] / 2


def test_exif_orientation_is_not_obeyed_on_any_way():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    grey = encode(photo(48, 32).convert("L"), exif=exif)
    assert decode(to_rgb_jpeg(grey)).shape == (32, 48, 3)
    assert Image.open(io.BytesIO(to_rgb_jpeg(grey))).getexif().get(0x0112) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_cut_anywhere_is_unreadable(kind):
    data = encode(photo(64, 64), kind)
    for share in (0, 0.02, 0.3, 0.6, 0.9):
        with pytest.raises(UnreadableImage):
            to_rgb_jpeg(data[: int(share * len(data))])


def test_what_is_no_image_is_unreadable():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    for data in (b"GET / HTTP/1.1", bytes(1000), postscript, encode(photo())[:2] + bytes(500)):
        with pytest.raises(UnreadableImage, match=r"\w"):
            to_rgb_jpeg(data)


def test_too_many_pixels_are_unreadable_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr("datamodules.decoding.images.MAX_PIXELS", 4095)
    with pytest.raises(UnreadableImage, match="more than 4,095; --resize makes it smaller"):
        to_rgb_jpeg(encode(photo(64, 64)))
    for data in (encode(photo(64, 64), "PNG"), encode(photo(64, 64), progressive=True)):
        with pytest.raises(UnreadableImage, match="64 x 64 pixels, more than 4,095$"):
            to_rgb_jpeg(data, resize=8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # PIL raises above twice that
    with pytest.raises(UnreadableImage, match="more than 4,095 pixels"):
        to_rgb_jpeg(encode(photo(64, 64), "PNG"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("width", "height", "resize"), [(640, 480, 60), (643, 487, 61)])
def test_a_jpeg_above_the_limit_shrinks_to_what_it_would_be_below(
    monkeypatch, mode, width, height, resize
):
    data = encode(photo(width, height).convert(mode))
    below = to_rgb_jpeg(data, resize, "lossless")
    monkeypatch.setattr("datamodules.decoding.images.MAX_PIXELS", 80_000)
    above = to_rgb_jpeg(data, resize, "lossless")
    assert decode(above, "PNG").shape == decode(below, "PNG").shape
    assert np.abs(decode(above, "PNG") - decode(below, "PNG")).mean() < 2
    with pytest.raises(UnreadableImage, match="more than 80,000"):
        to_rgb_jpeg(data, resize=height - 1)


def test_a_side_that_scaling_alone_gives_is_not_taken_for_the_original(monkeypatch):
    data = encode(photo(640, 480))
    monkeypatch.setattr("datamodules.decoding.images.MAX_PIXELS", 80_000)
    assert decode(to_rgb_jpeg(data, resize=60)).shape == (60, 80, 3)


@pytest.mark.slow
def test_a_huge_jpeg_is_packed_in_bounded_memory(tmp_path):
    """Two hundred million pixels, twice what PIL warns of, and more than it opens."""
    Image.new("RGB", (16_000, 12_500), (200, 90, 30)).save(tmp_path / "huge.jpg")
    code = f"""
        import resource
        from datamodules.pack.images import to_rgb_jpeg
        data = open({str(tmp_path / "huge.jpg")!r}, "rb").read()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        open({str(tmp_path / "small.jpg")!r}, "wb").write(to_rgb_jpeg(data, 256))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 100_000  # KiB; all pixels would take 586,000
    small = decode((tmp_path / "small.jpg").read_bytes())
    assert small.shape == (256, 328, 3)
    assert np.abs(small - (200, 90, 30)).max() < 6
