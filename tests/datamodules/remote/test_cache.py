"""Many processes, one folder: whole shards only, each fetched once, never over the limit."""

import dataclasses
import errno
import fcntl
import hashlib
import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time
from collections import namedtuple

import numpy as np
import pytest

from datamodules.remote.cache import ShardCache
from datamodules.remote.sources import SourceError

SIZE = 600_000
QUICK = (0.01, 0.01)
FORK = multiprocessing.get_context("fork")

Remote = namedtuple("Remote", "location size sha256 data")


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


def read(cache, shard):
    file = cache.open(*shard[:3])
    try:
        return os.pread(file, SIZE + 1, 0)
    finally:
        os.close(file)


def files(cache):
    return sorted(path.name for path in cache.folder.iterdir() if path.name != ".lock")


def copy_of(cache, shard):
    return cache.folder / f"{shard.sha256}.tar"


def part_of(cache, shard):
    return cache.folder / f"{shard.sha256}-{SIZE}.part"


def age(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)


def start(target, *arguments, context=FORK):
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_shard_is_fetched_once_then_read_from_the_disk(cache, remote, http_server):
    shard = remote[0]
    assert read(cache, shard) == shard.data
    assert read(pickle.loads(pickle.dumps(cache)), shard) == shard.data
    assert cache.fetch(*shard[:2], shard.sha256.upper()).read_bytes() == shard.data
    assert http_server.transfers("/0.tar") == [(None, SIZE)]
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert files(cache) == [f"{shard.sha256}.tar"]


def test_fetches_from_commands(cache, remote, http_server):
    shard = remote[0]._replace(location=f"pipe:cat {http_server.root}/0.tar")
    assert read(cache, shard) == shard.data
    half = remote[1]._replace(location=f"pipe:head -c 300000 {http_server.root}/1.tar; exit 7")
    with pytest.raises(SourceError, match=r"exit status 7 after 300,000 of .* \(3 attempts\)"):
        cache.open(*half[:3])
    assert files(cache) == sorted([copy_of(cache, shard).name, part_of(cache, half).name])


@pytest.mark.parametrize(("method", "number"), [("fork", 8), ("spawn", 3)])
def test_processes_that_want_the_same_shards_fetch_each_once(
    cache, remote, http_server, method, number
):
    http_server.pause = 0.005
    context = multiprocessing.get_context(method)
    processes = []
    for number_of_process in range(number):
        for turn in range(3):
            shard = remote[(number_of_process + turn) % 3]
            processes.append(start(cache.fetch, *shard[:3], context=context))
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    for number_of_shard in range(3):
        assert copy_of(cache, remote[number_of_shard]).read_bytes() == remote[number_of_shard].data
        assert http_server.transfers(f"/{number_of_shard}.tar") == [(None, SIZE)]


def test_different_shards_are_fetched_at_the_same_time(cache, remote, http_server):
    http_server.fail("/0.tar", ("stall", 1000))
    first = start(cache.fetch, *remote[0][:3])
    until(lambda: len(files(cache)) == 1)
    assert read(cache, remote[1]) == remote[1].data
    first.kill()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_waiting_process_goes_on_where_a_killed_one_stopped(cache, remote, http_server, ranges):
    shard, http_server.ranges = remote[0], ranges
    http_server.fail("/0.tar", ("stall", 400_000))
    first = start(cache.fetch, *shard[:3])
    until(lambda: files(cache) and part_of(cache, shard).stat().st_size > 300_000)
    second = start(cache.fetch, *shard[:3])
    time.sleep(0.2)
    assert second.is_alive()
    done = part_of(cache, shard).stat().st_size
    os.kill(first.pid, signal.SIGKILL)
    second.join(30)
    assert second.exitcode == 0
    assert copy_of(cache, shard).read_bytes() == shard.data
    _, ranged, *rest = http_server.transfers("/0.tar")
    assert ranged[0] == f"bytes={done}-{SIZE - 1}"
    if ranges:
        assert not rest
        assert ranged[1] == SIZE - done
    else:
        assert rest == [(None, SIZE)]


def test_cut_connections_go_on_by_range(cache, remote, http_server):
    http_server.fail("/0.tar", ("cut", 590_000), 503)
    assert read(cache, remote[0]) == remote[0].data
    first, second, (last, sent) = http_server.transfers("/0.tar")
    assert first == (None, 590_000)
    assert second == (last, 0)
    begin = int(last.removeprefix("bytes=").partition("-")[0])
    assert begin > 0  # some of what has come is lost in the client's buffers
    assert sent == SIZE - begin


def test_wrong_bytes_are_thrown_away(cache, remote, http_server):
    http_server.fail("/0.tar", "wrong")
    assert read(cache, remote[0]) == remote[0].data
    assert http_server.transfers("/0.tar") == [(None, SIZE)] * 2
    http_server.fail("/1.tar", *["wrong"] * 3)
    wanted = remote[1].sha256[:12]
    with pytest.raises(SourceError, match=rf"sha256 is .* not {wanted}\.\.\. \(3 attempts\)"):
        cache.open(*remote[1][:3])


def test_a_wrong_part_is_thrown_away(cache, remote):
    for content in (b"x" * 1000, b"x" * SIZE, b"x" * (SIZE + 1)):
        part_of(cache, remote[0]).write_bytes(content)
        assert read(cache, remote[0]) == remote[0].data
        copy_of(cache, remote[0]).unlink()


def test_a_whole_part_needs_no_request(cache, remote, http_server):
    part_of(cache, remote[0]).write_bytes(remote[0].data)
    assert read(cache, remote[0]) == remote[0].data
    assert not http_server.requests


def test_a_copy_of_another_size_is_fetched_again(cache, remote):
    copy_of(cache, remote[0]).write_bytes(b"x")
    assert read(cache, remote[0]) == remote[0].data


def test_a_source_with_more_bytes_than_the_manifest_does_not_fill_the_disk(cache):
    with pytest.raises(SourceError, match="more than the 600,000 bytes expected"):
        cache.open("pipe:cat /dev/zero", SIZE, "0" * 64)
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= SIZE


def test_the_copies_used_least_recently_make_room(cache, remote):
    for seconds, shard in enumerate(remote[:3]):
        cache.fetch(*shard[:3])
        age(copy_of(cache, shard), 100 - seconds)
    file = os.open(copy_of(cache, remote[1]), os.O_RDONLY)
    read(cache, remote[0])  # is the latest used now
    for shard in remote[3:5]:
        cache.fetch(*shard[:3])
    assert files(cache) == sorted(copy_of(cache, remote[n]).name for n in (0, 3, 4))
    assert os.pread(file, SIZE, 0) == remote[1].data  # a reader has it until it closes it
    os.close(file)


def test_parts_that_nobody_writes_make_room_and_other_files_stay(cache, remote):
    for shard in remote[5:8]:
        part_of(cache, shard).write_bytes(b"x")
        age(part_of(cache, shard), 100)
    (cache.folder / "notes.txt").write_bytes(b"x" * 5 * SIZE)
    cache.fetch(*remote[0][:3])
    assert len([name for name in files(cache) if name.endswith(".part")]) == 2
    for shard in remote[:3]:
        cache.fetch(*shard[:3])
    names = {copy_of(cache, shard).name for shard in remote[:3]} | {"notes.txt"}
    assert set(files(cache)) == names


def test_waits_for_room_that_is_promised_to_downloads(cache, remote, http_server):
    cache = dataclasses.replace(cache, limit=SIZE + 1)
    http_server.fail("/0.tar", ("stall", 1000))
    first = start(cache.fetch, *remote[0][:3])
    until(lambda: files(cache))
    second = start(cache.fetch, *remote[1][:3])
    time.sleep(0.2)
    assert second.is_alive()
    assert not http_server.transfers("/1.tar")
    first.kill()
    second.join(30)
    assert files(cache) == [copy_of(cache, remote[1]).name]


def _read_at_random(cache, shards, seed):
    rng = np.random.default_rng(seed)
    for number in rng.integers(len(shards), size=40):
        assert read(cache, shards[number]) == shards[number].data


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
    assert len(sizes) > 50
    assert 0 < max(sizes) <= room * SIZE


def test_a_shard_larger_than_the_limit_is_refused_with_the_remedy(cache, remote):
    cache = ShardCache(cache.folder, SIZE - 1)
    with pytest.raises(ValueError, match=r"600,000 bytes .* 599,999; .* --data.cache_gib"):
        cache.open(*remote[0][:3])
    with pytest.raises(ValueError, match="nothing installed opens foo"):
        cache.open("foo://a", 1, "0" * 64)


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "0" * 63, "g" * 64, "0" * 64 + "\n"])
def test_only_hashes_become_paths(cache, sha256):
    with pytest.raises(ValueError, match="is no sha256"):
        cache.open("http://127.0.0.1:9/a", 1, sha256)


def test_secrets_are_in_no_error(cache, remote, http_server):
    http_server.fail("/0.tar", *["wrong"] * 3, 403)
    location = remote[0].location.replace("//", "//me:pa55word@") + "?token=pa55word"
    for _ in range(2):
        with pytest.raises(SourceError) as raised:
            cache.open(location, *remote[0][1:3])
        assert "pa55word" not in str(raised.value)


def test_a_full_disk_is_an_oserror_at_once(cache, remote, http_server):
    def fetch_with_small_files(errors):
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))
        try:
            cache.open(*remote[0][:3])
        except OSError as error:
            errors.put((error.errno, str(error)))

    errors = FORK.SimpleQueue()
    start(fetch_with_small_files, errors).join(30)
    number, text = errors.get()
    assert number == errno.EFBIG
    assert str(cache.folder) in text
    assert "--data.cache_gib" in text
    assert len(http_server.requests) == 1


def test_a_folder_of_another_user_is_refused(cache, remote, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ValueError, match="belongs to another user"):
        cache.open(*remote[0][:3])


def test_nothing_is_made_before_the_first_download(tmp_path, http_server, remote):
    cache = ShardCache(tmp_path / "new" / "cache", SIZE)
    assert not (tmp_path / "new").exists()
    os.close(cache.open(*remote[0][:3]))
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_threads_of_one_process_share_it_too(cache, remote, http_server):
    http_server.pause = 0.005
    threads = [threading.Thread(target=cache.fetch, args=remote[0][:3]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert http_server.transfers("/0.tar") == [(None, SIZE)]
