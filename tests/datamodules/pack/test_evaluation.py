"""Packing evaluation sets: ImageNet-A, -R, -Sketch, -V2 and -C in the layouts of their authors."""

from __future__ import annotations

import json

import pytest

from datamodules.imagenet import ImageNetDataModule
from datamodules.shards.manifest import Manifest
from tests.datamodules.pack.builders import image, images, pack, refused, write

# In the order of ImageNet's labels, which is not that of the names of V2's folders as text.
IDS = tuple(f"n{number:08d}" for number in range(101, 113))
NAMES = tuple(f"name_{number}" for number in range(12))


@pytest.fixture
def index(tmp_path):
    """An imagenet_class_index.json of 12 classes."""
    classes = {str(label): pair for label, pair in enumerate(zip(IDS, NAMES, strict=True))}
    return write(tmp_path / "imagenet_class_index.json", json.dumps(classes).encode())


def tree(root, folders):
    """An image in each folder."""
    for number, folder in enumerate(folders):
        write(root / folder / f"{number}.JPEG", image(number))
    return root


def labels(folder):
    """Key -> label."""
    manifest = Manifest.load(folder)
    assert manifest.evaluation
    assert (manifest.classes, manifest.class_names) == (IDS, NAMES)
    samples = map(manifest.sample, range(manifest.num_samples))
    return {sample.key: sample.label for sample in samples}


def present(root):
    return ImageNetDataModule(str(root), workers=0).present


def test_some_of_the_classes_as_in_imagenet_a_and_r(tmp_path, index, capsys):
    source = tree(tmp_path / "imagenet-a", [IDS[7], IDS[2], IDS[11]])
    write(source / "README.txt", b"about")
    out = tmp_path / "out"
    words = ("imagefolder", source, out, "--classes", index)
    assert pack(*words) == 0
    said = capsys.readouterr().out
    assert f"next: python train.py validate --name RUN --data.root {out}\n" in said
    assert "train.py --data.root" not in said
    assert "no train split" not in said
    assert "skipped README.txt (not in a class folder)" in said
    assert labels(out / "val") == {f"{IDS[7]}_0": 7, f"{IDS[2]}_1": 2, f"{IDS[11]}_2": 11}
    assert images(out / "val")[f"{IDS[2]}_1"] == (image(1), IDS[2])
    assert present(out) == (2, 7, 11)
    assert pack(*words) == 0
    assert "was packed already" in capsys.readouterr().out
    assert pack("verify", out) == 0


def test_all_classes_as_in_imagenet_sketch(tmp_path, index):
    out = tmp_path / "out"
    source = tree(tmp_path / "sketch", IDS)
    assert pack("imagefolder", source, out, "--classes", index) == 0
    assert sorted(labels(out / "val").values()) == list(range(12))
    assert present(out) is None


def test_numbers_are_places_in_the_list_as_in_imagenet_v2(tmp_path, index):
    """As text, 10 and 11 come before 2; ImageFolder's labels would be wrong."""
    source = tree(tmp_path / "imagenetv2-top-images-format-val", map(str, range(12)))
    out = tmp_path / "out"
    assert pack("imagefolder", source, out, "--classes", index) == 0
    assert labels(out / "val") == {f"{number}_{number}": number for number in range(12)}


@pytest.mark.parametrize("above", ["", "noise/"])
def test_every_condition_of_imagenet_c_in_one_command(tmp_path, index, capsys, above):
    source = tmp_path / "imagenet-c"
    places = [f"{above}{name}/{severity}" for name in ("snow", "fog") for severity in range(1, 6)]
    for place in places:
        tree(source / place, IDS[:3])
    out = tmp_path / "out"
    assert pack("imagefolder", source, out, "--classes", index) == 0
    said = capsys.readouterr().out
    assert f"corruptions --models RUN --data.root {out} --out results\n" in said
    lines = said.splitlines()
    assert [line for line in lines if line in places] == [*places[5:], *places[:5]]
    for place in places:
        assert sorted(labels(out / place / "val").values()) == [0, 1, 2]


def test_the_classes_may_be_those_of_packed_data(tmp_path, index):
    packed = tmp_path / "packed"
    source = tree(tmp_path / "imagenet/val", IDS)
    assert pack("imagefolder", source.parent, packed, "--class_names", index) == 0
    assert not Manifest.load(packed / "val").evaluation
    assert present(packed) is None
    out = tmp_path / "out"
    assert pack("imagefolder", tree(tmp_path / "a", IDS[3:5]), out, "--classes", packed) == 0
    assert sorted(labels(out / "val").values()) == [3, 4]


def test_a_folder_val_is_the_set_above_it(tmp_path, index):
    source = tree(tmp_path / "in/val", IDS[:2]).parent
    assert pack("imagefolder", source, tmp_path / "out", "--classes", index) == 0
    assert sorted(labels(tmp_path / "out/val").values()) == [0, 1]


def test_an_ordinary_split_without_images_of_a_class_is_no_evaluation_set(tmp_path):
    source = tmp_path / "in"
    tree(source / "train", IDS[:3])
    tree(source / "val", IDS[:2])
    assert pack("imagefolder", source, tmp_path / "out") == 0
    assert present(tmp_path / "out") is None


def test_the_digest_tells_an_evaluation_set_from_others(tmp_path, index):
    source = tree(tmp_path / "in/val", IDS).parent
    for name, words in {"a": ("--class_names", index), "b": ("--classes", index)}.items():
        assert pack("imagefolder", source, tmp_path / name, *words) == 0
    first, second = (Manifest.load(tmp_path / name / "val") for name in "ab")
    assert [s.sha256 for s in first.shards] == [s.sha256 for s in second.shards]
    assert first.digest != second.digest


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([IDS[0], "n99999999"], "has the class 'n99999999', which the list of --classes lacks"),
        (["cat", "dog"], "has no class folders of"),
        (["0", "12"], "has no class folders of"),
        (["train/n00000101", "val/n00000101"], "has training images, and --classes is for"),
        (["val/n00000101", "valid/n00000101"], "would be one set"),
        ([], "has no class folders of"),
    ],
)
def test_what_does_not_fit_the_list_is_one_line(tmp_path, index, capsys, folders, message):
    source = tree(tmp_path / "in", folders)
    source.mkdir(exist_ok=True)
    assert message in refused(capsys, "imagefolder", source, tmp_path / "out", "--classes", index)
    assert not (tmp_path / "out").exists()


def test_a_list_of_names_alone_is_refused(tmp_path, capsys):
    source = tree(tmp_path / "in", IDS)
    names = write(tmp_path / "names.txt", b"tench\ngoldfish\n")
    error = refused(capsys, "imagefolder", source, tmp_path / "out", "--classes", names)
    assert "has names alone, and class folders are compared with ids" in error
