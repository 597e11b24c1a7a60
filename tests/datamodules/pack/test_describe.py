"""What `describe` says of packed data, and the sheet it draws."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from datamodules.pack.__main__ import main
from datamodules.pack.sheet import CELL, GAP, TEXT
from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import write_shard
from tests.datamodules.pack.builders import pack, tar_of, write

STEP = CELL + GAP


def picture(colour, width=20, height=10):
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def write_split(root, counts, names=None):
    """Images of one colour for each class; the first one has another size."""
    samples = [
        (
            f"{label}-{n}",
            picture((label * 9, 50, 99), *((31, 17) if label == n == 0 else ())),
            label,
        )
        for n in range(max(counts))
        for label in range(len(counts))
        if n < counts[label]
    ]
    ids = [f"n{label}" for label in range(len(counts))]
    root.mkdir(parents=True)
    part = write_shard(root / "shard-000000.tar", samples)
    Manifest.assemble(root, ids, names or ids, [part]).save()
    return root


def describe(capsys, *words):
    capsys.readouterr()
    assert main(["describe", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_counts_sizes_and_imbalance(tmp_path, capsys):
    write_split(tmp_path / "train", [9, 3, 6])
    write_split(tmp_path / "val", [2, 2, 2])
    write(tmp_path / "train/skipped.tsv", b"a.jpg\tcut short\nb.txt\tnot an image\n")
    train, val = describe(capsys, tmp_path).split("val: ")
    assert train.startswith("train: 18 images, 1 shard, ")
    for line in (
        "  width      20 px in the median, 20 to 31 px\n",
        "  height     10 px in the median, 10 to 17 px\n",
        "  class      6 images in the median, 3 to 9 images\n",
        "  imbalance  3.0 times as many in the largest as in the rarest\n",
        "  rarest     3       n1\n             6       n2\n             9       n0\n",
        "  left out   2, all named in train/skipped.tsv\n",
    ):
        assert line in train
    assert "  class      2 images\n" in val
    assert "imbalance" not in val


def test_classes_without_images_are_said_and_are_no_imbalance(tmp_path, capsys):
    write_split(tmp_path / "train", [2, 0, 2])
    said = describe(capsys, tmp_path / "train")
    assert "  class      2 images\n             1 without images, such as n1\n" in said
    assert "imbalance" not in said


def test_no_line_is_wider_than_80_columns(tmp_path, capsys):
    write_split(tmp_path / "train", [1, 2], ["a name that goes on " * 9] * 2)
    assert max(map(len, describe(capsys, tmp_path).splitlines())) <= 80


def test_images_that_cannot_be_read_are_named(tmp_path, capsys):
    root = write_split(tmp_path / "train", [3, 3])
    shard = root / "shard-000000.tar"
    manifest = Manifest.load(root)
    data = bytearray(shard.read_bytes())
    start = manifest.sample(2).offset
    data[start : start + 8] = b"no image"
    shard.write_bytes(data)
    said = describe(capsys, tmp_path, "--sheet", tmp_path / "s.png")
    assert "  unreadable 1 of 6: 0-1 (not a readable image" in said
    shard.unlink()
    assert "  unreadable 6 of 6: 0-0 (no such file)\n" in describe(capsys, tmp_path)


def test_only_a_part_is_opened_and_it_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("datamodules.pack.describe.EXAMINED", 5)
    write_split(tmp_path / "train", [20, 20])
    assert "  width      20 px in the median, 20 to 31 px (5 of them)\n" in describe(
        capsys, tmp_path
    )


def test_the_sheet_has_a_row_of_images_for_each_class(tmp_path, capsys):
    write_split(tmp_path / "train", [9, 3], ["a name of a class of several lines", "n1"])
    said = describe(capsys, tmp_path, "--sheet", tmp_path / "a.png")
    assert f"sheet: {tmp_path}/a.png shows 2 classes of train\n" in said
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.shape == (GAP + 2 * STEP, TEXT + 8 * STEP, 3)
    assert (sheet[:, :TEXT] < 128).any(axis=2).any(axis=1).sum() > 40  # lines with text
    for row, (label, count) in enumerate([(0, 8), (1, 3)]):
        for column in range(8):
            top, left = GAP + row * STEP, TEXT + column * STEP
            cell = sheet[top : top + CELL, left : left + CELL]
            assert (cell == ((label * 9, 50, 99) if column < count else (255, 255, 255))).all()
    describe(capsys, tmp_path, "--sheet", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_of_many_classes_the_sheet_shows_some_from_the_first_to_the_last(tmp_path, capsys):
    write_split(tmp_path / "train", [1] * 25)
    said = describe(capsys, tmp_path, "--sheet", tmp_path / "a.png")
    assert "shows 20 of 25 classes of train" in said
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    reds = sheet[GAP::STEP, TEXT, 0]
    assert (reds[0], reds[19]) == (0, 24 * 9)


def test_a_sheet_that_is_no_png_is_refused(tmp_path, capsys):
    write_split(tmp_path / "train", [1])
    assert main(["describe", str(tmp_path), "--sheet", "a.jpg"]) == 2
    assert "the sheet is a PNG; end its name in .png" in capsys.readouterr().err


def test_shards_elsewhere_are_read_by_ranges_and_no_command_is_run(http_server, tmp_path, capsys):
    samples = [(f"{n}.png", picture((9, 9, 9))) for n in range(3)]
    labels = [(f"{n}.cls", b"0") for n in range(3)]
    members = [member for pair in zip(samples, labels, strict=True) for member in pair]
    tar = write(http_server.root / "train-0.tar", tar_of(members))
    assert pack("index", f"{http_server.url}/train-0.tar", tmp_path / "http") == 0
    http_server.requests.clear()
    assert "  width      20 px\n" in describe(capsys, tmp_path / "http")
    assert sum(sent for part, sent in http_server.transfers("/train-0.tar") if part) < 3000
    assert pack("index", f"pipe:cat {tar}", tmp_path / "pipe", "--split", "train") == 0
    tar.unlink()
    said = describe(capsys, tmp_path / "pipe")
    assert "train: 3 images" in said
    assert "width" not in said
    assert "unreadable" not in said
