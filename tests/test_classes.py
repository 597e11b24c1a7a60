"""Weights meet data of other classes, or of the same in another order, in whole commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bagnet.training.command_line.command import main
from tests.trainings import REPOSITORY, TINY, spawn, train

ONE = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def changed(shards: Path, name: str, change) -> Path:
    """A copy of the data with other lists of classes."""
    shutil.copytree(shards, name)
    for file in Path(name).glob("*/manifest.json"):
        header = json.loads(file.read_text())
        for key in ("classes", "class_names"):
            header[key] = change(header[key])
        file.write_text(json.dumps(header))
    return Path(name)


def weights(run: str) -> dict[str, torch.Tensor]:
    return torch.load(f"runs/{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_fine_tuning_on_other_classes_starts_with_a_fresh_classifier(shards, capsys):
    assert train(shards, "--name", "old", *ONE) == 0
    other = changed(shards, "other", lambda names: [*names, "more"])
    file = "runs/old/checkpoints/best.ckpt"
    still = ("--model.learning_rate", "0", "--model.weights", file, "--name", "new")
    capsys.readouterr()
    assert train(other, *ONE, *still) == 0
    assert (
        f"note: 7 classes here, 6 in {file}: its classifier starts afresh"
        in capsys.readouterr().out
    )
    old, new = weights("old"), weights("new")
    kept = [name for name in old if name.startswith("model.") and "bn" not in name]
    kept = [name for name in kept if ".fc." not in name and "downsample.1" not in name]
    assert kept
    assert all(torch.equal(new[name], old[name]) for name in kept)
    assert main(["validate", "--name", "old", "--data.root", str(other)]) == 2
    assert "there is nothing to evaluate; give the data" in capsys.readouterr().err
    # A run is resumed and validated from its own checkpoints.
    shutil.rmtree("runs/old")
    more = ("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2")
    assert train(other, *more, *still, "--resume", "auto") == 0
    assert "starts afresh" not in capsys.readouterr().out
    assert main(["validate", "--name", "new"]) == 0
    assert f"weights: {file}" in Path("runs/new/config.yaml").read_text()


def test_classes_in_another_order_are_put_right_or_refused(shards, capsys):
    assert train(shards, "--name", "a", *ONE) == 0
    turned = changed(shards, "turned", lambda names: names[::-1])
    capsys.readouterr()
    assert main(["validate", "--name", "a", "--data.root", str(turned)]) == 0
    assert "best.ckpt numbers the classes in another order; its" in capsys.readouterr().out
    more = ("--name", "a", "--resume", "auto", "--trainer.max_epochs", "2")
    assert train(turned, *more) == 2
    assert "cannot resume" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_named_like_published_weights_is_a_warning_of_one_line(shards):
    """In real processes, which import Lightning, after which warnings have their place in it."""
    data = ("--data.root", str(shards))
    assert spawn(*TINY, *ONE, *data).returncode == 0  # its name is bagnet9
    file = Path("runs/bagnet9/checkpoints/best.ckpt")
    warning = f"warning: bagnet9 is {file} here; for the published weights, give http"
    tuned = spawn(*TINY, *ONE, *data, "--name", "tuned", "--model.weights", "bagnet9")
    images = Path("images")
    images.mkdir()
    Image.new("RGB", (32, 32)).save(images / "0.png")
    report = ("-m", "bagnet.evidence", "report", "images", "--checkpoint", "bagnet9")
    shown = subprocess.run(
        [sys.executable, *report, "--data.resize_size", "32", "--data.image_size", "32"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    for ended in (tuned, shown):
        assert ended.returncode == 0, ended.stderr
        (line,) = (line for line in ended.stderr.splitlines() if "published" in line)
        assert line.startswith(warning)
        assert "warnings.warn" not in ended.stderr
        assert "UserWarning" not in ended.stderr
