"""Packing the ILSVRC2012 archives as downloaded."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from scipy.io import savemat

from datamodules.shards.manifest import Manifest
from tests.datamodules.pack.builders import image, images, pack, refused, tar_of
from tests.datamodules.pack.test_tars import header, negative

TRAIN = "ILSVRC2012_img_train.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
# One damaged byte of its meta.mat ends a process that reads it with scipy 1.18.
CRASHES = base64.b64decode(
    "H4sIAItYB2sE/+2V30/CMBDHi4L6YAx/Qv8AhbVh0+wN8UESIEaNPC6NG7KwH2brQJ/8170DSggmZpkhmniXdLe2"
    "+/buPt26WdtXWrXjQKtWrDTbh1lgTqfD0IPtenEpN2OreWHZHcG4tY9kdtcscq0ySGl3/J/0h93HQfea2y2Lw+3F"
    "JIwCfhcpPUmz2OWvaR6+nfNeFigd+DxNXD4GP0rnXNpcCteWrhBcWtKpwqvWH56B7vaQsSPwJ9AO1us01v0aeJhm"
    "6I+h5e9JHuicNVidoRbHr6D1Bw9P9z1pCen1b9h4BJeNLdLMzze9pIi952kY+VmQsOUaqDfxcU207fgYAxvaKTTM"
    "0/TxeXx3jL4O92jbepP/B4w3oZoE3rYyOmRh4jSBzAICoa5KviBbWlW92ZcyeZt6MeCqXlGtXvF79WINaNXqlaV0"
    "X/ZX/rzeVdblr7PV+b/1+cxVFMI/IUwT7yVLi8T3dFboaUu/Vf074KH+zfkPs8L8E9bnvyMcm87/8rtY/UlVXUpK"
    "IkAEiAARIAJEgAgQASJABIgAESACRIAIEAEiQASIABEgAkSACBABIkAEiAARIAJE4I8Q+ATgTJkdACgAAA=="
)
SHORT = b"MATLAB 5.0".ljust(124) + b"\0\1IM" + b"\x0e\0\0\0\x63\0\0\0"  # ends before its content
WNIDS = ("n03", "n01", "n02")  # by ILSVRC2012_ID; labels go by the sorted order


def devkit(truth):
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    synsets = np.zeros(4, dtype=[*fields, ("num_children", "O")])
    for at, wnid in enumerate((*WNIDS, "n99")):  # the last one is a parent of the others
        synsets[at] = (at + 1, wnid, f"name of {wnid}, synonym", "gloss", 3 if wnid == "n99" else 0)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    lines = "".join(f"{number}\n" for number in truth).encode()
    data = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": lines}
    named = [(f"ILSVRC2012_devkit_t12/data/{name}", content) for name, content in data.items()]
    return tar_of(named, "w:gz")


@pytest.fixture
def downloads(tmp_path):
    """Twelve train images in three inner archives, six validation images in reverse order."""
    root = tmp_path / "downloads"
    root.mkdir()
    inner = [
        (f"{wnid}.tar", tar_of((f"{wnid}_{i}.JPEG", image(10 * at + i)) for i in range(4)))
        for at, wnid in enumerate(WNIDS)
    ]
    (root / TRAIN).write_bytes(tar_of(inner))
    val = [(f"ILSVRC2012_val_{i:08d}.JPEG", image(100 + i)) for i in range(6, 0, -1)]
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_of(val))
    (root / DEVKIT).write_bytes(devkit([1, 2, 3, 3, 2, 1]))
    return root


VAL_WNIDS = ["n03", "n01", "n02", "n02", "n01", "n03"]
VAL = {f"ILSVRC2012_val_{i + 1:08d}": (image(101 + i), wnid) for i, wnid in enumerate(VAL_WNIDS)}


def test_the_archives_as_downloaded(downloads, tmp_path):
    assert pack("ilsvrc", downloads, tmp_path / "out", "--samples_per_shard", 5) == 0
    assert images(tmp_path / "out/train") == {
        f"{wnid}_{i}": (image(10 * at + i), wnid) for at, wnid in enumerate(WNIDS) for i in range(4)
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
        "\ufeff" + "".join(f'"{k}.JPEG","{w}"\r\n' for k, (_, w) in VAL.items()),
    ],
    ids=["wnids", "name-wnid", "kaggle", "windows"],
)
def test_a_list_of_labels_instead_of_the_devkit(downloads, tmp_path, text):
    (downloads / DEVKIT).unlink()
    (tmp_path / "labels").write_text(text)
    out = tmp_path / "out"
    assert pack("ilsvrc", downloads, out, "--val_labels", tmp_path / "labels") == 0
    assert images(out / "val") == VAL
    assert Manifest.load(out / "train").class_names == ("n01", "n02", "n03")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (DEVKIT, None, "--val_labels"),
        (DEVKIT, lambda data: data[:90], "not the devkit"),
        (DEVKIT, lambda data: devkit([1, 2]), "2 labels for 6"),
        (DEVKIT, lambda data: devkit([9] * 6), "not the devkit"),
        (DEVKIT, lambda data: b"<html>", "is damaged (ReadError: file could not be opened"),
        (DEVKIT, lambda data: tar_of([("meta.mat", SHORT)]), "is damaged (OSError: could not read"),
        (DEVKIT, lambda data: CRASHES, "not the devkit of ILSVRC2012, or is damaged (reading it"),
        (
            DEVKIT,
            lambda data: header("x") + header("a", negative(-512)),
            "(ReadError: a has the size -5",
        ),
        (TRAIN, lambda data: data[:9000], "not a complete"),
        (TRAIN, lambda data: b"<html>", "not a complete"),
        (TRAIN, lambda data: tar_of([]), "one tar per class"),
        (TRAIN, lambda data: tar_of([("n01.tar", b"")]), "no end mark"),
        (TRAIN, lambda data: tar_of([("n01.tar", tar_of([]))]), "n01.tar in"),
    ],
)
def test_damaged_archives_are_one_clear_error(downloads, tmp_path, capsys, name, change, message):
    data = (downloads / name).read_bytes()
    (downloads / name).unlink()
    if change:
        (downloads / name).write_bytes(change(data))
    assert message in refused(capsys, "ilsvrc", downloads, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_without_leading_zeros_are_numbered_by_value(downloads, tmp_path):
    names = [f"val_{number}.JPEG" for number in range(1, 12)]
    val = tar_of((name, image(number)) for number, name in enumerate(names))
    (downloads / "ILSVRC2012_img_val.tar").write_bytes(val)
    (downloads / TRAIN).unlink()
    wnids = [f"n{number:02d}" for number in range(11)]
    (tmp_path / "labels").write_text("\n".join(wnids))
    out = tmp_path / "out"
    assert pack("ilsvrc", downloads, out, "--val_labels", tmp_path / "labels") == 0
    found = {key: wnid for key, (_, wnid) in images(out / "val").items()}
    assert found == {name[:-5]: wnid for name, wnid in zip(names, wnids, strict=True)}


def test_other_files_are_named_and_two_images_of_one_name_are_refused(downloads, tmp_path, capsys):
    more = [("readme.txt", b"x"), ("._a.JPEG", b"resource fork")]
    inner = [
        (f"{wnid}.tar", tar_of([*more, (f"{wnid}_0.JPEG", image(at))]))
        for at, wnid in enumerate(WNIDS)
    ]
    (downloads / TRAIN).write_bytes(tar_of(inner))
    assert pack("ilsvrc", downloads, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "train: 3 images" in said
    assert "  skipped n01/readme.txt (its name is not that of an image)\n" in said
    assert "._a" not in said
    val = tar_of([(f"{folder}/{name}.JPEG", VAL[name][0]) for folder in "ab" for name in VAL])
    (downloads / "ILSVRC2012_img_val.tar").write_bytes(val)
    assert "has two images called" in refused(capsys, "ilsvrc", downloads, tmp_path / "b")


def test_names_in_archives_are_never_trusted(downloads, tmp_path):
    tricks = ["../../n01_evil.JPEG", "/etc/n01_abs.JPEG", "./n01_a.b.JPEG", "a/../n01_c.JPEG"]
    evil = tar_of([(name, image(at)) for at, name in enumerate(tricks)])
    others = [(f"{wnid}.tar", tar_of([("x.JPEG", image(9))])) for wnid in ("n02", "n03")]
    (downloads / TRAIN).write_bytes(tar_of([(f"../{WNIDS[1]}.tar", evil), *others]))
    before = set(tmp_path.rglob("*"))
    assert pack("ilsvrc", downloads, tmp_path / "out") == 0
    keys = set(images(tmp_path / "out/train"))
    assert keys == {"n01_evil", "n01_abs", "n01_a_b", "n01_c", "n02_x", "n03_x"}
    assert before == {p for p in tmp_path.rglob("*") if "out" not in p.parts}
