"""Packing the images and answers of model-vs-human."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.pack.sources.humans import ANSWERS, image_of, trial_of
from datamodules.shards.manifest import Manifest
from tests.bagnet.experiments.toolbox import CATEGORIES, decide, generate, images_of
from tests.datamodules.pack.builders import pack, refused

DATASETS = ("uniform-noise", "edge")


@pytest.fixture
def source(tmp_path):
    return generate(tmp_path / "toolbox", DATASETS, count=2, side=8)


def test_images_keep_their_pixels_and_have_their_answers(source, tmp_path, capsys):
    assert pack("humans", source, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "note: 15 data sets are not there: colour, contrast," in said
    assert f"python -m bagnet.experiments humans --models RUN --data.root {tmp_path}/out" in said
    manifest = Manifest.load(tmp_path / "out" / "val")
    assert manifest.classes == CATEGORIES
    with (tmp_path / "out" / "val" / ANSWERS).open(newline="") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert len(rows) == manifest.num_samples == 2 * (8 + 1)
    names = {name: images_of(name, 2) for name in DATASETS}
    for sample in manifest.lookup(np.arange(manifest.num_samples)):
        row = rows[sample.key]
        condition, category, image = next(i for i in names[row["dataset"]] if i[2] == row["image"])
        assert CATEGORIES[sample.label] == row["category"] == category
        assert row["condition"] == ("" if row["dataset"] == "edge" else f"{float(condition):g}")
        for who in ("subject-01", "subject-02"):
            assert row[who] == decide(who, row["dataset"], condition, category, image)
        (path,) = (source / "datasets" / row["dataset"]).rglob(f"*{image}")
        shard = (tmp_path / "out" / "val" / sample.shard.name).read_bytes()
        packed = shard[sample.offset : sample.offset + sample.size]
        assert (np.array(Image.open(io.BytesIO(packed))) == np.array(Image.open(path))).all()
    answers = (tmp_path / "out" / "val" / ANSWERS).read_bytes()
    assert pack("humans", source, tmp_path / "out") == 0  # again
    assert "was packed already" in capsys.readouterr().out
    assert (tmp_path / "out" / "val" / ANSWERS).read_bytes() == answers


def without_datasets(source):
    (source / "datasets").rename(source / "images")
    return "none of the data sets of model-vs-human"


def without_answers(source):
    for path in (source / "raw-data/edge").iterdir():
        path.unlink()
    return "raw-data/edge has no answers of humans"


def without_image(source):
    next((source / "datasets/edge").rglob("*.png")).unlink()
    return "which was answered: take datasets/ and raw-data/ of the same release"


def without_trial(source):
    path = next((source / "raw-data/edge").glob("*subject-02*"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return "subject-02 has no answer to"


def twice(source):
    path = next((source / "raw-data/edge").glob("*subject-02*"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]]))
    return "twice"


def line_in_name(source):
    path = next((source / "raw-data/edge").glob("*subject-01*"))
    *_, last = path.read_text().splitlines()
    *fields, _ = last.split(",")
    path.write_text(path.read_text() + ",".join([*fields, '"1_edge_s01_0_dog_0_a\nb.png"\n']))
    return r"has no a\nb.png, which was answered"


def no_table(source):
    next((source / "raw-data/edge").glob("*subject-01*")).write_text("a,b\n1,2\n")
    return "is not a table of answers: no column 'imagename'"


def other_name(source):
    path = next((source / "datasets/uniform-noise").rglob("*.png"))
    path.rename(path.with_name("picture.png"))
    return "is neither in the folder of a category"


def same_image(source):
    path = next((source / "datasets/uniform-noise").rglob("*.png"))
    path.with_name(f"9{path.name}").write_bytes(path.read_bytes())
    return "are the same image: remove one"


@pytest.mark.parametrize(
    "damage",
    [
        *(without_datasets, without_answers, without_image, without_trial),
        *(line_in_name, twice, no_table, other_name, same_image),
    ],
)
def test_what_does_not_fit_is_refused(source, tmp_path, capsys, damage):
    message = damage(source)
    assert message in refused(capsys, "humans", source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("0000_cl_s01_bw_boat_40_n02951358_5952.JPEG", "n02951358_5952.JPEG"),
        ("airplane1-bicycle2.png", "airplane1-bicycle2.png"),
        ("0001_ske_s01_0_boat_00_boat-0068-sketch-23.png", "boat-0068-sketch-23.png"),
    ],
)
def test_the_image_of_a_name(name, image):
    assert image_of(name) == image


def test_what_a_path_says():
    path = Path("uniform-noise/dnn/session-1/0001_nse_dnn_0.90_knife_10_n03041632_7.png")
    assert trial_of(path) == ("uniform-noise", "0.9", "knife", "n03041632_7.png")
    assert trial_of(Path("edge/oven/oven10.png")) == ("edge", "", "oven", "oven10.png")
