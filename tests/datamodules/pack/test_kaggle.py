"""Packing ILSVRC2012 as Kaggle has it: imagenet-object-localization-challenge.zip, unzipped."""

from __future__ import annotations

import shutil

import pytest

from datamodules.shards.manifest import Manifest
from tests.datamodules.pack.builders import image, images, pack, refused, write

WNIDS = ("n01440764", "n01978287", "n07753592")
VAL = {"ILSVRC2012_val_00000010": 2, "ILSVRC2012_val_00000002": 0, "ILSVRC2012_val_00000001": 1}


@pytest.fixture
def unzipped(tmp_path):
    root = tmp_path / "imagenet-object-localization-challenge"
    images = root / "ILSVRC/Data/CLS-LOC"
    for label, wnid in enumerate(WNIDS):
        for number in range(2):
            name = f"train/{wnid}/{wnid}_{number}.JPEG"
            write(images / name, image(10 * label + number))
    for number, name in enumerate(VAL):
        write(images / f"val/{name}.JPEG", image(100 + number))
    write(images / "test/ILSVRC2012_test_00000001.JPEG", image(200))
    write(root / "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml", b"<annotation/>")
    write(root / "ILSVRC/ImageSets/CLS-LOC/val.txt", b"ILSVRC2012_val_00000001 1\n")
    boxes = ("85 1 499 272 ", "1 2 3 4 n07753592 5 6 7 8 ", "0 0 9 9 ")
    rows = [f"{name},{WNIDS[VAL[name]]} {box}" for name, box in zip(VAL, boxes, strict=True)]
    table = "\n".join(["ImageId,PredictionString", *rows])
    write(root / "LOC_val_solution.csv", f"{table}\n".encode())
    names = ("tench, Tinca tinca", "Dungeness crab, Cancer magister", "banana")
    lines = [f"{wnid} {name}\n" for wnid, name in zip(WNIDS, names, strict=True)]
    write(root / "LOC_synset_mapping.txt", "".join(lines).encode())
    return root


def test_the_folders_as_unzipped(unzipped, tmp_path):
    out = tmp_path / "out"
    assert pack("ilsvrc", unzipped, out) == 0
    assert images(out / "train") == {
        f"{wnid}_{n}": (image(10 * label + n), wnid)
        for label, wnid in enumerate(WNIDS)
        for n in range(2)
    }
    assert images(out / "val") == {
        name: (image(100 + number), WNIDS[label])
        for number, (name, label) in enumerate(VAL.items())
    }
    manifest = Manifest.load(out / "val")
    assert manifest.classes == Manifest.load(out / "train").classes == WNIDS
    assert manifest.class_names[1:] == ("Dungeness crab, Cancer magister", "banana")
    assert pack("verify", out) == 0


def test_val_alone_and_labels_from_elsewhere(unzipped, tmp_path):
    shutil.rmtree(unzipped / "ILSVRC/Data/CLS-LOC/train")
    (unzipped / "LOC_val_solution.csv").unlink()
    (unzipped / "LOC_synset_mapping.txt").unlink()
    write(tmp_path / "labels", "\n".join(WNIDS).encode())  # 1, 2 and 10: by the value of numbers
    out = tmp_path / "out"
    assert pack("ilsvrc", unzipped, out, "--val_labels", tmp_path / "labels") == 0
    labels = {key: wnid for key, (_, wnid) in images(out / "val").items()}
    assert labels == dict(zip(sorted(VAL), WNIDS, strict=True))
    assert Manifest.load(out / "val").class_names == WNIDS


def test_what_is_wrong_is_one_line(unzipped, tmp_path, capsys):
    out, table = tmp_path / "out", unzipped / "LOC_val_solution.csv"
    text = table.read_text()
    table.write_text(text.replace("n01978287", "n09999999"))
    assert "has the class 'n09999999', which" in refused(capsys, "ilsvrc", unzipped, out)
    table.write_text(text.replace("val_00000002", "val_00000003"))
    message = "has no label for 1 images such as ILSVRC2012_val_00000002.JPEG"
    assert message in refused(capsys, "ilsvrc", unzipped, out)
    table.unlink()
    assert "LOC_val_solution.csv" in refused(capsys, "ilsvrc", unzipped, out)
    above = unzipped / "ILSVRC/Data/CLS-LOC"
    assert f"pack ilsvrc {unzipped} reads" in refused(capsys, "imagefolder", above, out)
    shutil.rmtree(above / "val")
    (above / "val").mkdir()
    assert "has no images" in refused(capsys, "ilsvrc", unzipped, out)
    for split in ("train", "val"):
        shutil.rmtree(above / split)
    assert "neither train/ nor val/" in refused(capsys, "ilsvrc", unzipped, out)
    shutil.rmtree(above)
    assert "nor Kaggle's ILSVRC/Data/CLS-LOC/" in refused(capsys, "ilsvrc", unzipped, out)
    assert not out.exists()
