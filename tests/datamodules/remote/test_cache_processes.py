"""Many processes, one cache: complete shards only, each fetched once, never over the limit."""

import dataclasses
import errno
import fcntl
import hashlib
import multiprocessing
import os
import resource
import signal
import threading
import time

import numpy as np
import pytest

from datamodules.remote import cache as module
from tests.datamodules.remote.caching import SIZE, copy_of, files, part_of, read

FORK = multiprocessing.get_context("fork")


def start(target, *arguments, context=FORK):
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def fetch_and_tell(cache, shard, waiting):
    """Fetch in a forked process; sets `waiting` when it waits for another download."""
    wait_for = module._wait_for

    def wait(part):
        waiting.set()
        wait_for(part)

    module._wait_for = wait
    cache.fetch(*shard[:3])


def _read_at_random(cache, shards, seed):
    rng = np.random.default_rng(seed)
    for number in rng.integers(len(shards), size=25):
        assert read(cache, shards[number]) == shards[number].data


@pytest.mark.parametrize(
    ("method", "number"), [("fork", 4), pytest.param("spawn", 3, marks=pytest.mark.slow)]
)
def test_processes_that_want_the_same_shards_fetch_each_once(
    cache, remote, http_server, method, number
):
    http_server.pause = 0.005
    context = multiprocessing.get_context(method)
    wanted = [remote[(process + turn) % 3] for process in range(number) for turn in range(3)]
    processes = [start(cache.fetch, *shard[:3], context=context) for shard in wanted]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    for at, shard in enumerate(remote[:3]):
        assert copy_of(cache, shard).read_bytes() == shard.data
        assert http_server.transfers(f"/{at}.tar") == [(None, SIZE)]


def test_different_shards_are_fetched_at_the_same_time(cache, remote, http_server):
    http_server.fail("/0.tar", ("stall", 1000))
    first = start(cache.fetch, *remote[0][:3])
    until(lambda: len(files(cache)) == 1)
    assert read(cache, remote[1]) == remote[1].data
    first.kill()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_waiting_process_resumes_where_a_killed_one_stopped(cache, remote, http_server, ranges):
    shard, http_server.ranges = remote[0], ranges
    http_server.fail("/0.tar", ("stall", 400_000))
    first = start(cache.fetch, *shard[:3])
    until(lambda: files(cache) and part_of(cache, shard).stat().st_size > 300_000)
    waiting = FORK.Event()
    second = start(fetch_and_tell, cache, shard, waiting)
    assert waiting.wait(60)
    assert len(http_server.transfers("/0.tar")) == 1
    os.kill(first.pid, signal.SIGKILL)
    second.join(60)
    assert second.exitcode == 0
    assert copy_of(cache, shard).read_bytes() == shard.data
    _, (wanted, sent), *rest = http_server.transfers("/0.tar")
    begin = int(wanted.removeprefix("bytes=").partition("-")[0])
    assert begin > 300_000
    if ranges:
        assert not rest
        assert sent == SIZE - begin
    else:
        assert rest == [(None, SIZE)]


def test_waits_for_room_that_is_promised_to_downloads(cache, remote, http_server):
    cache = dataclasses.replace(cache, limit=SIZE + 1)
    http_server.fail("/0.tar", ("stall", 1000))
    first = start(cache.fetch, *remote[0][:3])
    until(lambda: files(cache))
    waiting = FORK.Event()
    second = start(fetch_and_tell, cache, remote[1], waiting)
    assert waiting.wait(60)
    assert not http_server.transfers("/1.tar")
    first.kill()
    second.join(60)
    assert files(cache) == [copy_of(cache, remote[1]).name]


@pytest.mark.parametrize(("room", "processes"), [(3, 4), (1, 3)])
def test_many_processes_never_exceed_the_limit(cache, remote, room, processes):
    cache = dataclasses.replace(cache, limit=room * SIZE)
    readers = [start(_read_at_random, cache, remote, seed) for seed in range(processes)]
    sizes = []
    while any(reader.is_alive() for reader in readers):
        with open(cache.folder / ".lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # else the listing mixes names of different moments
            sizes.append(sum(path.stat().st_size for path in cache.folder.iterdir()))
        time.sleep(0.001)
    assert [reader.exitcode for reader in readers] == [0] * processes
    assert 0 < max(sizes) <= room * SIZE


@pytest.mark.parametrize("size", [SIZE, 1000])  # the other one fits into a buffer
def test_a_full_disk_is_an_oserror_at_once(cache, remote, http_server, size):
    data = remote[0].data[:size]
    (http_server.root / "0.tar").write_bytes(data)

    def fetch_with_small_files(errors):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        try:
            cache.open(remote[0].location, size, hashlib.sha256(data).hexdigest())
        except OSError as error:
            errors.put((error.errno, str(error)))

    errors = FORK.SimpleQueue()
    start(fetch_with_small_files, errors).join(30)
    number, text = errors.get()
    assert number == errno.EFBIG
    assert str(cache.folder) in text
    assert "--data.cache_gib" in text
    assert len(http_server.requests) == 1


def test_threads_of_one_process_share_it_too(cache, remote, http_server):
    http_server.pause = 0.005
    threads = [threading.Thread(target=cache.fetch, args=remote[0][:3]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert http_server.transfers("/0.tar") == [(None, SIZE)]
