"""A cache of shards: complete ones only, each fetched once, never over the limit."""

import os
import pickle

import pytest

from datamodules.remote.cache import ShardCache
from datamodules.remote.sources import SourceError
from tests.datamodules.remote.caching import SIZE, age, copy_of, files, part_of, read


def test_a_shard_is_fetched_once_then_read_from_the_disk(cache, remote, http_server):
    shard = remote[0]
    assert read(cache, shard) == shard.data
    assert read(pickle.loads(pickle.dumps(cache)), shard) == shard.data
    assert cache.fetch(*shard[:2], shard.sha256.upper()).read_bytes() == shard.data
    assert http_server.transfers("/0.tar") == [(None, SIZE)]
    assert files(cache) == [f"{shard.sha256}.tar"]


def test_fetches_from_commands(cache, remote, http_server):
    shard = remote[0]._replace(location=f"pipe:cat {http_server.root}/0.tar")
    assert read(cache, shard) == shard.data
    half = remote[1]._replace(location=f"pipe:head -c 300000 {http_server.root}/1.tar; exit 7")
    with pytest.raises(SourceError, match=r"exit status 7 after 300,000 of .* \(3 attempts\)"):
        cache.open(*half[:3])
    assert files(cache) == sorted([copy_of(cache, shard).name, part_of(cache, half).name])


def test_cut_connections_resume_by_range(cache, remote, http_server):
    http_server.fail("/0.tar", ("cut", 590_000), 503)
    assert read(cache, remote[0]) == remote[0].data
    first, second, (last, sent) = http_server.transfers("/0.tar")
    assert first == (None, 590_000)
    assert second == (last, 0)
    begin = int(last.removeprefix("bytes=").partition("-")[0])
    assert begin > 0  # some of what has arrived is lost in the client's buffers
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


def test_a_whole_part_needs_no_request_and_a_copy_of_another_size_does(cache, remote, http_server):
    part_of(cache, remote[0]).write_bytes(remote[0].data)
    assert read(cache, remote[0]) == remote[0].data
    assert not http_server.requests
    copy_of(cache, remote[0]).write_bytes(b"x")
    assert read(cache, remote[0]) == remote[0].data
    assert http_server.requests


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


def test_a_shard_larger_than_the_limit_is_refused_with_the_remedy(cache, remote):
    cache = ShardCache(cache.folder, SIZE - 1)
    with pytest.raises(ValueError, match=r"600,000 bytes .* 599,999; .* --data.cache_gib"):
        cache.open(*remote[0][:3])


def test_only_hashes_become_paths(cache):
    for sha256 in ("", "../../etc/passwd", "0" * 63, "g" * 64, "0" * 64 + "\n"):
        with pytest.raises(ValueError, match="is not a sha256"):
            cache.open("http://127.0.0.1:9/a", 1, sha256)


def test_secrets_are_in_no_error(cache, remote, http_server):
    http_server.fail("/0.tar", *["wrong"] * 3, 403)
    location = remote[0].location.replace("//", "//me:pa55word@") + "?token=pa55word"
    for _ in range(2):
        with pytest.raises(SourceError) as raised:
            cache.open(location, *remote[0][1:3])
        assert "pa55word" not in str(raised.value)


def test_a_folder_of_another_user_is_refused(cache, remote, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ValueError, match="belongs to another user"):
        cache.open(*remote[0][:3])


def test_a_folder_that_cannot_be_written_is_refused_with_the_remedy(tmp_path, remote):
    (tmp_path / "file").touch()
    cache = ShardCache(tmp_path / "file" / "cache", SIZE)
    with pytest.raises(ValueError, match=r"file/cache cannot be written \(.*\); give another"):
        read(cache, remote[0])


def test_nothing_is_made_before_the_first_download(tmp_path, remote):
    cache = ShardCache(tmp_path / "new" / "cache", SIZE)
    assert not (tmp_path / "new").exists()
    assert read(cache, remote[0]) == remote[0].data
    assert cache.folder.stat().st_mode & 0o777 == 0o700
