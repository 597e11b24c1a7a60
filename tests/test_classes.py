"""Weights meet data of other classes, or of the same in another order, in whole commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from bagnet.training.command_line.command import main
from tests.trainings import train

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
