"""The demo set: deterministic, complete or absent, and true to what it says is planted."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from datamodules.demo import generate as module
from datamodules.demo.__main__ import main
from datamodules.demo.generate import PLANTED, generate
from datamodules.demo.pictures import CLASS_NAMES, COLOURS, PATCH, RELATIONS, draw
from datamodules.imagenet import ImageNetDataModule
from datamodules.shards.manifest import Manifest
from tests.datamodules.pack.builders import content, images

COUNTS = {"train": 20, "val": 12}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "set"
    assert generate(out, COUNTS, seed=3)
    return out


@pytest.fixture(scope="module")
def drawings():
    return [draw(np.random.default_rng(n), n % len(CLASS_NAMES)) for n in range(150)]


def test_the_same_seed_gives_the_same_bytes(demo, tmp_path):
    generate(tmp_path / "again", COUNTS, seed=3)
    generate(tmp_path / "other", COUNTS, seed=4)
    assert content(tmp_path / "again") == content(demo)
    digests = {Manifest.load(folder / "val").digest for folder in (demo, tmp_path / "other")}
    assert len(digests) == 2


def test_a_complete_set_is_not_made_again(demo, capsys):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    arguments = [str(demo), "--train", "20", "--val", "12", "--seed", "3"]
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before
    assert "complete already" in capsys.readouterr().out


def test_other_data_is_never_overwritten(demo, tmp_path):
    before = content(demo)
    with pytest.raises(ValueError, match="'seed': 3.*'seed': 5.*choose another folder"):
        generate(demo, COUNTS, seed=5)
    assert content(demo) == before

    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="not a demo set"):
        generate(tmp_path, COUNTS, seed=3)
    assert content(tmp_path) == {"val/photo.jpg": b"precious"}


def test_an_interrupted_split_is_absent_and_then_made(demo, tmp_path, monkeypatch):
    def stop(done: int):
        if done == COUNTS["train"] + 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, COUNTS, 3, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]

    drawn = []
    assert generate(tmp_path, COUNTS, 3, drawn.append)
    assert len(drawn) == COUNTS["val"], "the finished split was made again"
    assert content(tmp_path) == content(demo)


def test_errors_are_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "set"), "--train", "3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 3 images for train are too few")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    def full(*_: object):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_shard", full)
    assert main([str(tmp_path / "set"), "--train", "9", "--val", "9"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "set").iterdir())


def test_shards_hold_the_planted_images_as_jpeg(demo):
    planted = json.loads((demo / "val" / PLANTED).read_text())
    assert Manifest.load(demo / "val").class_names == CLASS_NAMES
    found = images(demo / "val")
    assert len(found) == len(planted["images"]) == COUNTS["val"]
    for key, (data, name) in found.items():
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert image.size == (planted["image_size"],) * 2
        assert CLASS_NAMES[planted["images"][key]["label"]].replace(" ", "-") == name


def test_the_data_module_shows_the_network_the_pixels_as_they_are(demo):
    size = json.loads((demo / "val" / PLANTED).read_text())["image_size"]
    data = ImageNetDataModule(
        str(demo), batch_size=12, workers=0, image_size=size, resize_size=size
    )
    batch, labels, _ = next(iter(data.val_dataloader()))
    assert labels.tolist() == Manifest.load(demo / "val").samples["label"].tolist()
    for shown, (jpeg, _) in zip(batch, images(demo / "val").values(), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(jpeg)))
        # Decoders may round differently, and a box must not be off by one.
        assert np.abs(shown.permute(1, 2, 0).numpy().astype(int) - pixels).max() <= 4


def test_both_splits_have_all_classes_and_no_picture_in_common(demo):
    found = [image for split in COUNTS for image in images(demo / split).values()]
    assert len({data for data, _ in found}) == sum(COUNTS.values())
    for split in COUNTS:
        assert len({name for _, name in images(demo / split).values()}) == len(CLASS_NAMES)


def test_a_texture_is_smaller_than_a_patch_and_alone_gives_the_class(
    drawings,
):
    palette = np.array(tuple(COLOURS.values()), dtype=float)
    for image, truth in drawings:
        assert len(truth["textures"]) >= 2
        for top, left, bottom, right in truth["textures"]:
            assert 0 <= top < bottom <= len(image)
            assert 0 <= left < right <= len(image)
            assert bottom - top == right - left < PATCH
            # No other class has these two colours, and its centre shows no third one.
            centre = image[top + 6 : bottom - 6, left + 6 : right - 6].reshape(-1, 1, 3)
            nearest = np.square(centre / 0.95 - palette).sum(axis=2).argmin(axis=1)
            counts = np.bincount(nearest, minlength=len(palette))
            seen = {list(COLOURS)[k] for k in np.argsort(counts)[-2:]}
            assert seen == set(CLASS_NAMES[truth["label"]].split()[0].split("-"))


def test_classes_differ_in_their_colours():
    pairs = {frozenset(name.split()[0].split("-")) for name in CLASS_NAMES}
    assert len(pairs) == len(CLASS_NAMES)
    for colour in COLOURS:  # so that one colour says little
        assert sum(colour in pair for pair in pairs) >= 2


def test_no_patch_sees_both_marks_of_a_distractor_and_nothing_overlaps(drawings):
    for image, truth in drawings:
        (_, left, bottom, right), other = sorted(truth["distractors"])
        gaps = (other[0] - bottom, max(other[1] - right, left - other[3]))
        # A window that reaches both must be longer than the gap, in the direction of either axis.
        assert max(gaps) >= PATCH
        covered = np.zeros(image.shape[:2], dtype=int)
        for top, left, bottom, right in truth["textures"] + truth["distractors"]:
            covered[top:bottom, left:right] += 1
        assert covered.max() == 1


def test_distractors_say_nothing_of_the_class(drawings):
    seen = {(truth["label"], truth["relation"]) for _, truth in drawings}
    assert len(seen) == len(CLASS_NAMES) * len(RELATIONS)
