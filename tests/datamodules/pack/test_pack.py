"""Packing an ImageFolder tree: exact, repeatable, and loud about what is wrong."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from datamodules.shards.manifest import Manifest
from tests.datamodules.pack import builders
from tests.datamodules.pack.builders import REPOSITORY, content, image, images, write

pack = partial(builders.pack, "imagefolder")


def refused(capsys, *words):
    return builders.refused(capsys, "imagefolder", *words)


def make_tree(root, train=30, val=9, classes=("n01", "n02", "n03"), size=8):
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            name = classes[number % len(classes)]
            data = image(number if split == "train" else 100_000 + number, size=size)
            write(root / split / name / f"{name}_{number}.JPEG", data)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def packed(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "out"
    assert pack(tree, out, "--samples_per_shard", 7) == 0
    return out


def test_every_image_is_there_once_byte_for_byte(tree, packed):
    for split in ("train", "val"):
        expected = {
            path.stem: (path.read_bytes(), path.parent.name)
            for path in (tree / split).rglob("*.JPEG")
        }
        assert images(packed / split) == expected
        others = {path.name for path in (packed / split).iterdir() if path.suffix != ".tar"}
        assert others == {"manifest.json", "pack.json", "samples.npy"}
    manifest = Manifest.load(packed / "train")  # its shards are even, and mix the classes
    assert manifest.counts.tolist() == [6] * 5
    for first, last in zip(manifest.starts, manifest.starts[1:], strict=False):
        assert len(set(manifest.samples["label"][first:last])) > 1


def test_webdataset_reads_and_decodes_the_shards(packed):
    shards = sorted(map(str, (packed / "val").glob("*.tar")))
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("pil"))
    manifest = Manifest.load(packed / "val")
    assert [s["__key__"] for s in samples] == [manifest.sample(i).key for i in range(9)]
    assert [s["cls"] for s in samples] == manifest.samples["label"].tolist()
    assert {(s["jpg"].size, s["jpg"].mode) for s in samples} == {((8, 8), "RGB")}


def test_output_is_the_same_bytes_for_any_number_of_workers(tree, packed, tmp_path):
    assert pack(tree, tmp_path / "again", "--samples_per_shard", 7, workers=3) == 0
    assert content(tmp_path / "again") == content(packed)


def test_another_seed_is_another_order_of_the_same_images(tree, packed, tmp_path):
    assert pack(tree, tmp_path, "--samples_per_shard", 7, "--seed", 1) == 0
    orders = [Manifest.load(root / "train").samples["key"].tolist() for root in (packed, tmp_path)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_the_same_command_again_does_nothing(tree, packed, capsys):
    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    assert pack(tree, packed, "--samples_per_shard", 7) == 0
    assert "was packed already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in packed.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--seed", 5), "--seed was 0 and is now 5"),
        (("--samples_per_shard", 8), "--samples_per_shard was 7 and is now 8"),
        (("--resize", 4), "--resize was None and is now 4"),
        (("--quality", 50), "--quality was 90 and is now 50"),
    ],
)
def test_other_options_never_mix_with_what_is_there(tree, packed, capsys, options, difference):
    before = content(packed)
    assert difference in refused(capsys, tree, packed, "--samples_per_shard", 7, *options)
    assert content(packed) == before


def test_another_input_never_mixes_with_what_is_there(tmp_path, capsys):
    tree = make_tree(tmp_path / "tree", 6, 3)
    assert pack(tree, tmp_path / "out") == 0
    changed = tree / "train" / "n01" / "n01_0.JPEG"
    changed.write_bytes(changed.read_bytes()[::-1])  # same name, same size
    os.utime(changed, ns=(1, 1))
    assert "another input" in refused(capsys, tree, tmp_path / "out")


def test_shards_of_others_are_not_overwritten(tree, tmp_path, capsys):
    write(tmp_path / "train" / "shard-000000.tar", b"precious")
    assert "did not write" in refused(capsys, tree, tmp_path)
    assert content(tmp_path) == {"train/shard-000000.tar": b"precious"}


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_a_damaged_record_of_the_job_is_one_clear_error(tree, tmp_path, capsys, text):
    write(tmp_path / "train/pack.json", text.encode())
    assert "train/pack.json is damaged (" in refused(capsys, tree, tmp_path)


def test_an_output_that_is_a_file_is_one_clear_error(tree, tmp_path, capsys):
    file = write(tmp_path / "out", b"")
    error = refused(capsys, tree, file)
    assert error == f"error: {file}: is a file, and not a folder; give a folder, or move it away\n"


def test_a_full_disk_is_one_message_and_no_half_file(tree, tmp_path, capsys):
    """A limit on the size of files stands for the disk: writing fails in the middle of a shard."""
    command = (
        f"ulimit -f 8; exec {sys.executable} -m datamodules.pack imagefolder {tree} {tmp_path}"
    )
    run = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 2
    assert re.match(rf"error: .*{tmp_path}/train/.*; make room", run.stderr), run.stderr
    assert run.stderr.count("\n") == 1
    assert set(content(tmp_path)) == {"train/pack.json"}
    assert pack(tree, tmp_path) == 0
    assert len(images(tmp_path / "train")) == 30
    out = capsys.readouterr().out
    assert "train: 30 images, 1 shard," in out
    assert f"python train.py --data.root {tmp_path}" in out


def test_an_unreadable_image_is_named_counted_and_left_out(tmp_path, capsys):
    tree = make_tree(tmp_path / "tree", 1001, 3, size=4)
    bad = tree / "train" / "n02" / "n02_1.JPEG"
    bad.write_bytes(bad.read_bytes()[:100])
    assert pack(tree, tmp_path / "out", "--samples_per_shard", 100) == 0
    out = capsys.readouterr().out
    for text in ("1,000 images", "1 skipped", "skipped n02/n02_1.JPEG"):
        assert text in out
    assert "n02_1" not in images(tmp_path / "out" / "train")
    skipped = (tmp_path / "out" / "train" / "skipped.tsv").read_text()
    assert skipped.startswith("n02/n02_1.JPEG\t")
    assert skipped.count("\n") == 1
    assert pack(tree, tmp_path / "out", "--samples_per_shard", 100) == 0  # says it again
    assert "skipped n02/n02_1.JPEG" in capsys.readouterr().out


def test_more_than_a_thousandth_unreadable_is_an_error(tmp_path, capsys):
    tree = make_tree(tmp_path / "tree", 30, 3)
    for number in (3, 6):
        (tree / "train" / "n01" / f"n01_{number}.JPEG").write_bytes(b"no image")
    error = refused(capsys, tree, tmp_path / "out", "--samples_per_shard", 2)
    assert error.startswith("error: 2 of the 30 images of train are unreadable, more than 0.1%")
    assert "n01/n01_3.JPEG" in error
    assert (tmp_path / "out" / "train" / "skipped.tsv").read_text().count("\n") == 2
    assert not (tmp_path / "out" / "train" / "manifest.json").exists()


def test_every_kind_of_image_is_packed_as_an_rgb_jpeg(tmp_path):
    tree = make_tree(tmp_path / "tree", 3, 3)
    picture = Image.open(io.BytesIO(image(0, size=40)))
    picture.convert("CMYK").save(tree / "train/n01/cmyk.jpg")
    picture.convert("L").save(tree / "train/n01/grey.JPG")
    picture.save(tree / "train/n01/png.JPEG", "PNG")
    assert pack(tree, tmp_path / "out", "--resize", 20, "--quality", 80) == 0
    for key, (data, _) in images(tmp_path / "out" / "train").items():
        decoded = Image.open(io.BytesIO(data))
        side = 20 if key.split("_")[1] in ("cmyk", "grey", "png") else 8
        assert (decoded.format, decoded.mode, decoded.size) == ("JPEG", "RGB", (side, side))


def test_what_is_encoded_again_is_said_and_without_loss_it_stays_as_it_is(tmp_path, capsys):
    tree = make_tree(tmp_path / "tree", 2, 0, classes=("n01",))
    write(tree / "train/n01/x.png", image(7, "PNG"))
    write(tree / "train/n01/y.gif", image(8, "GIF"))
    assert pack(tree, tmp_path / "out") == 0
    note = "  encoded 2 images again, as JPEGs of quality 90; --quality lossless makes PNGs\n"
    assert note in capsys.readouterr().out
    assert pack(tree, tmp_path / "png", "--quality", "lossless") == 0
    assert "  encoded 1 images again, as PNGs\n" in capsys.readouterr().out
    packed = images(tmp_path / "png/train")
    assert packed["n01_x"][0] == image(7, "PNG")
    assert packed["n01_0"][0] == image(0)
    gif = np.asarray(Image.open(io.BytesIO(image(8, "GIF"))).convert("RGB"))
    assert (np.asarray(Image.open(io.BytesIO(packed["n01_y"][0]))) == gif).all()
    shard = str(tmp_path / "png/train/shard-000000.tar")
    names = {s["__key__"]: set(s) for s in wds.WebDataset(shard, shardshuffle=False)}
    assert {key for key, fields in names.items() if "png" in fields} == {"n01_x", "n01_y"}
    assert builders.pack("verify", tmp_path / "png") == 0
    assert "other options (--quality" in refused(capsys, tree, tmp_path / "png")


def test_keys_are_safe_unique_and_tell_the_file(tmp_path):
    tree = make_tree(tmp_path / "tree", 3, 3)
    for name in ("a.jpg", "a.png", "sub/a.jpg", "b.c d.jpg", "x" * 200 + ".jpg", "é.jpg"):
        write(tree / "train" / "n01" / name, image(0))
    write(tree / "train" / "n01" / ".hidden.jpg", b"resource fork")
    write(tree / "train" / "n01" / "notes.txt", b"no image")
    write(tree / "train" / "n01" / os.fsdecode(b"\xff\xfe.jpg"), image(0))
    assert pack(tree, tmp_path / "out") == 0
    keys = set(images(tmp_path / "out" / "train"))
    assert {"n01_a", "n01_a-2", "n01_sub_a", "n01_b_c_d", "n01_é", "n01___", "n02_1"} <= keys
    (long,) = (key for key in keys if key.startswith("n01_xxx"))
    assert len(long) <= 96
    assert len(keys) == 3 + 7


def test_class_names_come_with_the_tree_or_from_a_file(tmp_path):
    tree = make_tree(tmp_path / "tree", 3, 3)
    (tree / "classes.tsv").write_text("0\tn01\ttench\n1\tn02\tgreat white shark\n")
    assert pack(tree, tmp_path / "a") == 0
    manifest = Manifest.load(tmp_path / "a" / "train")
    assert manifest.classes == ("n01", "n02", "n03")
    assert manifest.class_names == ("tench", "great white shark", "n03")
    (tmp_path / "names").write_text("n03 tiger cat, felis\nn01\tfish\n", encoding="utf-8")
    assert pack(tree, tmp_path / "b", "--class_names", tmp_path / "names") == 0
    names = Manifest.load(tmp_path / "b" / "val").class_names
    assert names == ("fish", "n02", "tiger cat, felis")


def test_labels_of_val_count_the_classes_of_train(tmp_path):
    tree = make_tree(tmp_path / "tree", 3, 0)
    write(tree / "validation" / "n03" / "x.jpg", image(0))
    assert pack(tree, tmp_path / "out") == 0
    val = Manifest.load(tmp_path / "out" / "val")
    assert (val.classes, val.sample(0).label) == (("n01", "n02", "n03"), 2)


def no_class_folders(tree):
    write(tree / "train" / "x.jpg", image(0))
    (tree / "train" / "n01").rename(tree / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tree: write(tree / "val/n99/x.jpg", image(0)), "train lacks, such as 'n99'"),
        (lambda tree: (tree / "train" / "n99").mkdir(), "n99 has no images"),
        (no_class_folders, "no class folders"),
        (lambda tree: (tree / "classes.tsv").write_text("n01\n"), "line 1 of"),
        (lambda tree: tree.rename(tree.with_name("moved")), "no such folder"),
        (lambda tree: (tree / "train").rename(tree / "images"), "neither train/ nor val/"),
    ],
)
def test_a_tree_that_makes_no_sense_is_one_clear_error(tmp_path, capsys, damage, message):
    tree = make_tree(tmp_path / "tree", 1, 0, classes=("n01",))
    damage(tree)
    assert message in refused(capsys, tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quality_that_jpeg_does_not_have_is_refused(capsys):
    with pytest.raises(SystemExit):
        pack("a", "b", "--quality", 96)
    message = "error: --quality 96: it must be at least 1 and at most 95, or lossless"
    assert capsys.readouterr().err.startswith(message)
