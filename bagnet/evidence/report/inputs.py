"""What a report is made from: the images of a folder, their true classes and all class names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bagnet.model.card import Card, outputs_for
from datamodules.decoding.folders import list_images
from datamodules.pack.classes import read_class_list

MAX_IMAGES = 200
"""The most images in a report: at 0.3 MB each, a browser still opens it at once."""


@dataclass(frozen=True)
class Classes:
    """Ids (names of folders, such as WordNet ids) and names, in the order of the outputs."""

    ids: tuple[str, ...]
    names: tuple[str, ...]

    def label(self, folder: str) -> int | None:
        """The class with this id or name; None if there is none, or if several share it."""
        for known in (self.ids, self.names):
            if known.count(folder) == 1:
                return known.index(folder)
        return None

    def distinct_names(self) -> tuple[str, ...]:
        """The names, followed by the id if two classes share one (ImageNet has two cranes)."""
        often = Counter(self.names)
        return tuple(
            f"{name} ({identity})" if often[name] > 1 else name
            for identity, name in zip(self.ids, self.names, strict=True)
        )


@dataclass(frozen=True)
class Source:
    """An image file, its path below the folder of images, and its true class if that is known."""

    path: Path
    name: str
    label: int | None


def known_classes(card: Card, listed: Path | None) -> Classes | None:
    """The classes of a network: those on its card, with the names of a list if one is given.

    Args:
        card: What is known of the network.
        listed: A list of classes, see `read_class_list`.

    Raises:
        ValueError: The list has other classes than the card.
    """
    if listed is None:
        return Classes(card.classes, card.class_names or card.classes) if card.classes else None
    ids, names = read_class_list(listed)
    if card.classes and ids:
        order, _ = outputs_for(card.classes, ids, len(ids), listed)
        return Classes(card.classes, tuple(names[number] for number in order))
    return Classes(ids or names, names)


def find_images(
    root: Path, num_classes: int, classes: Classes | None
) -> tuple[list[Source], tuple[str, ...], list[str]]:
    """List the images of a folder, sorted by name, with their true classes.

    Args:
        root: A folder of images, a folder of class folders with images, or one image.
        num_classes: Number of classes of the network.
        classes: The classes of the network, or None if they are not known.

    Returns:
        The images, a name for each class, and notes for the user about both.

    Raises:
        ValueError: There are no images or too many, `classes` has another length, or only some of
            the folders are named after classes.
    """
    if classes is not None and len(classes.ids) != num_classes:
        raise ValueError(
            f"--classes lists {len(classes.ids)} classes, but the network has {num_classes}: give "
            "the list of the data it was trained on"
        )
    root, paths, notes = _image_files(root)
    folder_of = {path: path.parent.name for path in paths if path.parent != root}
    folders = sorted(set(folder_of.values()))  # as `pack imagefolder` and torchvision do
    if classes is None and len(folders) == num_classes:
        classes = Classes(tuple(folders), tuple(folders))
        notes.append(
            f"the {num_classes} folders are taken for the network's classes in sorted order; give "
            "--classes FILE to be certain"
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
        Source(path, path.relative_to(root).as_posix(), labels.get(folder_of.get(path, "")))
        for path in paths
    ]
    return sources, names, notes


def _image_files(root: Path) -> tuple[Path, list[Path], list[str]]:
    """The folder of the images, the images, and notes on other files.

    Raises:
        ValueError: There are no images, or too many.
    """
    if root.is_file():
        return root.parent, [root], []
    if not root.is_dir():
        raise ValueError(f"no such folder: {root}")
    paths, notes = list_images(root)
    if len(paths) > MAX_IMAGES:
        raise ValueError(
            f"{root} has {len(paths):,} images and a report holds at most {MAX_IMAGES}: give a "
            "folder with fewer"
        )
    return root, paths, notes
