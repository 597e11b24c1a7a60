"""What a folder of shards holds: names, counts, byte offsets, labels, class names, hashes.

Two files stand beside the shards. ``samples.npy`` has one fixed-size row a sample and is
memory-mapped, so that ImageNet loads in milliseconds and all workers of a machine share one copy.
``manifest.json`` has the rest, the hash of the index included; it is written last, so a folder that
has one is complete. Shards that lie elsewhere (``python -m datamodules.pack index``) have a URL.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"
INDEX = "samples.npy"
VERSION = 2


def SAMPLE_DTYPE(key_length: int) -> np.dtype:
    """Row of the index; offset and size (bytes) and CRC-32 are those of the image's file in its shard."""
    numbers = [("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("label", "<i4")]
    return np.dtype([*numbers, ("key", f"S{key_length}")])


@dataclass(frozen=True)
class Shard:
    """One tar file: its name, its samples, its length in bytes, its sha256, and its URL or path if it lies elsewhere."""

    name: str
    samples: int
    bytes: int
    sha256: str
    url: str | None = None


@dataclass(frozen=True)
class Sample:
    """Where one image lies: ``size`` bytes from ``offset`` on in ``shard``, whose bytes have the CRC-32 ``crc32``."""

    id: int
    shard: Shard
    key: str
    offset: int
    size: int
    crc32: int
    label: int


@dataclass(frozen=True, eq=False)
class Manifest:
    """A split, as a table. A sample's id is its position: shard by shard, in the shard's order.

    Attributes:
        root: The folder of the manifest, and of the shards that have no URL.
        classes: Class ids (folder names, wnids); a label is a position in this list.
        class_names: Names for people, one a class; the ids where nothing better is known.
        shards: The tar files, in the order of the sample ids.
        samples: ``(num_samples,)`` of ``SAMPLE_DTYPE``; memory-mapped and read-only after ``load``.
        base: The URL of the shards' folder, where the manifest is the local copy of a remote one.
    """

    root: Path
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...] = field(repr=False)
    samples: np.ndarray = field(repr=False)
    base: str | None = None

    @classmethod
    def assemble(
        cls,
        root: str | Path,
        classes: Sequence[str],
        class_names: Sequence[str],
        parts: Iterable[tuple[Shard, np.ndarray]],
    ) -> Manifest:
        """Join what ``write_shard`` returned for each shard, in this order."""
        shards, rows = zip(*parts, strict=True)
        widest = max(part.dtype["key"].itemsize for part in rows)
        samples = np.concatenate([part.astype(SAMPLE_DTYPE(widest)) for part in rows])
        return cls(Path(root), tuple(classes), tuple(class_names), tuple(shards), samples)

    @classmethod
    def load(
        cls, folder: str | Path, base: str | None = None, allow_pipe: bool = False
    ) -> Manifest:
        """Open and check the manifest of a folder.

        Args:
            folder: Where ``manifest.json`` and ``samples.npy`` are.
            base: The URL of the remote folder that they were copied from.
            allow_pipe: Whether shards may be the output of commands (``pipe:...``). A manifest from
                elsewhere could name any command.

        Raises:
            ValueError: No such folder, no manifest, an unreadable one, an index that is not the one
                it was saved with, no samples, or a shard that may not be opened.
        """
        folder = Path(folder)
        header = _read_header(folder)
        try:
            if sha256_of(folder / INDEX) != header["index_sha256"]:
                raise ValueError(f"{INDEX} has changed")
            manifest = cls(
                root=folder,
                classes=tuple(header["classes"]),
                class_names=tuple(header["class_names"]),
                shards=tuple(Shard(**shard) for shard in header["shards"]),
                samples=np.load(folder / INDEX, mmap_mode="r", allow_pickle=False),
                base=base,
            )
        except FileNotFoundError:
            raise ValueError(f"{folder} has {MANIFEST} but no {INDEX}; pack it again") from None
        except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"the manifest in {folder} is damaged ({type(error).__name__}: {error}); "
                "pack it again"
            ) from None
        manifest._check()
        manifest._check_urls(allow_pipe)
        return manifest

    def save(self) -> None:
        """Write both files, each under a temporary name first, ``manifest.json`` last."""
        self._check()
        self._check_labels()
        self.root.mkdir(parents=True, exist_ok=True)
        # Without a manifest the folder counts as incomplete while the index changes.
        (self.root / MANIFEST).unlink(missing_ok=True)
        header = {
            "version": VERSION,
            "num_samples": self.num_samples,
            "classes": self.classes,
            "class_names": self.class_names,
            "shards": [_without_none(asdict(shard)) for shard in self.shards],
        }
        index, manifest = self.root / f".{INDEX}.tmp", self.root / f".{MANIFEST}.tmp"
        try:
            with open(index, "wb") as file:
                np.save(file, self.samples, allow_pickle=False)
            header["index_bytes"] = index.stat().st_size
            header["index_sha256"] = sha256_of(index)
            text = json.dumps(header, indent=1, ensure_ascii=False) + "\n"
            manifest.write_text(text, encoding="utf-8")
            os.replace(index, self.root / INDEX)
            os.replace(manifest, self.root / MANIFEST)
        finally:
            index.unlink(missing_ok=True)
            manifest.unlink(missing_ok=True)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # Spawned workers map the index themselves instead of receiving a copy of it.
        if isinstance(self.samples, np.memmap):
            return Manifest.load, (self.root, self.base, True)  # it was allowed to load here
        return Manifest, tuple(getattr(self, each.name) for each in fields(self))

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def counts(self) -> np.ndarray:
        """Samples of each shard, int64 ``(S,)``."""
        return np.array([shard.samples for shard in self.shards], dtype=np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """The first sample id of each shard and, last, the number of samples: int64 ``(S+1,)``."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])

    @cached_property
    def digest(self) -> str:
        """A sha256 that changes with the shards' names, counts or content and with the classes."""
        shards = [[shard.name, shard.samples, shard.sha256] for shard in self.shards]
        content = json.dumps([shards, self.classes], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def sample(self, sample_id: int) -> Sample:
        """Look one sample up; an id that does not exist is an IndexError."""
        return self.lookup(np.array([sample_id]))[0]

    def lookup(self, ids: np.ndarray) -> list[Sample]:
        """Look samples up, a batch in a fraction of the time of its samples one by one."""
        outside = (ids < 0) | (ids >= self.num_samples)
        if outside.any():
            sample_id = ids[outside][0]
            raise IndexError(f"sample {sample_id} of {self.num_samples} in {self.root}")
        rows = self.samples[ids]
        shards = [self.shards[number] for number in self.shard_of(ids).tolist()]
        keys = [key.decode("utf-8") for key in rows["key"].tolist()]
        numbers = [rows[name].tolist() for name in ("offset", "size", "crc32", "label")]
        return list(map(Sample, ids.tolist(), shards, keys, *numbers))

    def location(self, shard: Shard) -> str:
        """Path or URL of a shard."""
        if shard.url is not None:
            return shard.url
        return f"{self.root if self.base is None else self.base}/{shard.name}"

    def shard_of(self, ids: np.ndarray | Sequence[int] | int) -> np.ndarray:
        """Positions in ``shards`` of the samples ``ids``, int64 of the same shape."""
        return np.searchsorted(self.starts, ids, side="right") - 1

    def _check(self) -> None:
        """Raise a ValueError for the first thing in which the parts of the manifest disagree."""
        where = f"the manifest in {self.root}"
        names = self.samples.dtype.names or ()
        key_length = self.samples.dtype["key"].itemsize if "key" in names else 0
        if self.samples.ndim != 1 or self.samples.dtype != SAMPLE_DTYPE(key_length):
            raise ValueError(f"{where} has an index of the wrong format; pack it again")
        if self.num_samples == 0:
            raise ValueError(f"{where} lists no samples; pack a folder with images")
        for shard in self.shards:  # a manifest may come from elsewhere: never leave its folder
            if "/" in shard.name or "\\" in shard.name or shard.name in ("", ".", ".."):
                raise ValueError(f"{where} lists the shard {shard.name!r}, which is no file name")
        if len(self.class_names) != self.num_classes:
            raise ValueError(
                f"{where} has {len(self.class_names)} class names for {self.num_classes} classes"
            )
        if int(self.counts.sum()) != self.num_samples or (self.counts < 0).any():
            raise ValueError(
                f"{where} counts {int(self.counts.sum())} samples in its shards but its index "
                f"has {self.num_samples}; pack it again"
            )

    def _check_labels(self) -> None:
        """Raise a ValueError for a label outside the classes; in a loaded manifest that sample is bad data."""
        low, high = int(self.samples["label"].min()), int(self.samples["label"].max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"the manifest in {self.root} has the label {low if low < 0 else high}, outside its "
                f"{self.num_classes} classes; correct the labels and pack it again"
            )

    def _check_urls(self, allow_pipe: bool) -> None:
        """Raise a ValueError for a shard that must not be opened on the word of a manifest alone."""
        urls = [shard.url for shard in self.shards if shard.url is not None]
        if urls and self.base is not None:
            raise ValueError(
                f"the manifest in {self.base} lists shards outside its folder, which a remote "
                "manifest may not; copy it here and give its folder as --data.root"
            )
        if not allow_pipe and any(url.startswith("pipe:") for url in urls):
            raise ValueError(
                f"the manifest in {self.root} reads its shards through commands (pipe:...), and one "
                "from elsewhere could run anything; if you trust it, say --data.allow_pipe true"
            )


def sha256_of(path: Path) -> str:
    """Hash a file in blocks: hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _without_none(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None}


def _read_header(folder: Path) -> dict[str, Any]:
    """Read ``manifest.json``, or raise a ValueError that says why it cannot be."""
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}; make it with `python -m datamodules.pack`")
    path = folder / MANIFEST
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no {MANIFEST}, so it was never packed or packing did not finish; "
            "run `python -m datamodules.pack` (the same command goes on where it stopped)"
        ) from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is unreadable ({error}); pack it again") from None
    version = header.get("version") if isinstance(header, dict) else None
    if version != VERSION:
        raise ValueError(
            f"{path} has format version {version!r} and this code reads {VERSION}; pack it again"
        )
    return header
