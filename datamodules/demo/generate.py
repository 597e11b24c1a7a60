"""Generates a data set whose truth is known, as shards with a manifest.

example:
  python -m datamodules.demo data/demo

Every image is a natural-looking background (coloured 1/f noise, a gradient,
soft blobs) with two kinds of things on it:

- Textures: two or three round patches of 26 to 30 px, all of the image's
  class. A class is a warm colour, a cool one and a pattern; each of them is
  in three classes, and any two determine the class. One texture alone shows
  the class.
- Distractors: two plain marks in one of those colours, more than 33 px apart.
  How they are arranged (row, column, rising, falling) cannot be seen in any
  patch of a BagNet-33. It is independent of the image's class, and so is
  their colour.

The boxes of both are in planted.json beside the shards, so that evidence can
be checked against the truth.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from datamodules.common.files import write_text
from datamodules.common.progress import progress
from datamodules.demo.options import DemoOptions
from datamodules.demo.pictures import CLASS_NAMES, SIZE, draw
from datamodules.shards.entries import Shard
from datamodules.shards.manifest import MANIFEST, Manifest
from datamodules.shards.manifest import VERSION as FORMAT
from datamodules.shards.writer import shard_name, write_shard

PLANTED = "planted.json"
"""`parameters`, `image_size` (px), and `images`: the truth that `draw` returns, by key."""

VERSION = 1  # of the pictures: raise it when the same seed no longer gives the same bytes
SAMPLES_PER_SHARD = 500


def run(options: DemoOptions) -> None:
    """Run the command."""
    counts = {"train": options.train, "val": options.val}
    console = Console(highlight=False, soft_wrap=True)
    with progress(console, "demo", sum(counts.values())) as update:
        is_new = generate(options.out, counts, options.seed, update)
    images = f"{options.train:,} training and {options.val:,} validation images"
    console.print(f"{options.out}: {images}" + ("" if is_new else ", complete already"))


def generate(
    out: Path, counts: dict[str, int], seed: int, update: Callable[[int], None] = lambda done: None
) -> bool:
    """Write the missing splits. Each appears complete or not at all.

    Args:
        out: Folder of the data set.
        counts: Images of each split: `{"train": 1500, "val": 300}`.
        seed: Seed of all pictures. The same arguments give the same bytes.
        update: Called with the number of images done so far.

    Returns:
        Whether there was anything to do.

    Raises:
        ValueError: There are fewer images than classes, or `out` holds other data, which stays as
            it is.
    """
    for split, count in counts.items():
        if count < len(CLASS_NAMES):
            raise ValueError(
                f"{count} images for {split} are too few: the {len(CLASS_NAMES)} classes need at "
                "least one each"
            )
    wanted = {
        split: {"version": VERSION, "manifest": FORMAT, "images": count, "seed": seed}
        for split, count in counts.items()
    }
    missing = [split for split in counts if not _is_done(out / split, wanted[split])]
    done = 0
    for split in missing:
        unfinished = out / f".{split}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            for _ in _write(unfinished, split, wanted[split]):
                done += 1
                update(done)
            os.replace(unfinished, out / split)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return bool(missing)


def _is_done(folder: Path, wanted: dict[str, int]) -> bool:
    """Whether a split is finished; raises a ValueError if something else is in its place."""
    if not folder.exists():
        return False
    found = None
    if (folder / PLANTED).is_file() and (folder / MANIFEST).is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            found = json.loads((folder / PLANTED).read_text(encoding="utf-8"))["parameters"]
    if found != wanted:
        content = f"a demo set with {found}" if found else "something that is not a demo set"
        raise ValueError(
            f"{folder} holds {content}, and {wanted} was requested: choose another folder, or "
            "delete this one"
        )
    return True


def _write(folder: Path, split: str, parameters: dict[str, int]) -> Iterator[str]:
    """Write one split; yields the key of each image when it is drawn."""
    count, seed = parameters["images"], parameters["seed"]
    # The name of the split is part of the seed, so no picture is in two splits.
    source = (seed, int.from_bytes(split.encode(), "big"))
    labels = np.random.default_rng(source).permutation(count) % len(CLASS_NAMES)
    truths: dict[str, dict[str, Any]] = {}
    parts: list[tuple[Shard, np.ndarray]] = []
    for start in range(0, count, SAMPLES_PER_SHARD):
        samples = []
        for number in range(start, min(start + SAMPLES_PER_SHARD, count)):
            key = f"{split}-{number:06d}"
            rng = np.random.default_rng((*source, number))
            image, truths[key] = draw(rng, int(labels[number]))
            samples.append((key, _jpeg(image), int(labels[number])))
            yield key
        parts.append(write_shard(folder / shard_name(len(parts)), samples))
    planted = {"parameters": parameters, "image_size": SIZE, "images": truths}
    write_text(json.dumps(planted) + "\n", folder / PLANTED)
    classes = [name.replace(" ", "-") for name in CLASS_NAMES]
    Manifest.assemble(folder, classes, CLASS_NAMES, parts).save()


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    # No colour subsampling, which would blur textures of so few pixels.
    Image.fromarray(image).save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue()
