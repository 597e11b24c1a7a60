"""`verify` finds every kind of damage and names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile

import numpy as np
import pytest

from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import shard_name, write_shard
from tests.datamodules.pack.builders import cut, image, pack


def make(out, change=lambda key, image, label: (key, image, label)):
    """Two splits of two shards of three samples; `change` makes those of the second shard."""
    for split in ("train", "val"):
        folder = out / split
        folder.mkdir(parents=True)
        parts = []
        for at in range(2):
            samples = [(f"k{at}_{i}", image(i), i) for i in range(3)]
            samples = [change(*s) for s in samples] if at == 1 else samples
            parts.append(write_shard(folder / shard_name(at), samples))
        Manifest.assemble(folder, "abc", "abc", parts).save()
    return out


def verify(out, capsys):
    return pack("verify", out), capsys.readouterr()


def test_whole_data_is_whole(tmp_path, capsys):
    code, said = verify(make(tmp_path), capsys)
    assert code == 0
    assert "train: 6 images, 2 shards" in said.out
    assert said.out.count(" 0 problems") == 2


def flip_a_byte(folder):
    sample = Manifest.load(folder).sample(4)
    data = bytearray((folder / sample.shard.name).read_bytes())
    data[sample.offset + sample.size // 2] ^= 1
    (folder / sample.shard.name).write_bytes(data)


def rewrite_label(folder):
    """Change a label and give the manifest the new hash: only the members tell."""
    path = folder / shard_name(1)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        data[tar.getmember("k1_1.cls").offset_data] = ord("2")
    path.write_bytes(data)
    header = json.loads((folder / "manifest.json").read_text())
    header["shards"][1]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(header))


def enlarge_label(folder):
    """Let the header of a label say that it has a terabyte."""
    path = folder / shard_name(1)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        member = tar.getmember("k1_1.cls")
    member.size = 1 << 40
    data[member.offset : member.offset + 512] = member.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(data)


def change_index(folder, name, value):
    """Change a row, as a program with a mistake would: the index's hash is right."""
    manifest = Manifest.load(folder)
    samples = np.array(manifest.samples)
    samples[name][4] = value
    dataclasses.replace(manifest, samples=samples).save()


def append(folder):
    with open(folder / shard_name(1), "ab") as file:
        file.write(bytes(512))


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (flip_a_byte, ["shard-000001.tar: its sha256 differs", "the CRC-32 of the image differs"]),
        (
            lambda f: cut(f / shard_name(1), 2000),
            ["has 2,000 bytes and not", "sha256 differs", "k1_2: "],
        ),
        (rewrite_label, ["shard-000001.tar: k1_1: 'k1_1.cls' says b'2', the manifest 1"]),
        (enlarge_label, ["k1_1: 'k1_1.cls' says b'1" + 19 * r"\x00" + "', the manifest 1"]),
        (lambda f: change_index(f, "offset", 99), ["k1_1: is at byte 99"]),
        (lambda f: change_index(f, "label", 0), ["'k1_1.cls' says b'1', the manifest 0"]),
        (append, ["bytes and not", "its samples end at byte"]),
        (lambda f: (f / shard_name(1)).unlink(), ["shard-000001.tar: the file is missing"]),
        (lambda f: write_shard(f / "x.tar", [("k", b"", 0)]), ["x.tar: not in the manifest"]),
    ],
)
def test_damage_is_found_and_named(tmp_path, capsys, damage, messages):
    damage(make(tmp_path) / "val")
    code, said = verify(tmp_path, capsys)
    assert code == 1
    for message in messages:
        assert message in said.out
    assert "train: 6 images, 2 shards" in said.out
    assert said.out.count(" 0 problems") == 1
    assert not [
        line for line in said.out.splitlines() if "k0_" in line or line.startswith("train/")
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k, i, n: (k, i[: len(i) // 2], n), "k1_0: the image cannot be decoded"),
        (lambda k, i, n: (k, b"text", n), "k1_2: the image cannot be decoded"),
        (lambda k, i, n: (k, image(n, "BMP"), n), "k1_0: the image is neither an RGB JPEG nor an"),
        (lambda k, i, n: (k.replace("k1", "k0"), i, n), "the key k0_0 appears more than once"),
    ],
)
def test_bad_samples_in_whole_shards_are_found(tmp_path, capsys, change, message):
    code, said = verify(make(tmp_path, change), capsys)
    assert code == 1
    assert message in said.out


def test_nothing_to_verify_is_one_clear_error(tmp_path, capsys):
    code, said = verify(tmp_path, capsys)
    assert code == 2
    assert said.err.startswith("error: ")
    (make(tmp_path) / "val" / "manifest.json").unlink()
    code, said = verify(tmp_path, capsys)
    assert code == 2
    assert "no manifest.json" in said.err
