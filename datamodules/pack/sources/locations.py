"""Where shards are: their paths, URLs or commands, and a local copy of each while it is read."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

import braceexpand

from datamodules.common.errors import DISK_FULL
from datamodules.common.files import replacing, user_path
from datamodules.common.folders import files_below, natural_key
from datamodules.processes.pool import advance
from datamodules.remote.openers import has_folders
from datamodules.remote.sources import files_of, open_source, with_retries
from datamodules.remote.urls import is_remote, local_path, redacted

SUFFIXES = (".tar", ".tar.gz", ".tgz")
"""How the names of shards end."""

MAX_RATIO = 100
"""How many times larger a shard may be when it is decompressed. Images hardly grow; zeros without
end, which would fill the disk, do 1,000 times."""
_ALWAYS = 1 << 28
"""The bytes that any shard may have when it is decompressed."""

# By their names, in lower case, of folders and of shards.
SPLITS = {"train": {"train", "training"}, "val": {"val", "valid", "validation"}}
SPLITS_AND_TEST = {**SPLITS, "test": {"test", "testing"}}


def shards_by_split(patterns: Sequence[str], split: str | None = None) -> dict[str, list[str]]:
    """Find shards and divide them into `train` and `val`: paths become absolute, and unique.

    Args:
        patterns: Files, brace lists, globs, or folders with shards; also URLs and commands
            (`pipe:...`), which may have brace lists.
        split: What all of them are, for shards whose names do not say it.

    Raises:
        ValueError: There is no such shard, or its name says no split.
    """
    by_split: dict[str, list[str]] = {}
    for location in expand(patterns):
        by_split.setdefault(split or split_of(location), []).append(location)
    return dict(sorted(by_split.items()))


def path_in(location: str) -> PurePosixPath:
    """Path of the file that a location names; empty for a command without a `NAME.tar`."""
    if location.startswith("pipe:"):
        names = re.findall(r"[^\s'\"]+\.tar\b", location)
        return path_in(names[-1]) if names else PurePosixPath()
    return PurePosixPath(urlsplit(location).path if is_remote(location) else location)


@contextmanager
def local_copy(location: str) -> Iterator[Path]:
    """Give the path of a local shard, or of a temporary copy of a remote one, in a worker.

    Raises:
        SourceError: The shard cannot be read, after some attempts.
        ValueError: Nothing installed opens such a location, or the temporary folder is full.
    """
    if not is_remote(location):
        yield Path(local_path(location))
        return
    with tempfile.NamedTemporaryFile(prefix="shard-", suffix=".tar") as file:
        try:
            with_retries(partial(_download, location, file))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise ValueError(
                f"{tempfile.gettempdir()} has no room for a copy of {redacted(location)} "
                f"({error.strerror}); set TMPDIR to a larger folder, or give fewer --workers"
            ) from None
        yield Path(file.name)


def _download(location: str, file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()
    advance(0)  # raises if the worker must stop
    with open_source(location) as source:
        while block := source.read(1 << 20):
            file.write(block)
            advance(0)
    file.flush()


def is_compressed(location: str) -> bool:
    """Whether a shard is compressed, so that no image can be read from its middle."""
    return path_in(location).name.endswith(SUFFIXES[1:])


def decompressed(path: Path, folder: Path) -> Path:
    """Where `decompress` puts a shard, so that no two have the same place."""
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return folder / mark / f"{path.name.removesuffix('.tgz').removesuffix('.tar.gz')}.tar"


def decompress(path: Path, copy: Path) -> None:
    """Decompress a shard, unless that is done; the copy has the time of the shard.

    Raises:
        ValueError: It is not a complete gzip file, or grows more than `MAX_RATIO` times.
    """
    time, left = path.stat().st_mtime_ns, max(_ALWAYS, MAX_RATIO * path.stat().st_size)
    if copy.exists() and copy.stat().st_mtime_ns == time:
        return
    with replacing(copy) as temporary:
        try:
            with gzip.open(path) as source, open(temporary, "wb") as target:
                while block := source.read(1 << 20):
                    left -= len(block)
                    if left < 0:
                        raise ValueError(
                            f"{path} is more than {MAX_RATIO} times as large when it is "
                            "decompressed, as no shard of images is; if it is right, gunzip it"
                        )
                    target.write(block)
                    advance(0)  # raises if the worker must stop
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} is not a complete gzip file ({error}); download it again"
            ) from None
        os.utime(temporary, ns=(time, time))


def expand(patterns: Sequence[str], suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """Find the files that paths, brace lists, globs, folders and URLs mean: absolute, and unique.

    Args:
        patterns: What the user has given.
        suffixes: How the names of the files in a folder end, local or in a storage with folders.

    Raises:
        ValueError: There is no such file.
        SourceError: A remote folder cannot be listed.
    """
    locations: list[str] = []
    for pattern in patterns:
        if is_remote(pattern):
            for each in braceexpand.braceexpand(pattern):
                is_folder = has_folders(each) and not each.endswith(suffixes)
                matches = files_of(each, suffixes) if is_folder else [each]
                if not matches:
                    raise ValueError(f"no {suffixes[0]} files in {redacted(each)}")
                locations += matches
            continue
        path = str(user_path(local_path(pattern)))
        if os.path.isdir(path):
            files = (entry.path for entry in files_below(path).entries)
            matches = sorted((file for file in files if file.endswith(suffixes)), key=natural_key)
        else:
            matches = [
                match
                for each in braceexpand.braceexpand(path)
                for match in (_glob(each) if re.search(r"[*?\[]", each) else [each])
            ]
        if not matches:
            raise ValueError(f"no shards ({suffixes[0]}) match {pattern}")
        if missing := next((match for match in matches if not os.path.isfile(match)), None):
            raise ValueError(f"no such shard: {missing}")
        locations += map(os.path.abspath, matches)
    return list(dict.fromkeys(locations))


def _glob(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern), key=natural_key)


def split_of(location: str, known: Mapping[str, set[str]] = SPLITS) -> str:
    """Take the split from the file's name, or from its folder's if the file's does not say it."""
    path = path_in(location)
    for text in (path.name, path.parent.name):
        words = set(re.findall("[a-z]+", text.lower()))
        splits = [split for split, names in known.items() if words & names]
        if len(splits) == 1:
            return splits[0]
    raise ValueError(
        f"the name of {redacted(location)} says neither train nor val; give --split train or val"
    )
