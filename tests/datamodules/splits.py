"""Packed data with both splits, and a data module of it."""

import numpy as np

from datamodules.imagenet import ImageNetDataModule
from tests.datamodules.loaders import image_file, write_data

CLASSES = ("n01", "n02", "n03")
NAMES = ("tench", "goldfish", "shark")
TRAIN, VAL = (17, 20, 8), (7, 4)
BATCH, STEPS = 8, 5


def write_splits(root):
    """45 plain images for training and 11 for validation, 3 classes."""
    for split, counts in {"train": TRAIN, "val": VAL}.items():
        write_data(root / split, counts, CLASSES, NAMES, plain_image)
    return root


def plain_image(number):
    return image_file(np.full((14, 18, 3), (number * 4, 0, 99), np.uint8))


def datamodule(root, **options):
    defaults = {"batch_size": BATCH, "workers": 0, "image_size": 8, "resize_size": 10}
    return ImageNetDataModule(str(root), **{**defaults, **options})
