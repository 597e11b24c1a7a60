"""A data set that is elsewhere: its manifest, and whether the cache is large enough for it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from datamodules.common.files import replacing
from datamodules.remote.cache import ShardCache
from datamodules.remote.sources import SourceError, read_source
from datamodules.remote.urls import redacted
from datamodules.shards.manifest import INDEX, MANIFEST, Manifest


def default_cache_dir() -> Path:
    """Where local copies go: in the temporary folder, which clusters put on a node's own disk.

    A home folder, where caches usually are, is on a network file system there.
    """
    return Path(tempfile.gettempdir()) / f"bagnet-shards-{os.getuid()}"


def load_remote(url: str, cache: ShardCache) -> Manifest:
    """Load the manifest of one split's remote folder through a copy in the cache's folder.

    Raises:
        ValueError: There is no manifest, it is damaged, or it names shards outside its folder.
    """
    try:
        text = read_source(f"{url}/{MANIFEST}", cache.delays, cache.timeout)
    except SourceError as error:
        raise ValueError(
            f"{error}; --data.root must be the URL of a folder with train/ and val/, as "
            "`python -m datamodules.pack` writes them"
        ) from None
    folder = cache.folder / f"manifest-{hashlib.sha256(text).hexdigest()[:32]}"
    if not (folder / MANIFEST).exists():
        try:
            header = json.loads(text)
            size, sha256 = header["index_bytes"], header["index_sha256"]
            if not isinstance(size, int) or not isinstance(sha256, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{redacted(url)}/{MANIFEST} is damaged; pack it again") from None
        try:
            with (
                open(cache.open(f"{url}/{INDEX}", size, sha256), "rb") as index,
                replacing(folder / INDEX) as temporary,
                open(temporary, "wb") as copy,
            ):
                shutil.copyfileobj(index, copy)
        except SourceError as error:
            raise ValueError(f"{error}; copy it there again") from None
        with replacing(folder / MANIFEST) as temporary:
            temporary.write_bytes(text)  # last: a folder that has one is complete
    return Manifest.load(folder, base=url)


def cached_bytes(manifest: Manifest, cache: ShardCache) -> int:
    """Total length of the shards that are read from copies, in bytes."""
    shards = manifest.shards
    elsewhere = shards.take(np.flatnonzero(shards.elsewhere))
    total = sum(shard.bytes for shard in elsewhere if cache.serves(manifest.location(shard)))
    if cache.serves(manifest.base or str(manifest.root)):
        total += int(shards.bytes[~shards.elsewhere].sum())
    return total


def check_cache(manifest: Manifest, cache: ShardCache, streams: int, window: int) -> None:
    """Make sure the cache holds what a node reads at a time; else it would fetch without end.

    Args:
        manifest: The training data.
        cache: The node's cache.
        streams: Number of the plan's streams that this node reads.
        window: Shuffle window of the plan, in shards.

    Raises:
        ValueError: The cache is too small.
    """
    total = cached_bytes(manifest, cache)
    if not total:
        return
    # A window begins and ends within shards, and the next one is fetched at the same time.
    shards = min(len(manifest.shards), streams * (2 * window + 1))
    needed = min(total, shards * int(manifest.shards.bytes.max()))
    if cache.limit < needed:
        raise ValueError(
            f"--data.cache_gib allows {cache.limit / 2**30:.3g} GiB, but each node reads "
            f"copies of {needed / 2**30:.3g} GiB at a time; allow as much, or lower --data.window "
            "or --data.streams"
        )
