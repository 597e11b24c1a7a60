"""What is read from outside has an end, and is no larger than allowed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from datamodules.audit.records import RankFile
from datamodules.common.arrays import map_array
from datamodules.common.errors import SampleError
from datamodules.common.reading import MAX_MANIFEST, MAX_TEXT, plain, read_plain
from datamodules.common.texts import read_text
from datamodules.decoding.folders import read_image
from datamodules.decoding.images import MAX_BYTES
from datamodules.decoding.transforms import EvalTransform
from datamodules.pack.sources.imagefolder import rows_of_files
from datamodules.pack.sources.listing import Source, tabulate
from datamodules.pack.sources.scan import scan
from datamodules.pack.sources.tars import members
from datamodules.remote.openers import open_anywhere, open_at
from datamodules.shards.manifest import Manifest, sha256_of
from datamodules.shards.reader import SampleReader

NOT_PLAIN = "not a plain file, but a pipe or a device"


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL = {"pipe": os.mkfifo, "device": zeros}
READERS = {
    "plain": plain,
    "read_plain": lambda path: read_plain(path, 1),
    "text": read_text,
    "array": map_array,
    "hash": sha256_of,
    "image": lambda path: read_image(path, EvalTransform(8, 8)),
    "audit": lambda path: RankFile(path, []),
    "tar": lambda path: list(members(path)),
    "scan": lambda path: scan(path, "shard"),
    "local file": lambda path: open_at(str(path), 0, None, 1),
    "local file, in any order": lambda path: open_anywhere(str(path), 1),
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("read", READERS)
def test_pipes_and_devices_are_refused_by_each_reader(tmp_path, special, read):
    SPECIAL[special](tmp_path / "file")
    with pytest.raises((OSError, ValueError), match=NOT_PLAIN):
        READERS[read](tmp_path / "file")


def test_a_folder_is_called_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_plain(tmp_path, 1)


def test_as_many_bytes_as_allowed_are_read_and_no_more(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"four")
    assert read_plain(path, 4) == b"four"
    with pytest.raises(ValueError, match="file has more than 3 bytes"):
        read_plain(path, 3)


def test_a_file_that_is_larger_than_it_says_is_not_read_on():
    assert os.stat("/proc/cpuinfo").st_size == 0
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_plain(Path("/proc/cpuinfo"), 10)


@pytest.mark.parametrize(
    ("name", "most"), [("text", MAX_TEXT), ("image", MAX_BYTES)], ids=["text", "image"]
)
def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path, name, most):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 42)  # a hole, which takes no space
    with pytest.raises(ValueError, match=f"file has more than {most:,} bytes"):
        READERS[name](path)


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("name", ["manifest.json", "samples.npy"])
def test_a_manifest_that_is_no_file_is_named(shards, tmp_path, special, name):
    shutil.copytree(shards / "train", tmp_path / "train")
    (tmp_path / "train" / name).unlink()
    SPECIAL[special](tmp_path / "train" / name)
    with pytest.raises(ValueError, match=rf"train.* \(.*{NOT_PLAIN}\); pack it again"):
        Manifest.load(tmp_path / "train")


def test_a_manifest_that_is_too_large_is_refused(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(MAX_MANIFEST + 1)
    with pytest.raises(ValueError, match=rf"manifest.json has more than {MAX_MANIFEST:,} bytes"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("special", SPECIAL)
def test_samples_of_a_shard_that_is_no_file_are_unreadable(tmp_path, special):
    SPECIAL[special](tmp_path / "shard.tar")
    place = {"shard": None, "offset": 0, "size": 1, "crc32": 0}
    sample = {"id": 3, "__key__": "a", "__url__": str(tmp_path / "shard.tar"), **place}
    problems: list[SampleError] = []
    assert list(SampleReader()([sample], handler=problems.append)) == []
    assert NOT_PLAIN in str(problems[0])


@pytest.mark.parametrize("special", SPECIAL)
def test_an_image_of_a_table_that_is_no_file_cannot_be_packed(tmp_path, special):
    SPECIAL[special](tmp_path / "a.jpg")
    (entry,) = tabulate([rows_of_files(tmp_path, {str(tmp_path / "a.jpg"): 0})])
    with pytest.raises(OSError, match=NOT_PLAIN):
        Source(tmp_path).read(entry)
