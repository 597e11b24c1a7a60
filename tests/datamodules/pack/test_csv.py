"""Packing what a table lists, and dividing it so that no group is in both splits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

from datamodules.pack.options import CsvOptions
from datamodules.pack.sources.table import Row, divide, in_val
from datamodules.shards.manifest import Manifest
from tests.datamodules.pack import builders
from tests.datamodules.pack.builders import image, images, refused, write

pack = partial(builders.pack, "csv")


@pytest.fixture
def photos(tmp_path):
    """Twelve images of six patients."""
    for number in range(12):
        write(tmp_path / "photos" / f"{number}.jpg", image(number))
    return tmp_path / "photos"


def table(path, rows, header="path,label", separator=","):
    lines = [header, *(separator.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def labels(folder):
    return {key: label for key, (_, label) in images(folder).items()}


ROWS = [(f"{n}.jpg", "cat" if n % 2 else "dog") for n in range(12)]
SPLITS = ["train"] * 6 + ["Valid"] * 3 + ["test"] * 3


def test_a_split_column_divides_and_every_image_is_there_byte_for_byte(photos, tmp_path, capsys):
    rows = [(*row, split) for row, split in zip(ROWS, SPLITS, strict=True)]
    out = tmp_path / "out"
    assert pack(table(photos / "labels.csv", rows, "path,label,split"), out) == 0
    assert images(out / "train") == {str(n): (image(n), ROWS[n][1]) for n in range(6)}
    assert images(out / "val") == {str(n): (image(n), ROWS[n][1]) for n in range(6, 9)}
    assert "note: the 3 images of test are left out\n" in capsys.readouterr().out
    assert builders.pack("verify", out) == 0


def test_two_tables_say_the_split_by_their_names_and_test_serves_as_val(photos, tmp_path):
    table(photos / "train.csv", ROWS[:8])
    table(photos / "val_labels.csv", ROWS[8:])
    assert pack(photos / "train.csv", photos / "val_labels.csv", tmp_path / "a") == 0
    assert (len(images(tmp_path / "a/train")), len(images(tmp_path / "a/val"))) == (8, 4)
    rows = [(*row, "train" if n < 8 else "test") for n, row in enumerate(ROWS)]
    assert pack(table(photos / "x.csv", rows, "path,label,split"), tmp_path / "b") == 0
    assert len(images(tmp_path / "b/val")) == 4


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_other_columns_separators_and_ways_to_write_paths(photos, tmp_path, separator):
    write(tmp_path / "scans/a/0.JPG".replace("JPG", "png"), image(0, "PNG"))
    write(tmp_path / "scans/a/1.jpg", image(1))
    rows = [(7, '"a/0"', "yes", "train"), (8, "a\\1.jpg", "no", "train")]
    header = separator.join(["id", "File", "finding", "part"])
    text = "\ufeff" + header + "\r\n" + "\r\n".join(separator.join(map(str, r)) for r in rows)
    source = write(tmp_path / "tables/x.txt", text.encode())
    words = ("--images", tmp_path / "scans", "--path", "File", "--label", "finding")
    assert pack(source, tmp_path / "out", *words, "--split", "part") == 0
    assert labels(tmp_path / "out/train") == {"a_0": "yes", "a_1": "no"}


def test_labels_that_are_numbers_are_sorted_as_folders_of_these_names_would_be(photos, tmp_path):
    names = ["2", "10", "1"]
    for number, name in enumerate(names):
        write(tmp_path / "folders" / name / "x.jpg", image(number))
    source = table(photos / "train.csv", [(f"{n}.jpg", name) for n, name in enumerate(names)])
    (tmp_path / "names.tsv").write_text("1\tone\n2\ttwo\n10\tten\n")
    assert pack(source, tmp_path / "out", "--class_names", tmp_path / "names.tsv") == 0
    manifest = Manifest.load(tmp_path / "out/train")
    assert list(manifest.classes) == ImageFolder(tmp_path / "folders").classes == ["1", "10", "2"]
    assert manifest.class_names == ("one", "ten", "two")


def test_what_is_missing_or_has_no_label_is_named_and_counted(photos, tmp_path, capsys):
    rows = [*ROWS, ("gone.jpg", "cat"), ("12.jpg", "")]
    write(photos / "12.jpg", image(12))
    error = refused(capsys, "csv", table(photos / "train.csv", rows), tmp_path / "out")
    assert "2 of the 14 images of train are unreadable" in error
    skipped = (tmp_path / "out/train/skipped.tsv").read_text()
    assert "gone.jpg\tNo such file or directory\n" in skipped
    assert "line 15 of train.csv: 12.jpg\tno label\n" in skipped


def test_a_patient_is_in_one_split_only_and_stays_there(photos, tmp_path, capsys):
    rows = [(*row, f"p{n % 6}") for n, row in enumerate(ROWS)]
    source = table(photos / "labels.csv", rows, "path,label,patient")
    rule = ("--group", "patient", "--val_share", 0.4)
    assert pack(source, tmp_path / "a", *rule) == 0
    said = capsys.readouterr().out
    patients = {
        split: {f"p{int(key) % 6}" for key in images(tmp_path / "a" / split)}
        for split in ("train", "val")
    }
    assert not patients["train"] & patients["val"]
    assert patients["train"] | patients["val"] == {f"p{n}" for n in range(6)}
    assert f"val has {len(patients['val'])} of the 6 values of 'patient'\n" in said
    table(source, [*reversed(rows[:6]), ("9.jpg", "fox", "another")], "path,label,patient")
    assert pack(source, tmp_path / "b", *rule) == 0  # fewer images, in another order
    for split, those in patients.items():
        now = {f"p{key}" for key in images(tmp_path / "b" / split) if key != "9"}
        assert now == those


def test_where_the_folder_is_does_not_change_a_split_by_image(photos, tmp_path):
    source = table(photos / "labels.csv", ROWS)
    assert pack(source, tmp_path / "a", "--val_share", 0.4) == 0
    photos.rename(tmp_path / "moved")
    assert pack(tmp_path / "moved/labels.csv", tmp_path / "b", "--val_share", 0.4) == 0
    assert images(tmp_path / "a/val") == images(tmp_path / "b/val")


@given(
    st.lists(st.tuples(st.integers(), st.text("ab\u00e9", min_size=1, max_size=3)), min_size=1),
    st.floats(0.1, 0.9),
    st.integers(0, 9),
    st.randoms(),
)
def test_no_group_is_in_both_splits_whatever_the_table(pairs, share, seed, random):
    options = CsvOptions(src=[], out=Path(), group="who", val_share=share, seed=seed)
    rows = [Row("line", str(n), str(n), "label", "", who) for n, (_, who) in enumerate(pairs)]
    assume(len({in_val(row.group, share, seed) for row in rows}) == 2)  # else it is refused
    by_split = divide(options, rows)
    assert sorted(row for part in by_split.values() for row in part) == sorted(rows)
    groups = {split: {row.group for row in part} for split, part in by_split.items()}
    assert not groups["train"] & groups["val"]
    random.shuffle(rows)
    again = divide(options, rows)
    assert {split: set(part) for split, part in again.items()} == {
        split: set(part) for split, part in by_split.items()
    }


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_rule_gives_each_split_about_its_share(share):
    for seed in range(5):
        part = sum(in_val(f"patient {n}", share, seed) for n in range(2000)) / 2000
        assert abs(part - share) < 0.05  # more than four standard deviations
    assert in_val("a", 0.5, 0) != in_val("a", 0.5, 1) or in_val("b", 0.5, 0) != in_val("b", 0.5, 1)


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("file,label\na,b\n", (), "no column 'path': it has file, label; give --path COLUMN"),
        ("path,label\n", (), "labels.csv has no column 'split', and its name says neither"),
        ("path,label\n0.jpg,a\n", ("--split", "part"), "no column 'part'"),
        ("path,label,split\n0.jpg,a,dev\n", (), "line 2 of labels.csv has the split 'dev'"),
        ("path,label,split\n0.jpg,a\n", (), "has the split ''"),
        ("path,label,split\n0.jpg,a,train,b\n", (), "line 2 of labels.csv has more fields"),
        ("path,label,split\n0\0.jpg,a,train\n", (), "line 2 of labels.csv has a zero byte in"),
        (
            "path,label,split\n,a,train\n",
            (),
            "line 2 of labels.csv has nothing in the column 'path'",
        ),
        (
            "path,label,split\n0.jpg,a,train\n./0.jpg,a,val\n",
            (),
            "line 3 of labels.csv names the image of line 2 of labels.csv again",
        ),
        (
            "path,label,split\n0.jpg,a,train\n",
            ("--val_share", "0.5"),
            "split by its column 'split'; leave --val_share out",
        ),
        ("path,label\n0.jpg,a\n", ("--val_share", "0.5"), "of 1 images into val"),
        ("path,label,split\n", (), "labels.csv has no images"),
        ("", (), "no column 'path': it has ;"),
        (
            "path,label,split,who\n0.jpg,a,train,x\n1.jpg,a,val,x\n",
            ("--group", "who"),
            "the who 'x' is in train (line 2 of labels.csv) and in val (line 3 of labels.csv)",
        ),
        (
            "path,label,who\n0.jpg,a,\n",
            ("--group", "who", "--val_share", "0.5"),
            "line 2 of labels.csv has nothing in the column 'who'",
        ),
    ],
)
def test_a_table_that_makes_no_sense_is_one_clear_error(
    photos, tmp_path, capsys, text, words, message
):
    source = write(photos / "labels.csv", text.encode())
    assert message in refused(capsys, "csv", source, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_class_that_train_lacks_is_noted(photos, tmp_path, capsys):
    rows = [(*row, "val" if row[1] == "cat" else "train") for row in ROWS]
    assert pack(table(photos / "x.csv", rows, "path,label,split"), tmp_path / "out") == 0
    note = "note: train has no image of 1 of the classes, such as 'cat'\n"
    assert note in capsys.readouterr().out
    assert Manifest.load(tmp_path / "out/train").classes == ("cat", "dog")
