"""Measuring image by image: what is in the rows, real processes, stops, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
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
from datamodules.common.commands import parse
from datamodules.imagenet import ImageNetDataModule
from datamodules.shards.manifest import Manifest
from tests.bagnet.experiments.conftest import CLASSES, save_network
from tests.bagnet.experiments.noted import COMMAND, NOTES, Noted, NotedOptions

SCRIPT = Path(__file__).parents[1] / "noted.py"


@pytest.fixture
def command(command: list[str], tmp_path: Path) -> list[str]:
    return [*command, "--notes", str(tmp_path)]


def parsed(command: list[str], *more: str) -> NotedOptions:
    return parse("noted", COMMAND, [*command, *more])


def measure(command: list[str], *more: str) -> dict[str, pa.Table]:
    options = parsed(command, *more)
    return measuring.measure("noted", Noted(options.notes), options)


def notes(tmp_path: Path) -> list[list[str]]:
    file = tmp_path / NOTES
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def start(command: list[str], *more: str) -> subprocess.Popen:
    arguments = [sys.executable, str(SCRIPT), "noted", *command, *more]
    root = str(Path(measuring.__file__).parents[3])
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As in a terminal: what a shell starts with & ignores Ctrl-C, and so would this.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": root},
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def same(a: dict[str, pa.Table], b: dict[str, pa.Table]) -> bool:
    return a.keys() == b.keys() and all(a[label].equals(b[label]) for label in a)


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
    record = measuring.record_of(measure(command)["bagnet9"])
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
    monkeypatch.setattr(models, "load_model", None)  # would fail if it were touched
    assert same(measure(command), first)
    assert same(measure(["--out", str(tmp_path / "out")]), first)
    assert notes(tmp_path) == measured
    assert sorted(file.name for file in (tmp_path / "out" / "noted").iterdir()) == [
        "bagnet9.parquet",
        "mine.parquet",
    ]


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


def test_two_processes_give_the_same_rows(command, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART", 10)
    alone = measure(command)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / NOTES).unlink()
    assert same(measure(command, "--processes", "2"), alone)
    assert len({pid for _, pid in notes(tmp_path)} - {str(os.getpid())}) == 2


def test_networks_of_one_part_each_are_shared_out_too(command, tmp_path):
    tables = measure(command, "--limit", "5", "--processes", "2")
    assert len(tables) == len({pid for _, pid in notes(tmp_path)}) == 2


def test_a_killed_run_goes_on_with_the_parts_that_are_left(command, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART", 10)
    expected = {label: table.to_pydict() for label, table in measure(command).items()}
    shutil.rmtree(tmp_path / "out")
    (tmp_path / NOTES).unlink()
    parts = tmp_path / "out" / "noted" / "parts" / "bagnet9"
    process = start(command, "--processes", "2", "--seconds", "0.2")
    wait_for(lambda: len(list(parts.glob("part-*"))) >= 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    gone = {int(pid) for _, pid in notes(tmp_path)}
    wait_for_end(gone)
    whole = list(parts.glob("part-*"))
    (tmp_path / NOTES).unlink()

    tables = measure(command)
    assert {label: table.to_pydict() for label, table in tables.items()} == expected
    # Of the first network only what was missing, of the second all: 4 + 4 + 2 images a part, 3 of the last.
    assert len(notes(tmp_path)) == 16 + 16 - 3 * len(whole)
    assert not parts.parent.exists()


def wait_for_end(pids: set[int]) -> None:
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_ends_all_processes_at_once_and_quietly(command, tmp_path):
    process = start(command, "--processes", "2", "--seconds", "0.5")
    wait_for(lambda: len({pid for _, pid in notes(tmp_path)}) == 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command resumes" in err
    wait_for_end({int(pid) for _, pid in notes(tmp_path)})


def test_a_process_that_dies_ends_the_run_with_one_message(command, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART", 10)

    def kill_one() -> None:
        while len({pid for _, pid in notes(tmp_path)}) < 2:
            time.sleep(0.02)
        os.kill(int(notes(tmp_path)[0][1]), signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    options = parsed(command, "--processes", "2")
    with pytest.raises(ValueError, match="a process has died.*the same command resumes"):
        measuring.measure("noted", Noted(str(tmp_path), seconds=0.5), options)
    killer.join(10)
    wait_for_end({int(pid) for _, pid in notes(tmp_path)})


@pytest.mark.parametrize(("images", "size"), [(50_000, 512), (10_000, 313), (2_000, 64), (7, 64)])
def test_parts_are_large_and_yet_many(images, size):
    assert measuring.part_size(images) == size


def test_what_a_process_finds_wrong_is_told_by_the_main_one(command, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        measure(command, "--notes", str(tmp_path / "nowhere"), "--processes", "2")


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
    np.testing.assert_allclose(
        rest["mine"]["logits"].to_pylist(),
        whole["mine"].take(keep)["logits"].to_pylist(),
        atol=1e-5,
    )


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
    assert "its image_size is 33, and this one's 32" in message
    assert "another --out" in message
    save_network(tmp_path / "other.ckpt", 17)
    assert "its weights is" in refused(command, "--models", f"mine={tmp_path / 'other.ckpt'}")
    # Nor may networks be compared that were measured differently; it says so before it measures.
    measured = notes(tmp_path)
    other = [*command, "--models", f"third={networks / '9.ckpt'}", "--limit", "7"]
    assert "images is 53 for bagnet9 and 7 for third" in refused(other)
    assert notes(tmp_path) == measured


def test_weights_that_do_not_fit_are_named_before_anything_is_measured(command, tmp_path):
    save_network(tmp_path / "five.ckpt", classes=5)
    message = refused(command, "--models", command[1], f"five={tmp_path / 'five.ckpt'}")
    assert "five" in message
    assert "has 5 classes and the data has 6" in message
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
        (["--models", "a=nowhere.ckpt"], "nowhere.ckpt for a does not exist"),
        (["--data.root", "nowhere"], "nowhere does not exist"),
    ],
)
def test_wrong_options_are_refused(command, more, message):
    assert message in refused(command, *more)


def test_without_data_or_results_it_says_what_is_needed(command, tmp_path):
    assert "add --data.root" in refused([*command[:3], "--out", str(tmp_path)])
    assert "measure first (--models" in refused(["--out", str(tmp_path)])


@pytest.mark.parametrize("text", ["bagnet9", "=file", "a/b=file", "bagnet9="])
def test_a_model_is_given_as_label_and_file(text):
    with pytest.raises(ValueError, match="is not LABEL=FILE"):
        ModelFile.parse(text)
