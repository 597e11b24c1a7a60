"""Masks of what should decide in an image, such as its lesions, cropped as the image is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.common.errors import SampleError
from datamodules.decoding.folders import list_images, read_image
from datamodules.decoding.images import UnreadableImage, image_size, opened
from datamodules.decoding.transforms import EvalTransform
from datamodules.imagenet import ImageNetDataModule
from datamodules.pack.sources.listing import key_of
from datamodules.shards.manifest import sha256_of
from datamodules.shards.reader import SampleReader

FORMATS = "PNG, TIFF, GIF, BMP or PPM"


@dataclass(frozen=True)
class Masks:
    """The masks of validation images.

    Attributes:
        files: The file of each mask that the crop leaves something of, by sample id.
        transform: How images are cropped.
        digest: The beginning of a hash of all masks of images.
        empty: Number of masks that the crop leaves nothing of.
        unused: Number of other files in the folder.
    """

    files: Mapping[int, Path]
    transform: EvalTransform
    digest: str
    empty: int
    unused: int

    def read(self, sample_id: int) -> np.ndarray:
        """Read a mask as its image is cropped, bool (size, size)."""
        return read_mask(self.files[sample_id], self.transform)


def find_masks(folder: Path, data: ImageNetDataModule) -> Masks:
    """Find the mask of each validation image, by the key that `datamodules.pack` would give it.

    Raises:
        ValueError: There are no masks, two for an image, one cannot be read, or one has another
            shape than its image.
    """
    manifest = data.val_manifest
    paths, notes = list_images(folder)
    by_key: dict[str, Path] = {}
    for path in paths:
        other = by_key.setdefault(key_of(path.relative_to(folder).as_posix()), path)
        if other is not path:
            raise ValueError(f"{other} and {path} would be masks of the same image: join them")
    keys = {number: manifest.sample(number).key for number in range(manifest.num_samples)}
    known = {number: by_key[key] for number, key in keys.items() if key in by_key}
    if not known:
        raise ValueError(
            f"{folder} has no mask of a validation image: name masks as the images, such as "
            f"{keys[0]}.png"
        )
    transform = EvalTransform(data.image_size, data.resize_size)
    digest, files, empty = hashlib.sha256(), {}, 0
    batches = data.batches("val")
    samples = batches.samples(np.array(list(known), dtype=np.int64))
    for sample in SampleReader(batches.cache)(samples, _leave_out):
        path = known[sample["id"]]
        try:
            width, height = image_size(sample["image"])
        except UnreadableImage:
            continue
        _check_shape(path, width, height)
        digest.update(f"{sample['__key__']} {sha256_of(path)}\n".encode())
        if read_mask(path, transform).any():
            files[sample["id"]] = path
        else:
            empty += 1
    unused = len(paths) + len(notes) - len(known)
    return Masks(files, transform, digest.hexdigest()[:16], empty, unused)


def read_mask(path: Path, transform: EvalTransform) -> np.ndarray:
    """Read where a mask is not zero, in the crop that the transform makes: bool (size, size).

    It is resized to the nearest pixel. Transparency is ignored.

    Raises:
        ValueError: The file cannot be read, or is a JPEG or WebP, which blur masks.
    """
    return read_image(path, lambda content: _crop(_marked(path, content), transform))


def _check_shape(path: Path, columns: int, rows: int) -> None:
    """Raise a ValueError unless a mask has the shape of an image of this size."""
    width, height = read_image(path, image_size)
    # Images may have been made smaller when they were packed, with sides rounded to pixels.
    if abs(width * rows - columns * height) > max(height, rows):
        raise ValueError(
            f"{path} has {width} x {height} pixels and its image {columns} x {rows}, which is "
            "another shape: give masks of the whole image"
        )


def _leave_out(error: SampleError) -> bool:
    """Continue without an image that cannot be read, as all experiments do."""
    return True


def _marked(path: Path, content: bytes) -> np.ndarray:
    with opened(content) as image:
        is_lossy, has_alpha = image.format in ("JPEG", "WEBP"), image.mode in ("LA", "PA", "RGBA")
        values = np.atleast_3d(np.asarray(image))
    if is_lossy:
        raise ValueError(f"{path} is a format that may blur masks: give {FORMATS}")
    colours = values[..., :-1] if has_alpha else values
    return np.asarray(colours.any(axis=2))


def _crop(marked: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """What the transform sees of an image, of a mask of the same shape."""
    view = transform.view(marked.shape[1], marked.shape[0])
    seen = np.arange(transform.size) + 0.5  # centres of pixels
    rows = view.box.top + (view.top + seen) * view.box.height / view.height
    columns = view.box.left + (view.left + seen) * view.box.width / view.width
    cropped: np.ndarray = marked[np.ix_(rows.astype(int), columns.astype(int))]
    return cropped
