"""What a report is made from: the images of a folder, their true classes, the classes' names."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

# No more than these: PIL can also open formats that start other programs (EPS).
FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm",),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

MAX_IMAGES = 200
"""One page holds no more: at 0.3 MB an image a browser still opens it at once."""


@dataclass(frozen=True)
class Classes:
    """The classes in the order of the network's outputs: ids (folder names, wnids), and names."""

    ids: tuple[str, ...]
    names: tuple[str, ...]

    def label(self, folder: str) -> int | None:
        """The class that a folder is named after; None if it is none, or if several have the name."""
        for known in (self.ids, self.names):
            if known.count(folder) == 1:
                return known.index(folder)
        return None

    def distinct_names(self) -> tuple[str, ...]:
        """The names; where two classes share one (ImageNet has two cranes), with the id."""
        often = Counter(self.names)
        return tuple(
            f"{name} ({identity})" if often[name] > 1 else name
            for identity, name in zip(self.ids, self.names, strict=True)
        )


@dataclass(frozen=True)
class Source:
    """An image to show: its file, its name below the folder, and its true class if that is known."""

    path: Path
    name: str
    label: int | None


@dataclass(frozen=True)
class Found:
    """The images, a name for every class of the network, and what the user should know of both."""

    sources: tuple[Source, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Framing:
    """What the network sees of an image, as in validation.

    Attributes:
        resize_size: Length of the shorter side after resizing, in pixels.
        image_size: Side of the centre crop, in pixels; None keeps the whole image.

    Raises:
        ValueError: A size below one pixel, or a crop larger than the resized image.
    """

    resize_size: int
    image_size: int | None

    def __post_init__(self) -> None:
        for name, size in (("--resize-size", self.resize_size), ("--image-size", self.image_size)):
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}, but it is a number of pixels, at least 1")
        if self.image_size is not None and self.resize_size < self.image_size:
            raise ValueError(
                f"--resize-size is {self.resize_size} and --image-size {self.image_size}, so the "
                f"crop would have black borders; use a --resize-size of at least {self.image_size}"
            )

    @property
    def shortest_side(self) -> int:
        """Of what the network sees, in pixels."""
        return self.image_size or self.resize_size

    def __call__(self, pixels: Tensor) -> Tensor:
        """Frame an image: uint8 (3, H, W) -> (3, H', W')."""
        resized = v2.Resize(self.resize_size, antialias=True)(pixels)
        return resized if self.image_size is None else v2.CenterCrop(self.image_size)(resized)


def read_image(path: Path, framing: Framing) -> Tensor:
    """Read what the network sees of an image file: uint8 (3, H, W), RGB; no EXIF rotation.

    Raises:
        ValueError: It cannot be decoded to its end.
    """
    try:
        with Image.open(path, formats=list(FORMATS)) as image:
            pixels = np.array(_to_rgb(image))
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise whatever their parsers happen to raise
        reason = str(error) if isinstance(error, OSError) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as an image ({reason}): repair or remove it"
        ) from error
    return framing(torch.from_numpy(pixels).permute(2, 0, 1))


def read_classes(path: Path) -> Classes:
    """Read ``manifest.json``, or a text with a line ``name`` or ``id<TAB>name`` for each class.

    Raises:
        ValueError: There is no such file, or it is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            header = json.loads(text)
            ids, names = header["classes"], header["class_names"]
        else:
            rows = [line.strip().split("\t") for line in text.splitlines() if line.strip()]
            # Lists such as ImageNet's have a column of numbers before the id.
            ids, names = [row[-2:][0].strip() for row in rows], [row[-1].strip() for row in rows]
        if not ids or len(ids) != len(names) or not all(isinstance(n, str) for n in (*ids, *names)):
            raise ValueError("no list of names")
    except OSError as error:
        raise ValueError(f"--classes {path} cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"--classes {path} is neither a manifest.json nor a text with a line for each class "
            f"({type(error).__name__}: {error})"
        ) from None
    return Classes(tuple(ids), tuple(names))


def find_images(root: Path, num_classes: int, classes: Classes | None) -> Found:
    """List the images of a folder in the order of their names, with their true classes.

    Args:
        root: A folder of images, of folders named after classes, or one image.
        num_classes: Of the network.
        classes: What its outputs are, if that is known.

    Raises:
        ValueError: No image, too many of them, not the network's number of classes, or a folder
            that is named after no class beside others that are.
    """
    if classes is not None and len(classes.ids) != num_classes:
        raise ValueError(
            f"--classes lists {len(classes.ids)} classes and the network tells {num_classes} "
            "apart: give the list of the data it was trained on"
        )
    if root.is_file():
        root, paths = root.parent, [root]
    else:
        paths = sorted(path for path in root.rglob("*") if _is_shown(path, root))
    if not paths:
        what = (
            f"{root} has no images ({' '.join(SUFFIXES)})"
            if root.is_dir()
            else f"no such folder: {root}"
        )
        raise ValueError(f"{what}: give a folder of images, or of class folders with images")
    if len(paths) > MAX_IMAGES:
        raise ValueError(
            f"{root} has {len(paths):,} images and a page holds at most {MAX_IMAGES}: give a "
            "folder with fewer"
        )
    folders = sorted({path.parent.name for path in paths if path.parent != root})
    notes = []
    if classes is None and len(folders) == num_classes:
        classes = Classes(tuple(folders), tuple(folders))
        notes.append(
            f"the {num_classes} folders are taken for the network's classes in sorted order; "
            "--classes FILE says it for certain"
        )
    labels = {folder: classes.label(folder) for folder in folders} if classes else {}
    unknown = [folder for folder, label in labels.items() if label is None]
    if unknown and len(unknown) < len(folders):
        raise ValueError(
            f"the folder {unknown[0]!r} is none of the {num_classes} classes, unlike others in "
            f"{root}: name it after its class, or move it away"
        )
    if not labels or unknown:
        notes.append("no true classes: the images are not in folders named after classes")
    if classes is None:
        names = tuple(f"class {number}" for number in range(num_classes))
        notes.append("no class names: give --classes FILE, such as the data's manifest.json")
    else:
        names = classes.distinct_names()
    sources = [
        Source(path, path.relative_to(root).as_posix(), labels.get(path.parent.name))
        if path.parent != root
        else Source(path, path.name, None)
        for path in paths
    ]
    return Found(tuple(sources), names, tuple(notes))


def _is_shown(path: Path, root: Path) -> bool:
    """Whether a file is an image by its name, and not hidden, as file managers' own files are."""
    is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in SUFFIXES and not is_hidden and path.is_file()


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8 bits of red, green and blue, in the way of the training's decoder."""
    if image.mode.startswith("I"):  # 16 bits a pixel: PIL would clip at 255
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P":  # a palette may carry transparency, which only RGBA can hold
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
