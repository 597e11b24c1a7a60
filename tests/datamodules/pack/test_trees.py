"""Trees of images as people have them: any names, links, folders that cannot be read."""

from __future__ import annotations

import errno
import os

import pytest
from torchvision.datasets import ImageFolder

from datamodules.decoding.folders import NOT_AN_IMAGE
from datamodules.decoding.images import MAX_BYTES
from datamodules.pack.sources.imagefolder import list_splits
from tests.datamodules.pack.builders import image, pack, refused, write


def listed(root):
    """Path -> class of all that is listed of train."""
    train = list_splits(root)[0]
    return {
        os.fsdecode(entry["name"]): train.classes[entry["label"]] for entry in train.entries
    }, dict(train.left_out)


def make(root, names=("train/a/0.jpg", "train/b/0.jpg")):
    for number, name in enumerate(names):
        write(root / name, image(number))
    return root


def test_the_content_decides_and_what_is_left_out_is_named(tmp_path, capsys):
    tree = make(tmp_path / "tree", [f"train/a/{n}" for n in ("x.jfif", "x.JPE", "x", "y.v2")])
    write(tree / "train/a/notes.txt", b"no image")
    write(tree / "train/a/P6", b"P6 is how some texts begin")
    write(tree / "train/stray.jpg", image(9))
    (tree / "train/gone").symlink_to("nowhere")
    (tree / "train/a/lost").symlink_to("nowhere")
    os.mkfifo(tree / "train/a/pipe.jpg")
    assert pack("imagefolder", tree, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "train: 4 images, 1 shard," in said
    assert "6 skipped" in said
    for name, reason in {
        "a/notes.txt": NOT_AN_IMAGE,
        "a/P6": NOT_AN_IMAGE,
        "a/lost": "a link that leads nowhere",
        "a/pipe.jpg": "not a file",
        "gone": "a link that leads nowhere",
        "stray.jpg": "not in a class folder",
    }.items():
        assert f"  skipped {name} ({reason})\n" in said
        assert f"{name}\t{reason}\n" in (tmp_path / "out/train/skipped.tsv").read_text()
    write(tree / "train/a/more.txt", b"no image")  # is no other input
    assert pack("imagefolder", tree, tmp_path / "out") == 0
    assert "was packed already" in capsys.readouterr().out


def test_a_file_too_large_for_an_image_is_not_read(tmp_path, capsys):
    tree = make(tmp_path / "tree")
    with open(write(tree / "train/a/large.jpg", image(9)), "r+b") as file:
        file.truncate(MAX_BYTES + 1)  # a hole, which takes no space
    error = refused(capsys, "imagefolder", tree, tmp_path / "out")
    assert "the first is a/large.jpg (1,073,741,825 bytes, more than 1,073,741,824)" in error


def test_classes_have_the_numbers_that_imagefolder_gives_them(tmp_path):
    names = [f"train/{name}/0.jpg" for name in ("2", "10", "b", "B", "1", "a b", "\u00e9")]
    tree = make(tmp_path / "tree", names)
    (train,) = list_splits(tree)
    assert list(train.classes) == ImageFolder(tree / "train").classes
    assert train.classes[:3] == ("1", "10", "2")


def test_links_are_followed_once_and_never_up(tmp_path):
    elsewhere = make(tmp_path / "elsewhere", ["one.jpg", "sub/two.jpg"])
    tree = make(tmp_path / "tree")
    links = {"self": ".", "up": "..", "higher": tmp_path, "first": elsewhere, "second": elsewhere}
    for name, target in links.items():
        (tree / "train/a" / name).symlink_to(target)
    found, left_out = listed(tree)
    assert sorted(found) == ["a/0.jpg", "a/second/one.jpg", "a/second/sub/two.jpg", "b/0.jpg"]
    assert set(left_out) == {"a/self", "a/up", "a/higher", "a/first"}


@pytest.mark.parametrize(("link", "target"), [("train/a/b", "../b"), ("train/c", "b")])
def test_a_folder_that_would_have_two_labels_is_refused(tmp_path, link, target):
    tree = make(tmp_path)
    (tree / link).symlink_to(target)
    with pytest.raises(ValueError, match="are one folder, so its images would have two labels"):
        listed(tree)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    tree = make(tmp_path, ["train/a/0.jpg", "train/a/more/1.jpg"])
    scandir = os.scandir

    def failing(path):
        if os.path.basename(os.fspath(path)) == "more":
            raise OSError(errno.EIO, "Input/output error", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(ValueError, match=r"train/a/more cannot be listed \(Input/output error\)"):
        listed(tree)


def test_a_class_without_images_says_why(tmp_path):
    write(tmp_path / "train/a/photo.heic", b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match=r"a has no images \(.*photo.heic is not an image in a"):
        listed(tmp_path)


@pytest.mark.parametrize("names", [("training", "valid"), ("Train", "VAL"), ("train", "test")])
def test_splits_go_by_any_of_their_names(tmp_path, names):
    make(tmp_path, [f"{name}/a/0.jpg" for name in names])
    splits = list_splits(tmp_path)
    assert [listing.split for listing in splits] == ["train", "val"]
    assert [listing.source.root.name for listing in splits] == list(names)


def test_two_folders_of_one_split_are_refused(tmp_path):
    make(tmp_path, ["train/a/0.jpg", "val/a/0.jpg", "valid/a/0.jpg"])
    with pytest.raises(ValueError, match="has both val/ and valid/; move one of them away"):
        listed(tmp_path)


def test_names_for_other_classes_or_for_none_are_refused(tmp_path, capsys):
    tree = make(tmp_path / "tree")
    for text, message in {
        "x\tfish\n": "names none of the 2 classes: it begins with 'x', and they with 'a'",
        "great white shark\ntench\n": "line 1 of",
    }.items():
        (tree / "classes.tsv").write_text(text)
        assert message in refused(capsys, "imagefolder", tree, tmp_path / "out")
