"""Packing WebDataset shards that others wrote."""

from __future__ import annotations

import gzip
from unittest.mock import Mock

import pytest
import webdataset as wds

from datamodules.imagenet import ImageNetDataModule
from datamodules.pack import options
from datamodules.pack.sources import wds as wds_source
from datamodules.pack.sources.locations import decompress
from datamodules.shards.manifest import Manifest
from tests.datamodules.pack.builders import cut, image, images, pack, refused


def write_wds(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path), mtime=0) as writer:
        for sample in samples:
            writer.write(sample)


def sample(key, label):
    return {"__key__": str(key), "jpg": image(label), "cls": label}


@pytest.fixture
def shards(tmp_path):
    """Shards as timm publishes them: four of train, one of validation."""
    root = tmp_path / "imagenet-1k-wds"
    for shard in range(4):
        samples = []
        for n in range(3 * shard, 3 * shard + 3):
            key, label = f"n{n % 3:08d}_{n}", n % 3
            about = {"filename": f"{key}.JPEG", "label": label}
            samples.append({"__key__": key, "jpg": image(n), "cls": label, "json": about})
        write_wds(root / f"imagenet1k-train-{shard:04d}.tar", samples)
    val = [{"__key__": f"val_{n}", "png": image(50 + n, "PNG"), "cls": n} for n in range(3)]
    write_wds(root / "imagenet1k-validation-00.tar", val)
    return root


def test_a_folder_of_shards_as_timm_publishes_them(shards, tmp_path):
    (shards / ".imagenet1k-train-0009.tmp.tar").write_bytes(b"left by a process that was killed")
    assert pack("wds", shards, tmp_path / "out") == 0
    train = images(tmp_path / "out/train")
    assert train == {f"n{n % 3:08d}_{n}": (image(n), f"n{n % 3:08d}") for n in range(12)}
    val = images(tmp_path / "out/val")
    assert {key: label for key, (_, label) in val.items()} == {
        f"val_{n}": f"n{n:08d}" for n in range(3)
    }
    assert pack("verify", tmp_path / "out") == 0


def test_brace_lists_globs_and_one_split_after_the_other(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(shards))
    out = tmp_path / "out"
    assert pack("wds", "~/imagenet1k-train-{0000..0002}.tar", out) == 0
    assert len(images(out / "train")) == 9
    assert pack("wds", f"{shards}/*validation*", out, "--split", "val") == 0
    assert Manifest.load(out / "val").classes == Manifest.load(out / "train").classes


@pytest.fixture
def compressed(shards):
    """The same shards as .tar.gz and .tgz."""
    for number, path in enumerate(sorted(shards.glob("*.tar"))):
        copy = path.with_suffix(".tgz" if number % 2 else ".tar.gz")
        copy.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return shards


def test_compressed_shards_are_packed_like_plain_ones(shards, tmp_path, capsys, request):
    assert pack("wds", shards, tmp_path / "plain") == 0
    folder = request.getfixturevalue("compressed")
    out = tmp_path / "out"
    assert pack("wds", folder, out, workers=2) == 0
    assert "5 shards are decompressed to" in capsys.readouterr().out
    for split in ("train", "val"):
        assert images(out / split) == images(tmp_path / "plain" / split)
    assert sorted(path.name for path in out.iterdir()) == ["train", "val"]
    assert pack("wds", folder, out) == 0  # from other copies, which is no other input
    assert "was packed already" in capsys.readouterr().out


def test_after_an_interruption_no_shard_is_decompressed_again(compressed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("datamodules.pack.job.Job.check", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        wds_source.run(options.WdsOptions(src=[str(compressed)], out=out, workers=1))
    copies = list((out / ".decompressed").rglob("*.tar"))
    assert len(copies) == 5
    before = {path: path.stat().st_ino for path in copies}
    for number, path in enumerate(sorted(compressed.iterdir())):
        wds_source._scan_archive(wds_source._Archive.of(out, number, str(path)))
    assert {path: path.stat().st_ino for path in copies} == before


def test_damaged_compressed_shards_are_one_line(compressed, tmp_path, capsys):
    first = sorted(compressed.iterdir())[0]
    whole = first.read_bytes()
    for data, message in {
        whole[:-20]: "is not a complete gzip file",
        b"<html>": "is not a complete gzip file",
        gzip.compress(gzip.decompress(whole)[:700]): "is not a complete, uncompressed tar",
    }.items():
        first.write_bytes(data)
        error = refused(capsys, "wds", compressed, tmp_path / "out")
        assert message in error
        assert str(first) in error


def test_a_shard_that_decompresses_to_zeros_without_end_does_not_fill_the_disk(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("datamodules.pack.sources.locations._ALWAYS", 1000)
    shard = tmp_path / "train-0.tar.gz"
    shard.write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(ValueError, match=f"^{shard} is more than 100 times as large when"):
        decompress(shard, tmp_path / "copies/train-0.tar")
    assert [*(tmp_path / "copies").iterdir()] == []


def test_what_needs_plain_shards_says_how_to_convert(compressed, tmp_path, capsys):
    error = refused(capsys, "index", compressed, tmp_path / "out")
    assert "decompress it (gunzip), or use `python -m datamodules.pack wds`" in error
    for root in (str(next(compressed.iterdir())), "https://host/a.tar.gz"):
        with pytest.raises(ValueError, match=r"is a shard.* `python -m datamodules.pack wds"):
            _ = ImageNetDataModule(root, workers=0).val_manifest


def test_labels_without_ids_are_numbers_or_come_from_a_list(tmp_path, capsys):
    source = tmp_path / "foreign-0.tar"
    write_wds(source, [sample(n, n) for n in (0, 2)])
    assert pack("wds", source, tmp_path / "a", "--split", "train") == 0
    assert Manifest.load(tmp_path / "a/train").classes == ("0", "1", "2")
    assert (
        "do not name their classes, so the ids are 0 to 2; --class_names" in capsys.readouterr().out
    )
    (tmp_path / "names.tsv").write_text("n9\tnine\nn7\tseven\nn8\teight\nn6\tsix\n")
    words = ("--split", "train", "--class_names", tmp_path / "names.tsv")
    assert pack("wds", source, tmp_path / "b", *words) == 0
    manifest = Manifest.load(tmp_path / "b/train")
    assert manifest.classes == ("n9", "n7", "n8", "n6")
    assert manifest.class_names == ("nine", "seven", "eight", "six")
    assert "do not name" not in capsys.readouterr().out
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\ngoldfish, Carassius\ncock\n")
    words = ("--split", "train", "--class_names", tmp_path / "names.txt")
    assert pack("wds", source, tmp_path / "c", *words) == 0
    manifest = Manifest.load(tmp_path / "c/train")
    assert manifest.classes == ("0", "1", "2")
    assert manifest.class_names == ("tench, Tinca tinca", "goldfish, Carassius", "cock")


@pytest.mark.parametrize("key", ["n0000000{}_{}", "train/n0000000{}/{}"])
def test_wnids_come_from_the_names_of_imagenets_images(tmp_path, capsys, key):
    source = tmp_path / "train-0.tar"
    write_wds(source, [sample(key.format(7 - n % 3, n), n % 3) for n in range(6)])
    assert pack("wds", source, tmp_path / "out") == 0
    assert Manifest.load(tmp_path / "out/train").classes == ("n00000007", "n00000006", "n00000005")
    assert "do not name" not in capsys.readouterr().out


def test_names_that_contradict_the_labels_are_not_believed(tmp_path, capsys):
    for number in range(2):
        samples = [sample(f"n0000000{n}_{n}", (n + number) % 3) for n in range(3)]
        write_wds(tmp_path / f"train-{number}.tar", samples)
    assert pack("wds", tmp_path, tmp_path / "out") == 0
    assert Manifest.load(tmp_path / "out/train").classes == ("0", "1", "2")
    assert "do not name" in capsys.readouterr().out


def test_the_same_key_in_two_shards_is_two_samples(tmp_path):
    for n in range(2):
        write_wds(tmp_path / f"train-{n}.tar", [{"__key__": "a/0000", "jpg": image(n), "cls": n}])
    assert pack("wds", tmp_path / "train-{0..1}.tar", tmp_path / "out") == 0
    packed = images(tmp_path / "out/train")
    assert packed == {"a_0000": (image(0), "0"), "a_0000-2": (image(1), "1")}


def test_samples_without_a_label_or_an_image_are_reported(tmp_path, capsys):
    broken = [{"__key__": "x", "jpg": image(0)}, {"__key__": "y", "cls": 0}]
    broken += [sample("z", 0) | {"cls": b"cat"}]
    write_wds(tmp_path / "train-0.tar", [sample(n, 0) for n in range(3)] + broken)
    error = refused(capsys, "wds", tmp_path / "train-0.tar", tmp_path / "out")
    assert "3 of the 6 images of train are unreadable" in error
    skipped = (tmp_path / "out/train/skipped.tsv").read_text()
    for text in ("x\tno cls\n", "y\tno image among cls\n", "z\tinvalid literal"):
        assert f"train-0.tar: {text}" in skipped


def wrong_class_count(root):
    write_wds(root / "imagenet1k-train-0009.tar", [sample("x", 99)])
    (root.parent / "names.tsv").write_text("a\tA\nb\tB\n")
    return ["--class_names", root.parent / "names.tsv"]


def mute_name(root):
    (root / "imagenet1k-train-0000.tar").rename(root / "part-0.tar")
    return []


def cut_at(length):
    def damage(root):
        cut(root / "imagenet1k-train-0001.tar", length)
        return []

    return damage


def no_shards(root):
    for path in root.glob("*"):
        path.unlink()
    return []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (wrong_class_count, "label 99 but there are 2 classes"),
        (mute_name, "give --split train or val"),
        (cut_at(0), "imagenet1k-train-0001.tar is not a complete"),  # nothing
        (cut_at(1700), "imagenet1k-train-0001.tar is not a complete"),  # in an image
        (cut_at(3000), "imagenet1k-train-0001.tar is not a complete"),  # in a header
        (cut_at(3584), "imagenet1k-train-0001.tar is not a complete"),  # between two members
        (no_shards, "no shards"),
    ],
)
def test_shards_that_make_no_sense_are_one_clear_error(shards, tmp_path, capsys, damage, message):
    words = damage(shards)
    assert message in refused(capsys, "wds", shards, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_val_that_does_not_fit_the_packed_train_is_refused(shards, tmp_path, capsys):
    out = tmp_path / "out"
    assert pack("wds", shards / "imagenet1k-train-0000.tar", out) == 0
    write_wds(tmp_path / "val-0.tar", [sample("x", 3)])
    assert "classes" in refused(capsys, "wds", tmp_path / "val-0.tar", out)
    assert not (out / "val").exists()


def test_remote_shards_are_not_packed(tmp_path, capsys):
    error = refused(capsys, "wds", "http://127.0.0.1:9/val.tar", tmp_path / "out")
    assert "python -m datamodules.pack index" in error
