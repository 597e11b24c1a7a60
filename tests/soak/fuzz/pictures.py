"""Kinds of pictures: in all formats, as a training, a pack and a prediction read them; masks."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bagnet.experiments.decisions.textures import picture_file, read_pictures
from bagnet.experiments.explanations.masks import find_masks, read_mask
from bagnet.predict.images import batches
from datamodules.decoding.augmentation import train_transforms
from datamodules.decoding.folders import list_images, read_image
from datamodules.decoding.images import _whole, image_size, pixels
from datamodules.decoding.region import Region
from datamodules.decoding.transforms import EvalTransform, WholeTransform, drawing_from
from datamodules.pack.images import to_rgb_jpeg
from tests.soak.fuzz import arrays, data, mutations
from tests.soak.fuzz.mutations import Mutation
from tests.soak.fuzz.reading import Kind, Lost

_BYTES: tuple[Mutation, ...] = (mutations.first_bytes, mutations.some_bytes)


def _picture(form: str, mode: str = "RGB", **how: object) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    file = io.BytesIO()
    if form == "MPO":
        how |= {"save_all": True, "append_images": [Image.fromarray(values)]}
    Image.fromarray(values).convert(mode).save(file, form, **how)
    return file.getvalue()


def _read(name: str, folder: Path) -> None:
    """Whatever can be read is the same for all of them."""
    path = folder / name
    list_images(folder / "images" if name.startswith("images") else folder)
    [seen] = next(batches([path], EvalTransform(24, 32), 1))
    train = train_transforms(24, 32, "random_resized", 0.08, (), None)[0]
    for transform in (EvalTransform(24, 32), WholeTransform(32), partial(_drawn, train)):
        read_image(path, transform)
    for how in ({}, {"quality": "lossless"}, {"resize": 16}):
        read_image(path, lambda content, how=how: to_rgb_jpeg(content, **how))
    read_image(path, _check_region)
    if isinstance(seen, str):
        raise Lost(f"predict cannot read what others can: {seen}")


def _drawn(train: object, content: bytes) -> object:
    with drawing_from(1):
        return train(content)


def _check_region(content: bytes) -> None:
    """A part that is decoded alone has the pixels of the whole."""
    width, height = image_size(content)
    if width * height > 1 << 22:
        return
    box = Region(width // 4, height // 4, -(-width // 2), -(-height // 2))
    whole = _whole(content)[box.top : box.top + box.height, box.left : box.left + box.width]
    if not np.array_equal(pixels(content, box), whole):
        raise Lost("a region has other pixels than the whole")


def _kind(form: str, *more: Mutation, **how: object) -> Kind:
    name = f"images/picture.{form.lower()}"

    def prepare(folder: Path) -> None:
        (folder / "images").mkdir()
        (folder / name).write_bytes(_picture(form, **how))

    return Kind("images, masks", name, prepare, (*_BYTES, *more), partial(_read, name))


def _masks(folder: Path) -> None:
    data.packed(folder)
    (folder / "masks").mkdir()
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(folder / "masks" / "val0.png")


def _read_masks(folder: Path) -> None:
    module = data.module(folder)
    masks = find_masks(folder / "masks", module)
    for path in masks.files.values():
        read_mask(path, masks.transform)


def _texture(folder: Path) -> None:
    picture_file(folder, 0).write_bytes(_picture("PNG"))


def _kinds() -> dict[str, Kind]:
    png = (arrays.png_chunks, arrays.png_chunks)
    return {
        "jpeg": _kind("JPEG"),
        "progressive": _kind("JPEG", progressive=True),
        "cmyk": _kind("JPEG", mode="CMYK"),
        "mpo": _kind("MPO"),
        "png": _kind("PNG", *png),
        "palette": _kind("PNG", *png, mode="P"),
        "gif": _kind("GIF"),
        "bmp": _kind("BMP"),
        "tiff": _kind("TIFF", mutations.last_bytes),
        "tiff-lzw": _kind("TIFF", mutations.last_bytes, compression="tiff_lzw"),
        "webp": _kind("WEBP"),
        "ppm": _kind("PPM"),
        "texture": Kind(
            "results of experiments",
            "00000000.png",
            _texture,
            (*_BYTES, *png),
            lambda f: read_pictures(f, torch.tensor([0])),
        ),
        "mask": Kind("images, masks", "masks/val0.png", _masks, (*_BYTES, *png), _read_masks),
    }


KINDS = _kinds()
