"""The manifest of a folder of shards: names, counts, byte offsets, labels, class names, hashes.

It is two files beside the shards. `samples.npy`, the index, has a row of fixed size per sample and
is memory-mapped, so ImageNet loads in milliseconds and all processes of a machine share one copy.
`manifest.json` has the rest, including the hash of the index. It is written last, so a folder that
has one is complete. Shards elsewhere (`python -m datamodules.pack index`) have a URL.

A rank reads and checks both once. The processes that it starts get the result: they share the
memory of the shards' table, and map the index.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.arrays import map_array
from datamodules.common.errors import explain
from datamodules.common.files import replacing, write_text
from datamodules.common.reading import MAX_MANIFEST, plain, read_plain
from datamodules.remote.urls import scheme_of
from datamodules.shards import checks
from datamodules.shards.entries import Sample, Shard, Shards, sample_dtype

MANIFEST = "manifest.json"
INDEX = "samples.npy"
VERSION = 2


@dataclass(frozen=True, eq=False)
class Manifest:
    """A split as a table. A sample's id is its position: shard by shard, in the shard's order."""

    root: Path  # folder of the manifest, and of the shards that have no URL
    classes: tuple[str, ...]  # ids (folder names, wnids); a label is a position in this list
    class_names: tuple[str, ...]  # for people; the ids if nothing better is known
    shards: Shards = field(repr=False)  # in the order of the sample ids
    # `sample_dtype` (num_samples,); memory-mapped and read-only after `load`
    samples: np.ndarray = field(repr=False)
    evaluation: bool = False  # an evaluation set: only the classes that have images count
    base: str | None = None  # URL of the shards' folder, if this is the copy of a remote manifest

    @classmethod
    def assemble(
        cls,
        root: str | Path,
        classes: Sequence[str],
        class_names: Sequence[str],
        parts: Iterable[tuple[Shard, np.ndarray]],
        evaluation: bool = False,
    ) -> Manifest:
        """Join what `write_shard` returned for each shard, in this order."""
        shards, rows = zip(*parts, strict=True)
        widest = max(part.dtype["key"].itemsize for part in rows)
        samples = np.concatenate([part.astype(sample_dtype(widest)) for part in rows])
        texts = tuple(classes), tuple(class_names)
        return cls(Path(root), *texts, Shards.of(shards), samples, evaluation)

    @classmethod
    def load(
        cls, folder: str | Path, base: str | None = None, allow_pipe: bool = False
    ) -> Manifest:
        """Open and check the manifest of a folder.

        Args:
            folder: Where `manifest.json` and `samples.npy` are.
            base: URL of the remote folder that they were copied from.
            allow_pipe: Whether shards may be the output of commands (`pipe:...`). A manifest from
                elsewhere could name any command.

        Raises:
            ValueError: There is no manifest, it is damaged or empty, the index is not the one it
                was saved with, or a shard may not be opened.
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
                shards=Shards.of(_take_shards(header)),
                samples=map_array(folder / INDEX),
                evaluation=bool(header.get("evaluation")),
                base=base,
            )
        except FileNotFoundError:
            raise ValueError(f"{folder} has {MANIFEST} but no {INDEX}; pack it again") from None
        except (KeyError, TypeError, ValueError, OverflowError, OSError, EOFError) as error:
            reason = str(getattr(error, "strerror", None) or error)[:200]
            raise ValueError(
                f"the manifest in {folder} is damaged ({type(error).__name__}: {reason}); "
                "pack it again"
            ) from None
        checks.check_consistency(manifest)
        checks.check_urls(manifest, allow_pipe)
        return manifest

    def save(self) -> None:
        """Write both files, `manifest.json` last.

        Raises:
            ValueError: The parts of the manifest contradict each other.
        """
        checks.check_consistency(self)
        checks.check_labels(self)
        # Without a manifest, the folder counts as incomplete while the index changes.
        (self.root / MANIFEST).unlink(missing_ok=True)
        header = {
            "version": VERSION,
            "num_samples": self.num_samples,
            "classes": self.classes,
            "class_names": self.class_names,
            **({"evaluation": True} if self.evaluation else {}),
            "shards": [
                {name: value for name, value in shard._asdict().items() if value is not None}
                for shard in self.shards
            ],
        }
        with replacing(self.root / INDEX) as index:
            np.save(index, self.samples, allow_pickle=False)
            header["index_bytes"] = index.stat().st_size
            header["index_sha256"] = sha256_of(index)
        text = json.dumps(header, indent=1, ensure_ascii=False) + "\n"
        write_text(text, self.root / MANIFEST)

    def __reduce__(self) -> str | tuple[Any, ...]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        if isinstance(self.samples, np.memmap):
            values["samples"] = None  # `_receive` maps the index, too
        return _receive, (values,)

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def has_pipes(self) -> bool:
        """Whether any shard is the output of a command (`pipe:...`)."""
        elsewhere = self.shards.take(np.flatnonzero(self.shards.elsewhere))
        return any(scheme_of(str(shard.url)) == "pipe" for shard in elsewhere)

    @cached_property
    def counts(self) -> np.ndarray:
        """Samples of each shard, int64 (shards,)."""
        return np.diff(self.starts)

    @property
    def starts(self) -> np.ndarray:
        """First sample id of each shard, then the number of samples: int64 (shards + 1,)."""
        return self.shards.starts

    @cached_property
    def digest(self) -> str:
        """A sha256 of the names, counts and contents of the shards, and of what labels mean."""
        encode = json.JSONEncoder(separators=(",", ":")).encode
        digest = hashlib.sha256(b"[[")  # of a list in JSON, which could be too long for one text
        for begin in range(0, len(self.shards), 4096):
            shards = self.shards[begin : begin + 4096]
            entries = encode([[shard.name, shard.samples, shard.sha256] for shard in shards])[1:-1]
            digest.update((f",{entries}" if begin else entries).encode())
        digest.update(f"],{encode(self.classes)}{',true' * self.evaluation}]".encode())
        return digest.hexdigest()

    def sample(self, sample_id: int) -> Sample:
        """Look up one sample; see `lookup`."""
        return self.lookup(np.array([sample_id]))[0]

    def lookup(self, ids: np.ndarray) -> list[Sample]:
        """Look up the samples of a batch, much faster than one by one.

        Args:
            ids: Sample ids, int64 (samples,).

        Raises:
            IndexError: An id does not exist.
        """
        if (outside := (ids < 0) | (ids >= self.num_samples)).any():
            raise IndexError(f"sample {ids[outside][0]} of {self.num_samples} in {self.root}")
        rows = self.samples[ids]
        shards = self.shards.take(self.shard_of(ids))
        keys = [key.decode("utf-8", "replace") for key in rows["key"].tolist()]  # for people only
        numbers = [rows[name].tolist() for name in ("offset", "size", "crc32", "label")]
        return list(map(Sample, ids.tolist(), shards, keys, *numbers))

    def location(self, shard: Shard) -> str:
        """Path or URL of a shard."""
        if shard.url is not None:
            return shard.url
        return f"{self.root if self.base is None else self.base}/{shard.name}"

    def shard_of(self, ids: np.ndarray | Sequence[int] | int) -> np.ndarray:
        """Positions in `shards` of the samples with these ids, int64 of the same shape."""
        return np.searchsorted(self.starts, ids, side="right") - 1


def sha256_of(path: Path) -> str:
    """Hash a file in blocks: hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb", opener=plain) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_header(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}; make it with `python -m datamodules.pack`")
    path = folder / MANIFEST
    try:
        header = json.loads(read_plain(path, MAX_MANIFEST))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no {MANIFEST}, so it was never packed or packing did not finish; "
            "run `python -m datamodules.pack` (the same command resumes)"
        ) from None
    except (ValueError, OSError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} is unreadable ({reason}); pack it again") from None
    version = header.get("version") if isinstance(header, dict) else None
    if version != VERSION:
        raise ValueError(
            f"{path} has format version {version!r} and this code reads {VERSION}; pack it again"
        )
    return dict(header)


def _take_shards(header: dict[str, Any]) -> Iterator[Shard]:
    """Free each row of the header when its shard is taken, because rows are large."""
    rows = deque(header.pop("shards"))
    while rows:
        yield Shard(**rows.popleft())


def _receive(values: dict[str, Any]) -> Manifest:
    if values["samples"] is None:  # the sender has checked its hash
        try:
            values["samples"] = map_array(values["root"] / INDEX)
        except OSError as error:
            if not getattr(multiprocessing.current_process(), "_inheriting", False):
                raise
            # This process is just beginning, and would end in a traceback of multiprocessing's.
            print(explain(error), file=sys.stderr, flush=True)
            os._exit(1)
    return Manifest(**values)
