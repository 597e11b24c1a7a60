"""The list of a split's images: where their bytes are, and the key that each one gets.

ImageNet has 1.28 million images, so they are rows of a numpy table (about 100 bytes each) instead
of Python objects; a worker receives only the rows of its shard.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.errors import printable
from datamodules.common.reading import plain
from datamodules.processes.pool import Pool
from datamodules.shards.writer import MAX_KEY_BYTES

PLAIN_FILE = -1
"""The `archive` of an entry that is a file of its own."""

Problem = tuple[str, str]
"""The name of a file that is left out, and why."""


@dataclass(frozen=True)
class Source:
    """Where entries are read from: files below `root`, or members of the archives."""

    root: Path
    archives: tuple[Path, ...] = ()

    def prepare(self, pool: Pool, progress: Callable[[int], Any]) -> None:
        """Make what `read` needs, before the first image is read. Here it is there already."""

    def read(self, entry: np.void) -> bytes:
        """Return the image's bytes; fewer than `size` if the file ends early."""
        archive = int(entry["archive"])
        is_plain = archive == PLAIN_FILE
        path = self.root / os.fsdecode(entry["name"]) if is_plain else self.archives[archive]
        with open(path, "rb", opener=plain) as file:
            file.seek(int(entry["offset"]))
            return file.read(int(entry["size"]))

    def describe(self, entry: np.void) -> str:
        """Name the image for people: the archive, if there is one, and the path in it."""
        archive, name = int(entry["archive"]), printable(os.fsdecode(entry["name"]))
        return name if archive == PLAIN_FILE else f"{self.archives[archive].name}: {name}"


@dataclass(frozen=True)
class Listing:
    """A split to be packed."""

    split: str  # `train` or `val`
    source: Source
    entries: np.ndarray  # table of the images, sorted by name (see `tabulate`)
    classes: tuple[str, ...]  # ids by label
    class_names: tuple[str, ...]  # names by label
    problems: tuple[Problem, ...] = ()  # images that are left out already
    left_out: tuple[Problem, ...] = ()  # files that are no images of a class
    evaluation: bool = False  # an evaluation set: only the classes that have images count

    def order(self, seed: int) -> np.ndarray:
        """Shuffle: positions in `entries` sorted by a hash of seed and key, int64 (entries,).

        Unlike a random generator, a hash is the same in every version of every library.
        """
        hashed = partial(hashlib.blake2b, digest_size=8, key=b"%d" % seed)
        hashes = b"".join(hashed(key).digest() for key in self.entries["key"])
        return np.argsort(np.frombuffer(hashes, ">u8"), kind="stable")

    def fingerprint(self) -> str:
        """Hash everything about the input that determines the content of the shards."""
        facts = (self.split, self.classes, self.class_names, self.problems, self.entries.dtype)
        kind = ("evaluation",) if self.evaluation else ()
        digest = hashlib.sha256(repr((*facts, *kind)).encode("utf-8", "backslashreplace"))
        digest.update(self.entries.tobytes())
        return digest.hexdigest()


def to_rows(rows: Sequence[tuple[int, int, int, int, int, bytes]]) -> np.ndarray:
    """Make a table of tuples (archive, offset, size, mtime in ns, label, name)."""
    return np.array(rows, dtype=_dtype(max((len(row[-1]) for row in rows), default=1)))


def tabulate(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Join tables of `to_rows`, sort them by name and give every entry a unique key."""
    tables = list(parts)
    width = max((table.dtype["name"].itemsize for table in tables), default=1)
    empty = np.empty(0, _dtype(width))
    joined = np.concatenate([empty, *(table.astype(empty.dtype) for table in tables)])
    joined = joined[np.lexsort((joined["offset"], joined["archive"], joined["name"]))]
    keys = _unique_keys(joined["name"])
    entries = np.empty(len(joined), _dtype(width, max(map(len, keys), default=1)))
    for name in joined.dtype.names or ():
        entries[name] = joined[name]
    entries["key"] = keys
    return entries


def key_of(name: str) -> str:
    """Make a key of an untrusted path: `n01/n01_7.JPEG` gives `n01_7`.

    The class comes first (once). Only letters, digits, `_` and `-` stay: a dot would end the key
    for webdataset. `..` and leading slashes leave no trace.
    """
    stem, dot, suffix = name.rpartition(".")
    path = stem if dot and not set(suffix) & set("/\\") else name
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")]
    parts = [re.sub(r"[^\w-]", "_", part) for part in parts]
    if len(parts) > 1 and parts[1].startswith(f"{parts[0]}_"):
        del parts[0]
    return _shorten("_".join(parts) or "_", MAX_KEY_BYTES)


def _unique_keys(names: np.ndarray) -> list[bytes]:
    keys: dict[str, None] = {}
    for name in names:
        key = wanted = key_of(os.fsdecode(name))
        number = 2
        while key in keys:
            mark = f"-{number}"
            key, number = _shorten(wanted, MAX_KEY_BYTES - len(mark)) + mark, number + 1
        keys[key] = None
    return [key.encode("utf-8") for key in keys]


def _shorten(key: str, limit: int) -> str:
    encoded = key.encode("utf-8")
    if len(encoded) <= limit:
        return key
    mark = hashlib.sha256(encoded).hexdigest()[:12]
    return encoded[: limit - len(mark) - 1].decode("utf-8", "ignore") + "_" + mark


def _dtype(name_length: int, key_length: int = 0) -> np.dtype:
    fields = [("archive", "<i4"), ("offset", "<u8"), ("size", "<u8"), ("mtime", "<i8")]
    fields += [("label", "<i4"), ("name", f"S{max(1, name_length)}")]
    return np.dtype(fields + [("key", f"S{key_length}")] * bool(key_length))
