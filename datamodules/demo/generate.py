"""Write the demo as shards, a manifest and ``planted.json`` for each split."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.demo.pictures import CLASS_NAMES, SIZE, draw
from datamodules.shards.manifest import MANIFEST, Manifest, Shard
from datamodules.shards.manifest import VERSION as FORMAT
from datamodules.shards.writer import shard_name, write_shard

PLANTED = "planted.json"
"""``parameters``, ``image_size`` (px), and ``images``: for each key what ``draw`` says of it."""

VERSION = 1  # of the pictures: raise it when the same seed no longer gives the same bytes
SAMPLES_PER_SHARD = 500


def generate(
    out: Path, counts: dict[str, int], seed: int, update: Callable[[int], None] = lambda done: None
) -> bool:
    """Write the splits that are not there yet; each appears complete or not at all.

    Args:
        out: Folder of the data set.
        counts: Images of each split: ``{"train": 1500, "val": 300}``.
        seed: Of all pictures. The same arguments give the same bytes.
        update: Is told how many images are done.

    Returns:
        Whether there was anything to do.

    Raises:
        ValueError: Fewer images than classes, or ``out`` holds other data, which stays as it is.
    """
    for split, count in counts.items():
        if count < len(CLASS_NAMES):
            raise ValueError(
                f"{count} images for {split} are too few: the {len(CLASS_NAMES)} classes need at "
                "least one each"
            )
    missing = [s for s, count in counts.items() if not _is_done(out / s, count, seed)]
    done = 0
    for split in missing:
        unfinished = out / f".{split}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            for _ in _write(unfinished, split, counts[split], seed):
                done += 1
                update(done)
            os.replace(unfinished, out / split)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return bool(missing)


def _parameters(count: int, seed: int) -> dict[str, int]:
    return {"version": VERSION, "manifest": FORMAT, "images": count, "seed": seed}


def _is_done(folder: Path, count: int, seed: int) -> bool:
    """Whether a split is there; a ValueError if something else is in its place."""
    if not folder.exists():
        return False
    wanted, found = _parameters(count, seed), None
    if (folder / PLANTED).is_file() and (folder / MANIFEST).is_file():
        found = json.loads((folder / PLANTED).read_text(encoding="utf-8"))["parameters"]
    if found != wanted:
        content = f"a demo set with {found}" if found else "something that is no demo set"
        raise ValueError(
            f"{folder} holds {content}, and {wanted} was asked for: choose another folder, or "
            "delete this one"
        )
    return True


def _write(folder: Path, split: str, count: int, seed: int) -> Iterator[str]:
    """Write one split; yields the key of each image once it is drawn."""
    # The last number tells the splits apart: no picture is in two of them.
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
    planted = {"parameters": _parameters(count, seed), "image_size": SIZE, "images": truths}
    (folder / PLANTED).write_text(json.dumps(planted) + "\n", encoding="utf-8")
    classes = [name.replace(" ", "-") for name in CLASS_NAMES]
    Manifest.assemble(folder, classes, CLASS_NAMES, parts).save()


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    # Without colour subsampling, which would blur textures of so few pixels.
    Image.fromarray(image).save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue()
