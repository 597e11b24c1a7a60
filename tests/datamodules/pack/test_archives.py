"""Packing from the ILSVRC2012 archives and from shards that others wrote."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from scipy.io import savemat

from datamodules.pack.__main__ import main
from datamodules.shards.manifest import Manifest

WNIDS = ("n03", "n01", "n02")  # by ILSVRC2012_ID; labels go by the sorted order


def jpeg(seed, kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def tar_of(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def devkit(truth):
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    synsets = np.zeros(4, dtype=[*fields, ("num_children", "O")])
    for at, wnid in enumerate((*WNIDS, "n99")):  # the last one stands above the others
        synsets[at] = (at + 1, wnid, f"name of {wnid}, synonym", "gloss", 3 if wnid == "n99" else 0)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    lines = "".join(f"{number}\n" for number in truth).encode()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, data in (
            ("meta.mat", meta.getvalue()),
            ("ILSVRC2012_validation_ground_truth.txt", lines),
        ):
            info = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def downloads(tmp_path):
    """Twelve train images in three inner archives, six validation images in reverse order."""
    root = tmp_path / "downloads"
    root.mkdir()
    inner = [
        (f"{wnid}.tar", tar_of((f"{wnid}_{i}.JPEG", jpeg(10 * at + i)) for i in range(4)))
        for at, wnid in enumerate(WNIDS)
    ]
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
    val = [(f"ILSVRC2012_val_{i:08d}.JPEG", jpeg(100 + i)) for i in range(6, 0, -1)]
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_of(val))
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(devkit([1, 2, 3, 3, 2, 1]))
    return root


def pack(*words):
    return main([*map(str, words), "--workers", "1"])


def images(folder):
    manifest = Manifest.load(folder)
    samples = [manifest.sample(i) for i in range(manifest.num_samples)]
    return {
        s.key: (
            (folder / s.shard.name).read_bytes()[s.offset :][: s.size],
            manifest.classes[s.label],
        )
        for s in samples
    }


VAL_WNIDS = ["n03", "n01", "n02", "n02", "n01", "n03"]
VAL = {f"ILSVRC2012_val_{i + 1:08d}": (jpeg(101 + i), wnid) for i, wnid in enumerate(VAL_WNIDS)}


def test_the_archives_as_downloaded(downloads, tmp_path):
    assert pack("ilsvrc", downloads, tmp_path / "out", "--samples-per-shard", 5) == 0
    assert images(tmp_path / "out/train") == {
        f"{wnid}_{i}": (jpeg(10 * at + i), wnid) for at, wnid in enumerate(WNIDS) for i in range(4)
    }
    assert images(tmp_path / "out/val") == VAL
    for split in ("train", "val"):
        manifest = Manifest.load(tmp_path / "out" / split)
        assert manifest.classes == ("n01", "n02", "n03")
        assert manifest.class_names[0] == "name of n01, synonym"
    assert pack("verify", tmp_path / "out") == 0


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(VAL_WNIDS) + "\n",
        "".join(f"{key}.JPEG {wnid}\n" for key, (_, wnid) in reversed(VAL.items())),
        "ImageId,PredictionString\n" + "".join(f"{k},{w} 1 2 3\n" for k, (_, w) in VAL.items()),
    ],
    ids=["wnids", "name-wnid", "kaggle"],
)
def test_a_list_of_labels_instead_of_the_devkit(downloads, tmp_path, text):
    (downloads / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    (tmp_path / "labels").write_text(text)
    out = tmp_path / "out"
    assert pack("ilsvrc", downloads, out, "--val-labels", tmp_path / "labels") == 0
    assert images(out / "val") == VAL
    assert Manifest.load(out / "train").class_names == ("n01", "n02", "n03")


def replace(name, change):
    def damage(root):
        path = root / name
        path.write_bytes(change(path.read_bytes()))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "ILSVRC2012_devkit_t12.tar.gz").unlink(), "--val-labels"),
        (replace("ILSVRC2012_devkit_t12.tar.gz", lambda d: d[:90]), "not the devkit"),
        (replace("ILSVRC2012_devkit_t12.tar.gz", lambda d: devkit([1, 2])), "2 labels for 6"),
        (replace("ILSVRC2012_devkit_t12.tar.gz", lambda d: devkit([9] * 6)), "not the devkit"),
        (replace("ILSVRC2012_img_train.tar", lambda d: d[:9000]), "no complete"),
        (replace("ILSVRC2012_img_train.tar", lambda d: b"<html>"), "no complete"),
        (replace("ILSVRC2012_img_train.tar", lambda d: tar_of([])), "one tar a class"),
        (replace("ILSVRC2012_img_train.tar", lambda d: tar_of([("n01.tar", b"")])), "no end mark"),
        (
            replace("ILSVRC2012_img_train.tar", lambda d: tar_of([("n01.tar", tar_of([]))])),
            "n01.tar in",
        ),
    ],
)
def test_damaged_archives_are_one_clear_error(downloads, tmp_path, capsys, damage, message):
    damage(downloads)
    assert pack("ilsvrc", downloads, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_names_in_archives_are_never_trusted(downloads, tmp_path):
    tricks = ["../../n01_evil.JPEG", "/etc/n01_abs.JPEG", "./n01_a.b.JPEG", "a/../n01_c.JPEG"]
    evil = tar_of([(name, jpeg(at)) for at, name in enumerate(tricks)])
    train = [
        (f"../{WNIDS[1]}.tar", evil),
        *((f"{w}.tar", tar_of([("x.JPEG", jpeg(9))])) for w in ("n02", "n03")),
    ]
    (downloads / "ILSVRC2012_img_train.tar").write_bytes(tar_of(train))
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    assert pack("ilsvrc", downloads, tmp_path / "out") == 0
    keys = set(images(tmp_path / "out/train"))
    assert keys == {"n01_evil", "n01_abs", "n01_a_b", "n01_c", "n02_x", "n03_x"}
    assert before == {p for p in tmp_path.rglob("*") if "out" not in p.parts}


def write_wds(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path), mtime=0) as writer:
        for sample in samples:
            writer.write(sample)


@pytest.fixture
def shards(tmp_path):
    """Shards as timm publishes them: four of train, one of validation."""
    root = tmp_path / "imagenet-1k-wds"
    for shard in range(4):
        samples = [
            {
                "__key__": f"n{n % 3:08d}_{n}",
                "jpg": jpeg(n),
                "cls": n % 3,
                "json": {"filename": f"n{n % 3:08d}_{n}.JPEG", "label": n % 3},
            }
            for n in range(3 * shard, 3 * shard + 3)
        ]
        write_wds(root / f"imagenet1k-train-{shard:04d}.tar", samples)
    val = [{"__key__": f"val_{n}", "png": jpeg(50 + n, "PNG"), "cls": n} for n in range(3)]
    write_wds(root / "imagenet1k-validation-00.tar", val)
    return root


def test_a_folder_of_shards_as_timm_publishes_them(shards, tmp_path):
    assert pack("wds", shards, tmp_path / "out") == 0
    train = images(tmp_path / "out/train")
    assert train == {f"n{n % 3:08d}_{n}": (jpeg(n), f"n{n % 3:08d}") for n in range(12)}
    val = images(tmp_path / "out/val")
    assert {key: label for key, (_, label) in val.items()} == {
        f"val_{n}": f"n{n:08d}" for n in range(3)
    }
    assert pack("verify", tmp_path / "out") == 0


def test_brace_lists_globs_and_one_split_after_the_other(shards, tmp_path):
    out = tmp_path / "out"
    assert pack("wds", shards / "imagenet1k-train-{0000..0002}.tar", out) == 0
    assert len(images(out / "train")) == 9
    assert pack("wds", f"{shards}/*validation*", out, "--split", "val") == 0
    assert Manifest.load(out / "val").classes == Manifest.load(out / "train").classes


def test_labels_without_ids_are_numbers_or_come_from_a_list(tmp_path):
    source = tmp_path / "foreign-0.tar"
    write_wds(source, [{"__key__": f"{n:04d}", "jpg": jpeg(n), "cls": n} for n in (0, 2)])
    assert pack("wds", source, tmp_path / "a", "--split", "train") == 0
    assert Manifest.load(tmp_path / "a/train").classes == ("0", "1", "2")
    (tmp_path / "names.tsv").write_text("n9\tnine\nn7\tseven\nn8\teight\nn6\tsix\n")
    words = ("--split", "train", "--class-names", tmp_path / "names.tsv")
    assert pack("wds", source, tmp_path / "b", *words) == 0
    manifest = Manifest.load(tmp_path / "b/train")
    assert manifest.classes == ("n9", "n7", "n8", "n6")
    assert manifest.class_names == ("nine", "seven", "eight", "six")


def test_the_same_key_in_two_shards_is_two_samples(tmp_path):
    for n in range(2):
        write_wds(tmp_path / f"train-{n}.tar", [{"__key__": "a/0000", "jpg": jpeg(n), "cls": n}])
    assert pack("wds", tmp_path / "train-{0..1}.tar", tmp_path / "out") == 0
    packed = images(tmp_path / "out/train")
    assert packed == {"a_0000": (jpeg(0), "0"), "a_0000-2": (jpeg(1), "1")}


def test_samples_without_a_label_or_an_image_are_reported(tmp_path, capsys):
    samples = [{"__key__": f"{n}", "jpg": jpeg(0), "cls": 0} for n in range(3)]
    broken = [{"__key__": "x", "jpg": jpeg(0)}, {"__key__": "y", "cls": 0}]
    broken += [{"__key__": "z", "jpg": jpeg(0), "cls": b"cat"}]
    write_wds(tmp_path / "train-0.tar", samples + broken)
    assert pack("wds", tmp_path / "train-0.tar", tmp_path / "out") == 2
    assert "3 of the 6 images of train are unreadable" in capsys.readouterr().err
    skipped = (tmp_path / "out/train/skipped.tsv").read_text()
    assert "train-0.tar: x\tno cls\n" in skipped
    assert "train-0.tar: y\tno image\n" in skipped
    assert "train-0.tar: z\t" in skipped


def wrong_class_count(root):
    write_wds(root / "imagenet1k-train-0009.tar", [{"__key__": "x", "jpg": jpeg(0), "cls": 99}])
    (root.parent / "names.tsv").write_text("a\tA\nb\tB\n")
    return ["--class-names", str(root.parent / "names.tsv")]


def mute_name(root):
    (root / "imagenet1k-train-0000.tar").rename(root / "part-0.tar")
    return []


def cut_at(length):
    def damage(root):
        path = root / "imagenet1k-train-0001.tar"
        path.write_bytes(path.read_bytes()[:length])
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
        (cut_at(0), "imagenet1k-train-0001.tar is no complete"),  # nothing
        (cut_at(1700), "imagenet1k-train-0001.tar is no complete"),  # in an image
        (cut_at(3000), "imagenet1k-train-0001.tar is no complete"),  # in a header
        (cut_at(3584), "imagenet1k-train-0001.tar is no complete"),  # between two members
        (no_shards, "no shards"),
    ],
)
def test_shards_that_make_no_sense_are_one_clear_error(shards, tmp_path, capsys, damage, message):
    words = damage(shards)
    assert pack("wds", shards, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_val_that_does_not_fit_the_packed_train_is_refused(shards, tmp_path, capsys):
    out = tmp_path / "out"
    assert pack("wds", shards / "imagenet1k-train-0000.tar", out) == 0
    write_wds(tmp_path / "val-0.tar", [{"__key__": "x", "jpg": jpeg(0), "cls": 3}])
    assert pack("wds", tmp_path / "val-0.tar", out) == 2
    assert "classes" in capsys.readouterr().err
    assert not (out / "val").exists()


def test_what_json_tells_about_classes_becomes_their_names(tmp_path):
    samples = [
        {
            "__key__": str(n),
            "jpg": jpeg(n),
            "cls": n,
            "json": json.dumps({"class_id": f"n{n}", "class_name": f"name {n}"}).encode(),
        }
        for n in range(2)
    ]
    write_wds(tmp_path / "train-0.tar", samples)
    assert pack("wds", tmp_path / "train-0.tar", tmp_path / "out") == 0
    manifest = Manifest.load(tmp_path / "out/train")
    assert (manifest.classes, manifest.class_names) == (("n0", "n1"), ("name 0", "name 1"))
