"""Packs one split: shuffles it, cuts it into shards, writes them in parallel, and can resume.

`OUT/train/pack.json` says what the job is. Until the manifest is written, `.partial/` has a file
for each finished shard. The same command resumes with the missing shards; another input or other
options are never mixed with what is there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.common.errors import printable
from datamodules.common.files import write_text
from datamodules.common.reading import MAX_TEXT, read_plain
from datamodules.common.texts import read_text
from datamodules.pack.options import PackOptions
from datamodules.pack.shard import PARTIAL, Task, write
from datamodules.pack.sources.listing import Listing, Problem
from datamodules.processes.pool import Pool
from datamodules.shards.manifest import INDEX, MANIFEST, VERSION, Manifest
from datamodules.shards.writer import shard_name

JOB = "pack.json"
SKIPPED = "skipped.tsv"
MAX_SKIPPED = 0.001
"""The largest share of a split that may be unreadable."""


@dataclass(frozen=True)
class Packed:
    """What became of a split."""

    manifest: Manifest
    skipped: tuple[Problem, ...]
    written: int  # images written by this run
    reused_shards: int  # shards written by an earlier run
    seconds: float  # that this run took; 0 if there was nothing to do
    encoded: int = 0  # images that were encoded again


class Job:
    """The packing of one listing into one folder."""

    def __init__(self, listing: Listing, folder: Path, options: PackOptions) -> None:
        self.listing, self.folder, self._options = listing, folder, options
        # What determines the bytes that are written.
        self._record: dict[str, Any] = {
            "format": VERSION,
            "input": listing.fingerprint(),
            "samples_per_shard": options.samples_per_shard,
            "seed": options.seed,
            "images": {"resize": options.resize, "quality": options.quality},
        }
        self._fingerprint = hashlib.sha256(json.dumps(self._record).encode()).hexdigest()

    def check(self) -> None:
        """Raise a ValueError if the folder holds anything but (a part of) this very job."""
        folder = self.folder
        try:
            record = json.loads(read_text(folder / JOB))
            if not isinstance(record, dict) or not isinstance(record.get("images", {}), dict):
                raise ValueError("it holds no facts")
        except FileNotFoundError:
            if any((folder / name).exists() for name in (MANIFEST, INDEX, shard_name(0))):
                raise ValueError(
                    f"{folder} already has shards that pack did not write; choose another OUT"
                ) from None
            return
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{folder / JOB} is damaged ({error}); delete {folder}") from None
        if record != self._record:
            raise ValueError(
                f"{folder} holds a pack of {_difference(record, self._record)}; "
                f"give the same input and options again, choose another OUT, or delete {folder}"
            )

    def finished(self) -> Packed | None:
        """What an earlier run has packed, if it finished."""
        if not (self.folder / MANIFEST).exists():
            return None
        manifest, path = Manifest.load(self.folder), self.folder / SKIPPED
        data = read_plain(path, MAX_TEXT) if path.exists() else b""
        lines = data.decode("utf-8", "replace").splitlines()
        skipped = tuple((name, reason) for name, _, reason in (x.partition("\t") for x in lines))
        self._tidy()  # a kill may have come right after the manifest
        return Packed(manifest, skipped, 0, len(manifest.shards), 0.0)

    def prepare(self, pool: Pool, progress: Callable[[int], Any]) -> None:
        """Begin, or resume: let the source make what it needs to read single images.

        Args:
            pool: Does it in parallel.
            progress: Called with the number of images done so far.
        """
        (self.folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        write_text(json.dumps(self._record, indent=1) + "\n", self.folder / JOB)
        self.listing.source.prepare(pool, progress)

    def run(self, pool: Pool, progress: Callable[[int], Any]) -> Packed:
        """Write the missing shards, then the manifest, after `prepare`.

        Args:
            pool: Writes the shards in parallel.
            progress: Called with the number of images done so far.

        Raises:
            ValueError: More than `MAX_SKIPPED` of the images are unreadable.
            OSError: The output cannot be written. Finished shards stay; nothing is half-written.
        """
        started = time.monotonic()
        parts = pool.run(write, self._tasks(), progress)
        unreadable = sorted(itertools.chain(self.listing.problems, *(p.skipped for p in parts)))
        total = len(self.listing.entries) + len(self.listing.problems)
        remedy = f"Repair or remove them, delete {self.folder} and pack again"
        skipped = report_skipped(self.folder, unreadable, total, remedy, self.listing.left_out)
        shards = [(part.shard, part.rows) for part in parts if part.shard is not None]
        classes, names = self.listing.classes, self.listing.class_names
        evaluation = self.listing.evaluation
        manifest = Manifest.assemble(self.folder, classes, names, shards, evaluation)
        manifest.save()
        self._tidy()
        reused = [part for part in parts if part.reused]
        written = manifest.num_samples - sum(len(part.rows) for part in reused)
        seconds = time.monotonic() - started
        encoded = sum(part.encoded for part in parts)
        return Packed(manifest, skipped, written, len(reused), seconds, encoded)

    def _tidy(self) -> None:
        """Remove what only an unfinished pack needs."""
        shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)
        for leftover in self.folder.glob(".*.tmp.*"):  # of a run that was killed on another host
            leftover.unlink(missing_ok=True)

    def _tasks(self) -> list[Task]:
        order = self.listing.order(self._options.seed)
        total = len(order)
        count = -(-total // self._options.samples_per_shard)
        # Shards of equal length, give or take one, rather than a last one that is nearly empty.
        bounds = [total * at // count for at in range(count + 1)]
        return [
            Task(
                path=self.folder / shard_name(at),
                fingerprint=self._fingerprint,
                source=self.listing.source,
                entries=self.listing.entries[order[bounds[at] : bounds[at + 1]]],
                resize=self._options.resize,
                quality=self._options.quality,
            )
            for at in range(count)
        ]


def report_skipped(
    folder: Path,
    unreadable: Sequence[Problem],
    total: int,
    remedy: str,
    left_out: Sequence[Problem] = (),
) -> tuple[Problem, ...]:
    """Write the list of what is skipped, if anything is; returns it.

    Args:
        folder: The folder of the split.
        unreadable: Images that cannot be read.
        total: The number of images.
        remedy: What to do if too many are unreadable.
        left_out: Files that are no images of the split.

    Raises:
        ValueError: More than `MAX_SKIPPED` of the images are unreadable.
    """
    path = folder / SKIPPED
    skipped = (*unreadable, *((printable(name), reason) for name, reason in left_out))
    if not skipped:
        path.unlink(missing_ok=True)
        return ()
    write_text("".join(f"{name}\t{reason}\n" for name, reason in skipped), path)
    if len(unreadable) > MAX_SKIPPED * total:
        name, reason = unreadable[0]
        raise ValueError(
            f"{len(unreadable):,} of the {total:,} images of {folder.name} are unreadable, more "
            f"than {MAX_SKIPPED:.1%}; the first is {name} ({reason}), all are in {path}. {remedy}"
        )
    return skipped


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say how the job in the folder differs from the one that is wanted."""
    if old.get("format") != new["format"]:
        return "an older format"
    old, new = ({**job, **job.get("images", {})} for job in (old, new))
    for name in ("samples_per_shard", "seed", "resize", "quality"):
        if old.get(name) != new.get(name):
            return f"other options (--{name} was {old.get(name)} and is now {new.get(name)})"
    return "another input (a file was added, removed or changed)"
