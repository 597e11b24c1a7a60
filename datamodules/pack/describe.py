"""Says what is in packed or indexed data, and shows it on a sheet of images.

examples:
  python -m datamodules.pack describe packed/
  python -m datamodules.pack describe packed/ --sheet packed.png

Counts are exact. Widths and heights are those of 1,000 images, evenly spread.
The sheet has a row for each class, or for 20 classes, evenly spread, with the
first 8 images of each.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from datamodules.common.reading import MAX_TEXT, read_plain
from datamodules.decoding.images import UnreadableImage, image_size
from datamodules.pack.job import SKIPPED
from datamodules.pack.options import DescribeOptions
from datamodules.pack.packing import bytes_in_words, console, manifests_in, sizes
from datamodules.pack.sheet import draw_sheet, read_image
from datamodules.remote.sources import SourceError
from datamodules.shards.manifest import Manifest

EXAMINED = 1000
"""The most images that are opened for their size in pixels."""

RAREST = 5
"""The most classes that are listed with their numbers."""

_EVEN = 1.1
"""How many times the images of the rarest class the largest may have without a word."""

_WIDTH, _INDENT = 80, 13


def run(options: DescribeOptions) -> None:
    """Run the command."""
    if options.sheet and options.sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet {options.sheet}: the sheet is a PNG; end its name in .png")
    manifests = manifests_in(options.out, allow_pipe=True)  # nothing of theirs is run
    for manifest in manifests:
        console.print(f"{manifest.root.name}: {sizes(manifest)}", markup=False)
        for name, values in facts(manifest).items():
            for value in values:
                console.print(f"  {name:{_INDENT - 2}}{_short(value)}", markup=False)
                name = ""
    if options.sheet:
        console.print(f"sheet: {draw_sheet(manifests[0], options.sheet)}", markup=False)


def facts(manifest: Manifest) -> dict[str, list[str]]:
    """What a split holds, in lines for people by their subject."""
    widths, heights, unreadable = _examine(manifest)
    labels = np.asarray(manifest.samples["label"])
    known = (labels >= 0) & (labels < manifest.num_classes)
    counts = np.bincount(labels[known], minlength=manifest.num_classes)
    lines = {"file": [_spread(manifest.samples["size"], bytes_in_words)]}
    if len(widths):
        part = f" ({len(widths):,} of them)" if len(widths) < len(labels) else ""
        lines["width"] = [_spread(widths, "{:,.0f} px".format) + part]
        lines["height"] = [_spread(heights, "{:,.0f} px".format) + part]
    lines |= _balance(manifest, counts)
    skipped = manifest.root / SKIPPED
    if skipped.exists():
        number = len(read_plain(skipped, MAX_TEXT).decode("utf-8", "replace").splitlines())
        lines["left out"] = [f"{number:,}, all named in {manifest.root.name}/{SKIPPED}"]
    if number := int((~known).sum()):
        lines.setdefault("unreadable", []).append(f"{number:,} images have no valid label")
    if unreadable:
        text = f"{len(unreadable):,} of {len(unreadable) + len(widths):,}: {unreadable[0]}"
        lines.setdefault("unreadable", []).append(text)
    return lines


def _balance(manifest: Manifest, counts: np.ndarray) -> dict[str, list[str]]:
    """How many images classes have, from their `counts`, int64 (classes,)."""
    present = np.flatnonzero(counts)
    if not len(present):
        return {"class": ["none has images"]}
    lines = {"class": [_spread(counts[present], "{:,.0f} images".format)]}
    if number := len(counts) - len(present):
        first = _class(manifest, int(np.argmin(counts)))
        lines["class"].append(f"{number:,} without images, such as {first}")
    ratio = counts.max() / counts[present].min()
    if ratio > _EVEN:
        rarest = present[np.argsort(counts[present], kind="stable")][:RAREST]
        lines["imbalance"] = [f"{ratio:,.1f} times as many in the largest as in the rarest"]
        lines["rarest"] = [f"{counts[label]:<7,} {_class(manifest, label)}" for label in rarest]
    return lines


def _examine(manifest: Manifest) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Widths and heights of images evenly spread, and what is wrong with others."""
    count = manifest.num_samples
    ids = np.linspace(0, count - 1, min(count, EXAMINED)).astype(np.int64)
    # Threads, because reading is mostly waiting.
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(partial(_size, manifest), ids.tolist()))
    known = np.array([each for each in found if isinstance(each, tuple)]).reshape(-1, 2)
    return known[:, 0], known[:, 1], [each for each in found if isinstance(each, str) and each]


def _size(manifest: Manifest, sample_id: int) -> tuple[int, int] | str:
    """Width and height; or what is wrong; empty if a command would have to be run."""
    try:
        data = read_image(manifest, sample_id)
        return image_size(data) if data else ""
    except (UnreadableImage, SourceError, OSError) as error:
        reason = error.cause if isinstance(error, SourceError) else error
        return f"{manifest.sample(sample_id).key} ({reason})"


def _spread(values: np.ndarray, words: Callable[[float], str]) -> str:
    """Median, least and most, each with its unit, but `3 to 9 images` if that is the same."""
    low, high = words(values.min()), words(values.max())
    if low == high:
        return low
    if low.split()[1] == high.split()[1]:
        low = low.split()[0]
    return f"{words(np.median(values))} in the median, {low} to {high}"


def _class(manifest: Manifest, label: int) -> str:
    identity, name = manifest.classes[label], manifest.class_names[label]
    return identity if identity == name else f"{identity} {name}"


def _short(text: str) -> str:
    """Cut a line to the width of a terminal."""
    limit = _WIDTH - _INDENT
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
