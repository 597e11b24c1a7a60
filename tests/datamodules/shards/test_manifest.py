"""The manifest gives back what was saved, and refuses what is not whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil

import numpy as np
import pytest

from datamodules.shards import manifest as module
from datamodules.shards.entries import Sample, Shard, Shards, sample_dtype
from datamodules.shards.manifest import INDEX, MANIFEST, Manifest


def make(root, counts=(3, 1, 4), label=None):
    total = sum(counts)
    samples = np.zeros(total, sample_dtype(12))
    samples["offset"] = np.arange(total) * 1024 + 512
    samples["size"] = np.arange(total) % 512 + 1
    samples["crc32"] = np.arange(total) * 1001
    samples["label"] = np.arange(total) % 2 if label is None else label
    samples["key"] = [f"schlüssel{i}".encode() for i in range(total)]
    size = 1024 * total + 1024
    shards = Shards.of(Shard(f"s{i}.tar", n, size, f"{i:064d}") for i, n in enumerate(counts))
    return Manifest(root, ("n01", "n02"), ("tench", "goldfish"), shards, samples)


def test_load_gives_back_what_save_wrote(tmp_path):
    saved = make(tmp_path / "train")
    saved.save()
    loaded = Manifest.load(tmp_path / "train")
    assert loaded.classes == ("n01", "n02")
    assert loaded.class_names == ("tench", "goldfish")
    assert list(loaded.shards) == list(saved.shards)
    assert np.array_equal(loaded.samples, saved.samples)
    assert (loaded.num_samples, loaded.num_classes) == (8, 2)
    assert loaded.counts.tolist() == [3, 1, 4]
    assert loaded.starts.tolist() == [0, 3, 4, 8]
    assert loaded.counts.dtype == loaded.starts.dtype == np.int64
    assert loaded.digest == saved.digest
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == [MANIFEST, INDEX]


def test_sample_ids_count_through_the_shards(tmp_path):
    manifest = make(tmp_path)
    assert manifest.shard_of(np.arange(8)).tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert manifest.shard_of([7, 0]).tolist() == [2, 0]
    assert manifest.sample(3) == Sample(
        3, manifest.shards[1], "schlüssel3", 3 * 1024 + 512, 4, 3003, 1
    )
    ids = np.array([7, 0, 3, 0])
    assert manifest.lookup(ids) == [manifest.sample(sample_id) for sample_id in ids.tolist()]
    for outside in (-1, 8):
        with pytest.raises(IndexError, match=f"sample {outside} of 8"):
            manifest.lookup(np.array([3, outside]))


def test_digest_follows_the_data_and_not_the_place(tmp_path):
    manifest = make(tmp_path)
    first = manifest.shards[0]
    changes = [
        {"classes": ("n01", "n03")},
        {"shards": Shards.of([first._replace(sha256="f" * 64), *manifest.shards[1:]])},
        {"shards": Shards.of([first._replace(name="x.tar"), *manifest.shards[1:]])},
        {"shards": Shards.of(manifest.shards[::-1])},
    ]
    digests = {dataclasses.replace(manifest, **change).digest for change in changes}
    assert len(digests | {manifest.digest}) == 5
    assert dataclasses.replace(manifest, root=tmp_path / "moved").digest == manifest.digest


def test_the_digest_is_in_checkpoints_and_never_changes(tmp_path):
    manifest = make(tmp_path, counts=(1,) * 10_000)
    shards = [[f"s{i}.tar", 1, f"{i:064d}"] for i in range(10_000)]
    content = json.dumps([shards, ["n01", "n02"]], separators=(",", ":"))
    assert manifest.digest == hashlib.sha256(content.encode()).hexdigest()


def test_shards_are_a_sequence(tmp_path):
    shards = [
        Shard(f"ä{i}.tar", i, 2**40, "f" * 64, f"/x/{i}" if i % 3 else None) for i in range(9)
    ]
    table = Shards.of(shards)
    assert list(table) == [table[i] for i in range(9)] == shards
    assert (table[-1], table[7:2:-2], len(table)) == (shards[-1], shards[7:2:-2], 9)
    assert table.take(np.array([3, 3, 0])) == [shards[3], shards[3], shards[0]]
    assert table.elsewhere.tolist() == [shard.url is not None for shard in shards]
    assert table.bytes.tolist() == [2**40] * 9
    with pytest.raises(IndexError):
        table[9]
    assert list(pickle.loads(pickle.dumps(table))) == shards
    assert list(Shards.of([])) == []


def test_a_loaded_manifest_is_memory_mapped_and_travels_to_workers_as_a_path(tmp_path):
    make(tmp_path, counts=(20_000,)).save()
    loaded = Manifest.load(tmp_path)
    assert isinstance(loaded.samples, np.memmap)
    pickled = pickle.dumps(loaded)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert np.array_equal(again.samples, loaded.samples)
    assert isinstance(again.samples, np.memmap)


def damage_json(change):
    def damage(folder):
        path = folder / MANIFEST
        header = json.loads(path.read_text())
        change(header)
        path.write_text(json.dumps(header))

    return damage


def cut(name, length):
    def damage(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:length])

    return damage


def flip_a_bit(folder):
    content = bytearray((folder / INDEX).read_bytes())
    content[-20] ^= 1
    (folder / INDEX).write_bytes(content)


def overflow_counts(folder):
    for shard, samples in enumerate((2**63 - 1, 2**63 - 1, 10)):  # in 64 bits, that is 8
        damage_json(lambda h, at=shard, n=samples: h["shards"][at].update(samples=n))(folder)


def replace_index(folder):
    np.save(folder / INDEX, np.arange(8))
    damage_json(lambda h: h.update(index_sha256=module.sha256_of(folder / INDEX)))(folder)


def break_header(folder):
    index = folder / INDEX
    index.write_bytes(index.read_bytes().replace(b"'shape': (8,)", b"'shape': ((8)"))
    damage_json(lambda h: h.update(index_sha256=module.sha256_of(index)))(folder)


def put(name, value):
    """A change of the last sample in the index, which has a right hash."""

    def damage(folder):
        samples = np.load(folder / INDEX)
        samples[-1][name] = value
        np.save(folder / INDEX, samples)
        damage_json(lambda h: h.update(index_sha256=module.sha256_of(folder / INDEX)))(folder)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda f: (f / MANIFEST).unlink(), "no manifest.json"),
        (lambda f: (f / INDEX).unlink(), "no samples.npy"),
        (cut(MANIFEST, 40), "unreadable"),
        (cut(MANIFEST, 0), "unreadable"),
        (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"), "unreadable"),
        (lambda f: (f / MANIFEST).write_text("[]"), "version"),
        (damage_json(lambda h: h.update(version=99)), "version 99"),
        (damage_json(lambda h: h.pop("classes")), "damaged"),
        (damage_json(lambda h: h["shards"][0].pop("sha256")), "damaged"),
        (damage_json(lambda h: h["shards"][0].update(samples=4)), "counts 9 samples.* 8"),
        (damage_json(lambda h: h["shards"].pop()), "counts 4 samples.* 8"),
        (damage_json(lambda h: h.update(class_names=["a"])), "1 class names for 2"),
        (damage_json(lambda h: h.update(classes=[1, 2])), "a class that is no text"),
        (damage_json(lambda h: h.update(class_names=[["a"], None])), "a class that is no text"),
        (damage_json(lambda h: h.update(classes="aa")), "two classes with one id"),
        (damage_json(lambda h: h["shards"][0].update(bytes=-5)), "less than 0 bytes"),
        (damage_json(lambda h: h.pop("index_sha256")), "damaged"),
        (damage_json(lambda h: h["shards"][0].update(name="../s0.tar")), "not a file name"),
        (damage_json(lambda h: h["shards"][0].update(name="/etc/passwd")), "not a file name"),
        (damage_json(lambda h: h.update(shards=5)), "damaged"),
        (damage_json(lambda h: h["shards"].append("s3.tar")), "damaged"),
        (overflow_counts, "counts 18446744073709551624 samples.* 8"),
        (lambda f: (f / MANIFEST).write_text("[" * 100_000), "unreadable"),
        (cut(INDEX, 300), "damaged"),
        (cut(INDEX, 0), "damaged"),
        (flip_a_bit, "damaged .*samples.npy has changed"),
        (lambda f: np.save(f / INDEX, np.arange(8)), "damaged .*samples.npy has changed"),
        (replace_index, "wrong format"),
        (break_header, "samples.npy is no array of NumPy"),
        (put("offset", 9 * 1024 - 7), "sample 7 at bytes that its shard does not have"),
        (put("offset", 2**64 - 4), "sample 7 at bytes that its shard does not have"),
        (put("size", 2**32 - 1), "sample 7 at bytes that its shard does not have"),
    ],
)
def test_a_damaged_manifest_is_one_clear_error(tmp_path, damage, message):
    make(tmp_path).save()
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        Manifest.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 5),
        ("name", None),
        ("name", "a\0b"),
        ("samples", None),
        ("samples", 3.0),
        ("samples", float("inf")),
        ("samples", {"a": 1}),
        ("samples", 2**63),
        ("bytes", "9999"),
        ("sha256", 5),
        ("sha256", "0\0"),
        ("url", 5),
        ("url", ["a"]),
        ("weight", 1),
    ],
)
def test_a_shard_with_a_wrong_value_is_one_clear_error(tmp_path, name, value):
    make(tmp_path).save()
    damage_json(lambda header: header["shards"][1].update({name: value}))(tmp_path)
    with pytest.raises(ValueError, match=f"the manifest in {tmp_path} is damaged"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [({"counts": ()}, "no samples"), ({"label": -1}, "label -1"), ({"label": 2}, "label 2")],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, manifest, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "train", **manifest).save()
    assert not (tmp_path / "train").exists()


def test_a_sample_may_end_where_its_shard_does(tmp_path):
    make(tmp_path).save()
    put("offset", 9 * 1024 - 8)(tmp_path)
    assert Manifest.load(tmp_path).sample(7).size == 8


def test_a_key_that_is_no_text_is_no_reason_to_stop(tmp_path):
    make(tmp_path).save()
    put("key", b"a\xff")(tmp_path)
    assert Manifest.load(tmp_path).sample(7).key == "a\ufffd"


def test_a_label_outside_the_classes_is_left_to_the_reader(tmp_path):
    make(tmp_path).save()
    damage_json(lambda header: header.update(classes=["a"], class_names=["a"]))(tmp_path)
    assert Manifest.load(tmp_path).sample(1).label == 1


def elsewhere(root, *urls):
    manifest = make(root)
    pairs = zip(manifest.shards, urls, strict=True)
    shards = Shards.of(shard._replace(url=url) for shard, url in pairs)
    return dataclasses.replace(manifest, shards=shards)


def test_shards_lie_in_the_folder_or_where_their_url_says(tmp_path):
    saved = elsewhere(tmp_path, None, "https://host/a.tar", "/other/b.tar")
    saved.save()
    loaded = Manifest.load(tmp_path)
    found = [loaded.location(shard) for shard in loaded.shards]
    assert found == [str(tmp_path / "s0.tar"), "https://host/a.tar", "/other/b.tar"]
    assert loaded.digest == make(tmp_path).digest


def test_a_remote_manifest_has_its_shards_beside_it_and_nowhere_else(tmp_path):
    make(tmp_path).save()
    loaded = Manifest.load(tmp_path, base="https://host/train")
    again = pickle.loads(pickle.dumps(loaded))
    for manifest in (loaded, again):
        assert manifest.location(manifest.shards[1]) == "https://host/train/s1.tar"
    elsewhere(tmp_path, None, "/etc/passwd", None).save()
    with pytest.raises(ValueError, match="https://host/train lists shards outside its folder"):
        Manifest.load(tmp_path, base="https://host/train")


def test_commands_of_a_manifest_are_not_run_unasked(tmp_path):
    elsewhere(tmp_path, None, None, "pipe:touch /tmp/pwned").save()
    with pytest.raises(ValueError, match="through commands .* --data.allow_pipe true"):
        Manifest.load(tmp_path)
    loaded = Manifest.load(tmp_path, allow_pipe=True)
    assert list(pickle.loads(pickle.dumps(loaded)).shards) == list(loaded.shards)


def test_a_save_that_fails_leaves_no_manifest_and_no_half_file(tmp_path, monkeypatch):
    make(tmp_path).save()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(OSError, match="No space"):
        make(tmp_path, counts=(5, 5)).save()
    assert [p.name for p in tmp_path.iterdir()] == [INDEX]  # the old index, without a manifest
