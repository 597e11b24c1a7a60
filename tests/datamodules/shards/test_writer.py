"""A shard is the same bytes for the same samples, readable by everybody, or not there at all."""

from __future__ import annotations

import hashlib
import tarfile

import pytest
import webdataset as wds

from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import shard_name, write_shard

SAMPLES = [("n01_1", b"first", 0), ("n02_ü", b"x" * 1000, 12), ("n01_3", b"", 7)]


def test_same_samples_same_bytes(tmp_path):
    one, _ = write_shard(tmp_path / "a.tar", SAMPLES)
    two, _ = write_shard(tmp_path / "b.tar", iter(SAMPLES))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert one.sha256 == two.sha256
    other, _ = write_shard(tmp_path / "c.tar", SAMPLES[::-1])
    assert other.sha256 != one.sha256


def test_the_index_points_at_the_images(tmp_path):
    path = tmp_path / shard_name(3)
    shard, rows = write_shard(path, SAMPLES)
    data = path.read_bytes()
    assert shard.name == "shard-000003.tar"
    assert (shard.samples, shard.bytes) == (3, len(data))
    assert shard.sha256 == hashlib.sha256(data).hexdigest()
    for row, (key, image, label) in zip(rows, SAMPLES, strict=True):
        assert data[row["offset"] :][: row["size"]] == image
        assert (row["key"].decode(), row["label"]) == (key, label)


def test_webdataset_reads_it_and_members_carry_nothing_of_the_machine(tmp_path):
    write_shard(tmp_path / "a.tar", SAMPLES)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members[:2]] == ["n01_1.jpg", "n01_1.cls"]
        assert tar.extractfile("n02_ü.cls").read() == b"12"
    facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members}
    assert facts == {(0, 0, 0, "", "", 0o644)}
    read = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [(s["__key__"], s["jpg"], int(s["cls"])) for s in read] == SAMPLES


def test_parts_with_keys_of_different_length_join(tmp_path):
    parts = [
        write_shard(tmp_path / shard_name(i), [(key, b"image", 0)])
        for i, key in enumerate(["a", "a-much-longer-key", "b"])
    ]
    manifest = Manifest.assemble(tmp_path, ["n01"], ["tench"], parts)
    assert [manifest.sample(i).key for i in range(3)] == ["a", "a-much-longer-key", "b"]


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "..", "a\\b", "a\nb", "k" * 97, "good"])
def test_keys_that_cannot_name_a_sample_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="cannot name a sample|twice"):
        write_shard(tmp_path / "a.tar", [("good", b"", 0), (key, b"", 0)])
    assert list(tmp_path.iterdir()) == []


def test_the_longest_key_fits(tmp_path):
    write_shard(tmp_path / "a.tar", [("k" * 96, b"image", 0)])
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["k" * 96 + ".jpg", "k" * 96 + ".cls"]


def test_a_failure_leaves_the_old_file_and_no_half_one(tmp_path):
    write_shard(tmp_path / "a.tar", SAMPLES)
    before = (tmp_path / "a.tar").read_bytes()

    def failing():
        yield SAMPLES[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path / "a.tar", failing())
    with pytest.raises(ValueError, match="no samples"):
        write_shard(tmp_path / "a.tar", [])
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == before
