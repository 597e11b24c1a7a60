"""Masks are found by their names, and cropped as their images are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bagnet.experiments.explanations.masks import find_masks, read_mask
from datamodules.decoding.transforms import EvalTransform
from datamodules.demo.pictures import SIZE
from datamodules.imagenet import ImageNetDataModule
from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import shard_name, write_shard

ORIGINAL = EvalTransform(6, 6)
MARKED = np.zeros((6, 6), dtype=np.uint8)
MARKED[1:3, 4] = 1


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


@pytest.fixture
def data(demo: Path) -> ImageNetDataModule:
    return ImageNetDataModule(str(demo), workers=0, image_size=48, resize_size=64)


@pytest.mark.parametrize(
    "pixels",
    [
        MARKED,
        255 * MARKED,
        MARKED.astype(bool),
        MARKED.astype(np.uint16),
        np.dstack([0 * MARKED, MARKED, 0 * MARKED]),
        np.dstack([MARKED, 0 * MARKED, 0 * MARKED, 255 + 0 * MARKED]),  # opaque everywhere
        np.dstack([MARKED, 255 + 0 * MARKED]),
    ],
)
def test_what_is_not_zero_is_the_mask_in_any_mode(pixels, tmp_path):
    path = write(tmp_path / "mask.png", pixels)
    np.testing.assert_array_equal(read_mask(path, ORIGINAL), MARKED > 0)


def test_a_number_of_a_palette_counts_and_not_its_colour(tmp_path):
    image = Image.fromarray(MARKED).convert("P")
    image.putpalette([0, 0, 0] * 256)
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", ORIGINAL), MARKED > 0)


@pytest.mark.parametrize("shape", [(120, 90), (90, 120), (45, 45), (200, 260)])
@pytest.mark.parametrize("sizes", [(48, 64), (64, 64)])
def test_a_mask_is_cropped_as_its_image(shape, sizes, tmp_path):
    """Where the resized image is brighter than grey, except at the blurred edge."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    disc = np.hypot(rows - 0.6 * shape[0], columns - 0.4 * shape[1]) < 0.3 * min(shape)
    path = write(tmp_path / "mask.png", 255 * disc.astype(np.uint8))
    transform = EvalTransform(*sizes)
    seen = transform(path.read_bytes())[0].numpy().astype(float)
    mask = read_mask(path, transform)
    assert mask.shape == seen.shape == (sizes[0],) * 2
    assert 0.05 < mask.mean() < 0.9
    clear = np.abs(seen - 127.5) > 115
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(mask[clear], seen[clear] > 127.5)


def test_masks_have_the_keys_that_packing_gives_or_mirror_the_folders(data, tmp_path):
    full = np.ones((SIZE, SIZE), np.uint8)
    paths = {
        2: write(tmp_path / "val-000002.png", full),
        3: write(tmp_path / "val-000003.tif", np.ones((2 * SIZE, 2 * SIZE), np.uint8)),
        4: write(tmp_path / "ill" / "val-000004.png", full),  # the key of which is ill_val-000004
        5: write(tmp_path / "val-000005.png", 0 * full),
    }
    corner = 0 * full
    corner[0, 0] = 1  # outside of the crop
    paths[6] = write(tmp_path / "val-000006.png", corner)
    (tmp_path / "notes.txt").write_text("none")
    masks = find_masks(tmp_path, data)
    assert masks.files == {number: paths[number] for number in (2, 3)}
    assert (masks.empty, masks.unused) == (2, 2)
    assert masks.read(2).all()
    write(tmp_path / "val-000002.png", corner + full)
    assert find_masks(tmp_path, data).digest != masks.digest


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("other.png", (SIZE, SIZE), "name masks as the images, such as val-000000.png"),
        ("val-000001.png", (SIZE, SIZE + 3), "has 92 x 89 pixels and its image 89 x 89"),
        ("val-000001.png", (SIZE // 2, SIZE // 2 - 3), "has 41 x 44 pixels"),
        ("val-000001.jpg", (SIZE, SIZE), "is a format that may blur masks: give PNG"),
    ],
)
def test_a_mask_that_cannot_be_the_images_is_refused(name, shape, message, data, tmp_path):
    write(tmp_path / name, np.ones(shape, np.uint8))
    with pytest.raises(ValueError, match=message):
        find_masks(tmp_path, data)


def test_two_masks_of_an_image_and_damaged_ones_are_refused(data, tmp_path):
    full = np.ones((SIZE, SIZE), np.uint8)
    path = write(tmp_path / "val-000001.png", full)
    write(tmp_path / "val-000001.tif", full)
    with pytest.raises(ValueError, match="would be masks of the same image: join them"):
        find_masks(tmp_path, data)
    (tmp_path / "val-000001.tif").unlink()
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="cannot be read as an image"):
        find_masks(tmp_path, data)


def test_an_image_that_cannot_be_read_is_left_out(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    samples = [("bad", b"no image", 0), ("good", file.getvalue(), 0)]
    folder = tmp_path / "data" / "val"
    folder.mkdir(parents=True)
    part = write_shard(folder / shard_name(0), samples)
    Manifest.assemble(folder, ["ill"], ["ill"], [part]).save()
    for key in ("bad", "good"):
        write(tmp_path / "masks" / f"{key}.png", np.ones((64, 64), np.uint8))
    data = ImageNetDataModule(str(tmp_path / "data"), workers=0, image_size=48, resize_size=64)
    masks = find_masks(tmp_path / "masks", data)
    assert masks.files == {1: tmp_path / "masks" / "good.png"}
    assert masks.empty == 0
