"""Measuring image by image: what is in the rows, resuming, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bagnet.experiments.measuring import measure as measuring
from bagnet.experiments.measuring import models
from bagnet.experiments.measuring.models import ModelFile
from bagnet.model.registry import normalize
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule
from datamodules.shards.manifest import Manifest
from tests.bagnet.experiments.conftest import CLASSES, save_network
from tests.bagnet.experiments.noted import NOTES, measure, notes, same


def test_each_image_has_its_row_with_what_its_network_says(command, shards, networks):
    tables = measure(command)
    assert list(tables) == ["bagnet9", "mine"]
    data = ImageNetDataModule(str(shards), batch_size=53, workers=0, image_size=33, resize_size=36)
    (images, labels, ids) = next(iter(data.val_dataloader()))
    for label, patch in (("bagnet9", 9), ("mine", 17)):
        table = tables[label]
        assert table["sample_id"].to_pylist() == ids.tolist() == list(range(53))
        assert table["label"].to_pylist() == labels.tolist()
        with torch.no_grad():
            logits = load_model(networks / f"{patch}.ckpt")(normalize(images))
        np.testing.assert_allclose(table["logits"].to_pylist(), logits, atol=1e-5)
        brightness = images.double().mean((1, 2, 3)).tolist()
        assert table["brightness"].to_pylist() == pytest.approx(brightness)


def test_the_record_says_what_was_measured(command, networks, shards):
    record = measuring.record_of(measure(command)["bagnet9"].schema)
    assert record["data"] == Manifest.load(shards / "val").digest
    assert record["weights"] == measuring.sha256_of(networks / "9.ckpt")
    assert "Noted(" in record["measurement"]
    assert (record["image_size"], record["resize_size"], record["images"]) == (33, 36, 53)
    assert record["class_names"] == [f"class{n}" for n in range(CLASSES)]


def test_what_is_there_is_not_measured_again_and_is_read_without_a_model(
    command, tmp_path, monkeypatch
):
    first = measure(command)
    measured = notes(tmp_path)
    (tmp_path / "out" / "noted" / ".mine.1.tmp.parquet").write_bytes(b"")  # left by a kill
    monkeypatch.setattr(models, "load_model", None)  # would fail if it were touched
    assert same(measure(command), first)
    assert same(measure(["--out", str(tmp_path / "out")]), first)
    assert notes(tmp_path) == measured
    names = {file.name for file in (tmp_path / "out" / "noted").glob("[!.]*")}
    assert names == {"bagnet9.parquet", "mine.parquet"}


def test_a_network_can_be_added_later(command, tmp_path):
    both = measure(command)
    apart = [*command[:1], *command[2:], "--out", str(tmp_path / "apart")]
    assert list(measure(apart)) == ["mine"]
    assert same(measure([*command[:2], *command[3:], "--out", str(tmp_path / "apart")]), both)


def test_the_order_is_that_of_the_models_then_by_number(command, networks):
    weights = networks / "9.ckpt"
    labels = ["net10", "net9", "bagnet9", "a"]
    tables = measure([*command, "--models", *(f"{label}={weights}" for label in labels)])
    assert list(tables) == ["bagnet9", "a", "net9", "net10"]


def test_a_limit_takes_images_from_the_whole_split(command):
    ids = measure(command, "--limit", "5")["mine"]["sample_id"].to_pylist()
    assert ids == [0, 10, 21, 31, 42]


def test_a_stopped_run_resumes_with_the_parts_that_are_left(command, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART", 10)
    expected = measure(command)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / NOTES).unlink()

    def stop(seconds):
        if len(notes(tmp_path)) == 10:  # the second batch of the third part
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tests.bagnet.experiments.noted.time.sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            measure(command)
    parts = tmp_path / "out" / "noted" / "parts"
    assert [path.stem for path in sorted(parts.glob("*/part-*"))] == ["part-00000", "part-00001"]
    (tmp_path / NOTES).unlink()
    assert same(measure(command), expected)
    # A part of 10 images has 4 batches (1, 4, 4, 1), the last part of 3 has 2: 22 for each model.
    assert len(notes(tmp_path)) == 22 - 8 + 22
    assert not parts.exists()


@pytest.mark.parametrize(("images", "size"), [(50_000, 512), (10_000, 313), (2_000, 64), (7, 64)])
def test_parts_are_large_and_yet_many(images, size):
    assert measuring.part_size(images) == size


def damaged(shards: Path, folder: Path, ids: list[int]) -> Path:
    """A copy of the data with wrong bytes in some validation images."""
    shutil.copytree(shards, folder)
    manifest = Manifest.load(folder / "val")
    for sample_id in ids:
        sample = manifest.sample(sample_id)
        with open(manifest.location(sample.shard), "r+b") as file:
            file.seek(sample.offset + 100)
            file.write(b"\0" * 50)
    return folder


def test_unreadable_images_are_left_out_and_counted(command, shards, tmp_path, capsys):
    whole = measure(command)
    broken = damaged(shards, tmp_path / "broken", [3, 30])
    rest = measure([*command, "--out", str(tmp_path / "o"), "--data.root", str(broken)])
    assert "mine: 2 images could not be read" in capsys.readouterr().out
    keep = [i for i in range(53) if i not in (3, 30)]
    assert rest["mine"]["sample_id"].to_pylist() == keep
    expected = whole["mine"].take(keep)["logits"].to_pylist()
    np.testing.assert_allclose(rest["mine"]["logits"].to_pylist(), expected, atol=1e-5)


def test_a_part_without_a_readable_image_does_not_hurt(command, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART", 10)
    broken = damaged(shards, tmp_path / "broken", list(range(10)))
    tables = measure([*command, "--data.root", str(broken)])
    assert tables["mine"]["sample_id"].to_pylist() == list(range(10, 53))
    assert not tables["mine"]["brightness"].null_count


def refused(command: list[str], *more: str) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011  the tests look at the words
        measure(command, *more)
    return str(error.value)


def test_results_of_something_else_are_not_mixed_with(command, tmp_path, networks):
    measure(command)
    message = refused(command, "--data.image_size", "32")
    assert "there, image_size is 33, and here it is 32" in message
    assert "another --out" in message
    save_network(tmp_path / "other.ckpt", 17)
    assert "there, weights is" in refused(command, "--models", f"mine={tmp_path / 'other.ckpt'}")
    # Nor may networks be compared that were measured differently; it says so before it measures.
    measured = notes(tmp_path)
    other = [*command, "--models", f"third={networks / '9.ckpt'}", "--limit", "7"]
    assert "images is 53 for bagnet9 and 7 for third" in refused(other)
    assert notes(tmp_path) == measured


def test_weights_that_do_not_fit_are_named_before_anything_is_measured(command, tmp_path):
    save_network(tmp_path / "five.ckpt", classes=5)
    message = refused(command, "--models", command[1], f"five={tmp_path / 'five.ckpt'}")
    assert "five" in message
    assert "6 classes here, 5 in " in message
    network = command[2].removeprefix("mine=")
    message = refused(command, "--models", command[1], f"bagnet33={network}")
    assert "does not fit bagnet33" in message
    assert notes(tmp_path) == []


def test_a_damaged_file_is_named(command, tmp_path):
    measure(command)
    file = tmp_path / "out" / "noted" / "mine.parquet"
    file.write_bytes(file.read_bytes()[:100])
    assert "mine.parquet is damaged" in refused(command)
    pq.write_table(pa.table({"a": [1]}), file)
    assert "was not written by an experiment" in refused(["--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gpus", "99"], "--gpus 99: this machine has"),
        (["--models", "a=x.ckpt", "a=y.ckpt"], "has a label twice"),
        (
            ["--models", "a=nowhere.ckpt"],
            "a=nowhere.ckpt: there is neither a file nowhere.ckpt nor",
        ),
        (["--data.root", "nowhere"], "nowhere does not exist"),
    ],
)
def test_wrong_options_are_refused(command, more, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x.ckpt", "y.ckpt"):
        Path(name).touch()
    assert message in refused(command, *more)


def test_without_data_or_results_it_says_what_is_needed(command, tmp_path):
    assert "add --data.root" in refused([*command[:3], "--out", str(tmp_path)])
    assert "measure first (--models" in refused(["--out", str(tmp_path)])


@pytest.mark.parametrize("text", ["", "=file", "a/b=file", "bagnet9="])
def test_a_model_is_given_as_label_and_file(text):
    with pytest.raises(ValueError, match="is not LABEL=FILE"):
        ModelFile.parse(text)


def test_a_run_can_be_measured_by_its_name_with_the_sizes_and_classes_of_its_training(
    command, networks, shards, tmp_path, monkeypatch
):
    for name, size in (("small", 32), ("large", 36)):
        checkpoints = tmp_path / "runs" / name / "checkpoints"
        checkpoints.mkdir(parents=True)
        content = torch.load(networks / "9.ckpt", weights_only=True)
        ids = tuple(f"class{n}" for n in range(CLASSES))
        card = {"name": "bagnet9", "classes": ids, "image_size": size, "resize_size": 40}
        torch.save({**content, "card": card}, checkpoints / "best.ckpt")
    monkeypatch.setenv("BAGNET_RUNS", str(tmp_path / "runs"))
    place = command.index("--data.image_size")
    words = [*command[:place], *command[place + 4 :]]  # without sizes
    start = words.index("--models")
    words[start : start + 3] = ["--models", "small", f"again={tmp_path / 'runs' / 'small'}"]
    tables = measure(words, "--limit", "5")
    assert list(tables) == ["again", "small"]
    record = measuring.record_of(tables["small"].schema)
    assert (record["image_size"], record["resize_size"]) == (32, 40)
    turned = tmp_path / "turned"
    shutil.copytree(shards, turned)
    header = json.loads((turned / "val" / "manifest.json").read_text())
    elsewhere = [*words, "--limit", "5", "--data.root", str(turned)]
    header["classes"].reverse()
    (turned / "val" / "manifest.json").write_text(json.dumps(header))
    with pytest.warns(UserWarning, match=r"best.ckpt numbers the classes in another order"):
        others = measure([*elsewhere, "--out", str(tmp_path / "turned-out")])
    assert measuring.record_of(others["small"].schema)["classes"] == header["classes"]
    logits = [np.array(each["small"]["logits"].to_pylist()) for each in (tables, others)]
    np.testing.assert_allclose(logits[0], logits[1][:, ::-1], rtol=1e-5)
    header["classes"][0] = "another"
    (turned / "val" / "manifest.json").write_text(json.dumps(header))
    message = refused([*elsewhere, "--out", str(tmp_path / "other")])
    assert "small: other classes here than in" in message
    assert "best.ckpt, which does not know 'another'; give the weights" in message
    words[start + 1] = "large"
    assert "large/checkpoints/best.ckpt was trained for images of 36 px" in refused(words)
    words[start + 1] = str(networks / "9.ckpt")
    assert "has no label: give LABEL=FILE" in refused(words)
