"""Misbehaving servers of shards, manifests, indices and weights.

A server answers in one of the ways of `answers.py`: the first time, or always; or it breaks off
first, and answers the request for the rest so. Either exactly the right bytes arrive, or one line
names the URL, within a bound on time and memory. When the server is good again, the right bytes
arrive. The limits on waiting are short here: half a second instead of a minute.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bagnet.model import sources as weights
from bagnet.model.registry import build_model
from datamodules.common.errors import explain
from datamodules.demo.generate import generate
from datamodules.remote import openers
from datamodules.remote import sources as data_sources
from datamodules.remote.cache import ShardCache
from datamodules.remote.dataset import load_remote
from datamodules.remote.urls import redacted_text
from datamodules.shards.manifest import Manifest
from tests.datamodules.servers import HttpServer, serving
from tests.soak.answers import ANSWERS
from tests.soak.commands import Ended, Memory, call
from tests.soak.outcomes import LIMIT, LOST, Row

SECONDS = 30.0
"""The most that reading a file may take, for three attempts."""
MEGABYTES = 64.0
"""The most memory that it may take."""
AT_ONCE = 6
_TIMEOUT = 0.5
_LARGEST = 4_000_000  # bytes; every file here is smaller
FILES = {
    "shards": "train/shard-000000.tar",
    "manifests": "train/manifest.json",
    "indices": "train/samples.npy",
    "weights": "",
}
OTHER = 3  # exit status if other bytes have passed for the right ones
ONCE, ALWAYS, RESUMED = "once", "always", "for the rest"


@dataclass(frozen=True)
class Good:
    """What a good server has.

    Args:
        folder: Its files.
        weights: Name of those.
        manifest: Of the shards.
    """

    folder: Path
    weights: str
    manifest: Manifest

    def expected(self, what: str) -> str:
        """What identifies the right content."""
        if what == "weights":
            return _sha256(self.folder / self.weights)
        return self.manifest.shards[0].sha256 if what == "shards" else self.manifest.digest


def run(folder: Path, share: float, seed: int) -> list[Row]:
    good = make_data(folder)
    tries = [(what, kind, when) for what in FILES for kind in ANSWERS for when in (ONCE, ALWAYS)]
    tries += [("shards", kind, RESUMED) for kind in ANSWERS]
    count = max(1, round(share * len(tries)))
    chosen = sorted(random.Random(seed).sample(tries, min(count, len(tries))))
    with serving(folder / "served") as server, ThreadPoolExecutor(AT_ONCE) as pool:
        attempts = [
            pool.submit(attempt, number, *each, good, server, folder)
            for number, each in enumerate(chosen)
        ]
        return [row_of(what, [each.result() for each in attempts]) for what in FILES]


def row_of(what: str, attempts: list[Attempt]) -> Row:
    row = Row(f"misbehaving servers of {what}")
    mine = [each for each in attempts if each.what == what]
    for each in mine:
        each.count(row)
    refused = sum(each.ended.code == 2 for each in mine)
    seconds = max((each.ended.seconds for each in mine), default=0)
    grown = max((each.ended.grown for each in mine), default=0)
    row.measured = f"{refused} refused; at most {seconds:.1f} s, {grown:.0f} MB"
    return row


@dataclass
class Attempt:
    """What came of one way to misbehave.

    Args:
        what: One of `FILES`.
        how: How the server misbehaved.
        ended: How reading ended while the server misbehaved.
        again: How it ended when the server was good again.
    """

    what: str
    how: str
    ended: Ended
    again: Ended

    def count(self, row: Row) -> None:
        row.tried += 1
        for ended, then in ((self.ended, ""), (self.again, ", then from a good server")):
            if ended.code == OTHER:
                row.add(LOST, f"{self.how}{then}: other bytes passed for the right ones")
            elif ended.code != 0 and (fault := ended.fault("127.0.0.1")):
                row.add(fault[0], f"{self.how}{then}: {fault[1]}")
            elif ended.code != 0 and then:
                row.add(LOST, f"{self.how}{then}: {ended.last}")
        if self.ended.grown > MEGABYTES:
            row.add(LIMIT, f"{self.how}: {self.ended.grown:.0f} MB of memory")


def attempt(
    number: int, what: str, kind: str, when: str, good: Good, server: HttpServer, folder: Path
) -> Attempt:
    """Read from a server that misbehaves, and again when it is good.

    Args:
        number: Each attempt has files and a folder of its own.
        what: One of `FILES`.
        kind: One of `ANSWERS`.
        when: How often: once, always, or always after it has broken off.
        good: What it should answer.
        server: The server.
        folder: Where all is.
    """
    served, here = server.root / str(number), folder / str(number)
    shutil.copytree(good.folder, served)
    here.mkdir()
    path = f"/{number}/{FILES[what] or good.weights}"
    first = [("cut", 50_000)] * (when == RESUMED)
    server.fail(path, *first, *[ANSWERS[kind]] * (1 if when == ONCE else 50))
    read = partial(read_and_check, what, f"{server.url}/{number}", good, here)
    ended = call(read, here, SECONDS)
    server.heal(path)
    again = call(partial(read, timeout=SECONDS), here, 2 * SECONDS)
    shutil.rmtree(served)
    shutil.rmtree(here)
    return Attempt(what, f"{kind} {when}", ended, again)


def read_and_check(what: str, url: str, good: Good, folder: Path, timeout: float = _TIMEOUT) -> int:
    """Read as a command does: 0 if all bytes are right, 2 with a line if it is refused."""
    data_sources.TIMEOUT = timeout
    openers.SLOWEST, data_sources.MAX_BYTES = 1 << 30, _LARGEST
    weights.PATIENCE, weights.LARGEST = timeout, _LARGEST
    torch.hub.set_dir(str(folder))
    read = READERS[what]
    memory = Memory()
    try:
        found = read(url, good, folder)
    except (ValueError, OSError) as error:
        message = explain(error) if isinstance(error, OSError) else str(error)
        print(f"error: {redacted_text(message)}")
        return 2
    finally:
        print(f"memory: {memory.grown():.1f} MB")
    return 0 if found == good.expected(what) else OTHER


def _shard(url: str, good: Good, folder: Path) -> str:
    shard = good.manifest.shards[0]
    return _sha256(_cache(folder).fetch(f"{url}/{FILES['shards']}", shard.bytes, shard.sha256))


def _manifest(url: str, good: Good, folder: Path) -> str:
    return load_remote(f"{url}/train", _cache(folder)).digest


def _weights(url: str, good: Good, folder: Path) -> str:
    return _sha256(weights.find_weights(f"{url}/{good.weights}"))


READERS = {"shards": _shard, "manifests": _manifest, "indices": _manifest, "weights": _weights}


def _cache(folder: Path) -> ShardCache:
    timeout = data_sources.TIMEOUT
    return ShardCache(folder / "cache", _LARGEST, delays=(0.01, 0.01), timeout=timeout)


def make_data(folder: Path) -> Good:
    data = folder / "good"
    generate(data, {"train": 60}, seed=0)
    torch.manual_seed(0)
    file = folder / "net.pth"
    torch.save({"state_dict": build_model("bagnet9", 3, width=8).state_dict()}, file)
    name = f"net-{_sha256(file)[:8]}.pth"
    file.rename(data / name)
    return Good(data, name, Manifest.load(data / "train"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
