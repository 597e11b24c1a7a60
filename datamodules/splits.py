"""The training and validation split of packed data, local or remote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.common.files import user_path
from datamodules.remote.cache import ShardCache
from datamodules.remote.dataset import load_remote
from datamodules.remote.urls import is_remote, local_path, redacted, scheme_of
from datamodules.shards.manifest import Manifest


class Splits:
    """The manifests of both splits, each loaded when it is first needed.

    Args:
        root: Path or URL of the folder that has `train/` and `val/`.
        cache: Holds the copies of remote manifests.
        allow_pipe: Whether the root, or a local manifest, may name commands (`pipe:...`).

    Raises:
        ValueError: The root is a file URL of another host, or a command that is not allowed.
    """

    def __init__(self, root: str, cache: ShardCache, allow_pipe: bool = False) -> None:
        self.root = root.rstrip("/") if is_remote(root) else str(user_path(local_path(root)))
        if scheme_of(root) == "pipe" and not allow_pipe:
            raise ValueError(
                f"--data.root {redacted(root)} is a command, and somebody else's settings could "
                "name any: if it is yours, give --data.allow_pipe true"
            )
        self._cache = cache
        self._allow_pipe = allow_pipe
        self._manifests: dict[str, Manifest] = {}

    def __getitem__(self, split: str) -> Manifest:
        """The manifest of "train" or "val".

        Raises:
            ValueError: There is no such data, or it is damaged.
        """
        if split not in self._manifests:
            self._manifests[split] = self._load(split)
        return self._manifests[split]

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of training samples of each class, by label."""
        train = self["train"]
        labels = train.samples["label"]
        known = labels[(labels >= 0) & (labels < train.num_classes)]  # the others are unreadable
        return tuple(np.bincount(known, minlength=train.num_classes).tolist())

    @property
    def present(self) -> tuple[int, ...] | None:
        """Labels of the classes with images, if val is an evaluation set of some of its classes."""
        val = self["val"]
        if not val.evaluation:
            return None
        labels = np.unique(val.samples["label"])
        return tuple(labels.tolist()) if len(labels) < val.num_classes else None

    def check_classes(self) -> None:
        """Make sure that a label means the same class in both splits.

        Raises:
            ValueError: The lists of classes differ.
        """
        train, val = self["train"], self["val"]
        if train.classes != val.classes:
            raise ValueError(
                f"the {train.num_classes} training classes and the {val.num_classes} validation "
                f"classes in {redacted(self.root)} are not the same, so their labels do not match; "
                "pack both splits again, from the same class list"
            )

    def _load(self, split: str) -> Manifest:
        if self.root.endswith((".tar", ".tar.gz", ".tgz")):
            raise ValueError(
                f"{redacted(self.root)} is a shard, and the root of data is a folder or URL with "
                "packed ones; make it with `python -m datamodules.pack wds SHARDS FOLDER`"
            )
        if is_remote(self.root):
            return load_remote(f"{self.root}/{split}", self._cache)
        root = Path(self.root)
        if not (root / split).is_dir():
            problem = f"has no folder {split}" if root.is_dir() else "does not exist"
            raise ValueError(
                f"the data folder {root} {problem}; pack your images into it (see "
                "`python -m datamodules.pack --help`), or try the generated data of `make demo`"
            )
        return Manifest.load(root / split, allow_pipe=self._allow_pipe)
