"""Shards on a server, and a small cache for them."""

import hashlib

import numpy as np
import pytest

from datamodules.remote.cache import ShardCache
from tests.datamodules.remote.caching import SIZE, Remote

QUICK = (0.01, 0.01)


@pytest.fixture
def remote(http_server):
    """Ten shards on the server."""
    shards, rng = [], np.random.default_rng(0)
    for number in range(10):
        data = rng.bytes(SIZE)
        (http_server.root / f"{number}.tar").write_bytes(data)
        location = f"{http_server.url}/{number}.tar"
        shards.append(Remote(location, SIZE, hashlib.sha256(data).hexdigest(), data))
    return shards


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)  # tests look into it before the first download
    return ShardCache(tmp_path / "cache", 3 * SIZE, QUICK, timeout=10.0)
