"""A folder laid out as model-vs-human has it, with generated images and answers.

All choices are digests of names, so they are the same everywhere.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = (
    *("airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat"),
    *("chair", "clock", "dog", "elephant", "keyboard", "knife", "oven", "truck"),
)
CONDITIONS = {
    "colour": ("cr", "bw"),
    "contrast": ("c100", "c50", "c30", "c15", "c10", "c05", "c03", "c01"),
    "high-pass": ("inf", "3", "1.5", "1", "0.7", "0.55", "0.45", "0.4"),
    "low-pass": ("0", "1", "3", "5", "7", "10", "15", "40"),
    "phase-scrambling": ("0", "30", "60", "90", "120", "150", "180"),
    "power-equalisation": ("0", "pow"),
    "false-colour": ("true", "false"),
    "rotation": ("0", "90", "180", "270"),
    **{
        f"eidolon{name}": tuple(f"{1 << n}-{coherence}-10" for n in range(8))
        for name, coherence in (("I", 10), ("II", 3), ("III", 0))
    },
    "uniform-noise": ("0.00", "0.03", "0.05", "0.10", "0.20", "0.35", "0.60", "0.90"),
    "sketch": ("0",),
    "stylized": ("0",),
    "edge": ("0",),
    "silhouette": ("0",),
    "cue-conflict": ("0",),
}
"""The conditions as the humans' files write them."""

IN_CLASS_FOLDERS = ("edge", "silhouette", "cue-conflict")


def pick(words: str, count: int) -> int:
    """A number below `count`."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") % count


def images_of(dataset: str, count: int) -> list[tuple[str, str, str]]:
    """Condition, category and name of the images of a data set, `count` for each condition."""
    images = []
    for condition in CONDITIONS[dataset]:
        for n in range(count):
            number = len(images)
            category = CATEGORIES[pick(f"{dataset} {number}", 16)]
            name = f"n0{pick(f'{number}', 9999999):07d}_{number}.png"
            if dataset == "cue-conflict":
                name = f"{category}{n}-{CATEGORIES[pick(f'texture {number}', 4) * 3]}2.png"
            elif dataset in ("sketch", "stylized", "edge", "silhouette"):
                name = f"{category}-{number:04d}-x.png"
            images.append((condition, category, name))
    return images


def decide(observer: str, dataset: str, condition: str, category: str, name: str) -> str:
    """What an observer answers: some images are harder for all of them, and so are conditions."""
    hard = pick(f"{dataset} {name}", 100) + pick(f"{observer} {name}", 100)
    skill = 150 - 15 * CONDITIONS[dataset].index(condition)
    if hard < skill:
        return category
    if dataset == "cue-conflict" and pick(f"{observer} texture {name}", 2):
        return name.split("-")[1].split("2")[0]
    return [*CATEGORIES, "na"][pick(f"{observer} guess {name}", 17)]


def write_answers(folder: Path, observer: str, dataset: str, count: int) -> None:
    """Write the file of an observer as the toolbox does."""
    path = folder / "raw-data" / dataset / f"{dataset}_{observer}_session_1.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        session = "session" if len(CONDITIONS[dataset]) == 1 else "Session"
        names = ("subj", session, "trial", "rt", "object_response", "category", "condition")
        writer.writerow([*names, "imagename"])
        order = sorted(images_of(dataset, count), key=lambda image: pick(f"{observer}{image}", 999))
        for trial, image in enumerate(order, 1):
            condition, category, name = image
            answer = decide(observer, dataset, *image)
            row = [observer, 1, trial, 0.5 + trial / 1000, answer, category, condition]
            writer.writerow([*row, f"{trial:04d}_x_s01_{condition}_{category}_10_{name}"])


def write_images(folder: Path, dataset: str, count: int, side: int) -> None:
    """Write the images, each of one colour."""
    for trial, (condition, category, name) in enumerate(images_of(dataset, count), 1):
        path = folder / "datasets" / dataset / category / name
        if dataset not in IN_CLASS_FOLDERS:
            name = f"{trial:04d}_x_dnn_{condition}_{category}_10_{name}"
            path = folder / "datasets" / dataset / "dnn" / "session-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = [pick(f"{channel} {dataset} {name}", 256) for channel in "rgb"]
        Image.fromarray(np.full((side, side, 3), colour, np.uint8)).save(path)


def generate(
    folder: Path, datasets: Sequence[str], count: int = 4, side: int = 33, humans: int = 2
) -> Path:
    """Write the images and the humans' answers; returns the folder."""
    for dataset in datasets:
        write_images(folder, dataset, count, side)
        for number in range(1, humans + 1):
            write_answers(folder, f"subject-{number:02d}", dataset, count)
    return folder
