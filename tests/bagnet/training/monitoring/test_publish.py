"""Loggers are added to the table and to W&B, and get the pictures that they can show."""

from __future__ import annotations

import io
import re
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.loggers import (
    CometLogger,
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
)
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from bagnet.training.command_line.command import main
from bagnet.training.monitoring.publish import publish
from tests.test_project import accepted
from tests.trainings import REPOSITORY, table, train

FLAGS = ["--name", "x", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "2"]
TENSORBOARD = [
    *("--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "runs"),
    *("--trainer.logger.name", "x", "--trainer.logger.version", "tensorboard"),
]
PICTURES = ["--evidence_images", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_tensorboard_is_beside_the_table_and_wandb_over_all_starts(shards, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = [*FLAGS, *TENSORBOARD, *PICTURES]
    assert train(shards, *flags) == 0
    assert train(shards, *flags, "--trainer.max_epochs", "2", "--ckpt_path", "auto") == 0
    said = capsys.readouterr().out

    events = EventAccumulator("runs/x/tensorboard", {IMAGES: 0}).Reload()
    rows = table("x")
    for name in ("train/loss_step", "val/top1"):
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [
            (int(row["step"]), pytest.approx(float(row[name]))) for row in rows if row[name]
        ]
        assert logged == expected
    for name in ("evidence", "confusion"):
        first, last = events.Images(f"val/{name}")
        assert (first.step, last.step) == (5, 11)
        with Image.open(io.BytesIO(last.encoded_image_string)) as shown:
            picture = np.asarray(shown.convert("RGB"))
        with Image.open(f"runs/x/{name}.png") as kept:
            assert np.array_equal(picture, np.asarray(kept.convert("RGB")))
    (run_id,) = {file.name for file in Path("runs/x/wandb").glob("offline-run-*/*.wandb")}
    assert run_id.startswith("run-x-")

    places = dict(re.findall(r"^(\w+) +(runs/x\S+)", said, re.MULTILINE))
    assert {*places} == {"checkpoints", "metrics", "evidence", "confusion", "TensorBoard"}
    assert all(Path(place).exists() for place in places.values())
    assert {path.name for path in Path("runs/x").iterdir()} == {
        *("config.yaml", "metrics.csv", "checkpoints", "starts.jsonl", "evidence.png"),
        *("confusion.png", "tensorboard", "wandb", "wandb-id.txt", "wandb-finished.txt"),
    }
    assert list(Path().rglob("*.ckpt")) == list(Path("runs/x/checkpoints").glob("*.ckpt"))


def test_the_page_shows_the_flags_that_are_tested(capsys):
    page = (REPOSITORY / "docs" / "wandb.md").read_text().replace("\\\n", "")
    (flags,) = re.findall(r"^python train.py (.* TensorBoardLogger .*)$", page, re.MULTILINE)
    assert [word.replace("bagnet33", "x") for word in flags.split()[4:]] == TENSORBOARD
    accepted(flags.split(), capsys)


def test_a_run_with_another_logger_is_validated_without_its_package(shards, capsys, monkeypatch):
    assert train(shards, *FLAGS, *TENSORBOARD) == 0
    config = yaml.safe_load(Path("runs/x/config.yaml").read_text())
    assert config["trainer"]["logger"]["init_args"]["version"] == "tensorboard"
    made = []
    make = wraps(TensorBoardLogger.__init__)(lambda *words, **options: made.append(options))
    monkeypatch.setattr(TensorBoardLogger, "__init__", make)
    before = sorted(Path().rglob("*"))
    assert main(["validate", "--name", "x"]) == 0
    assert "validation   top-1" in capsys.readouterr().out
    assert sorted(Path().rglob("*")) == before
    assert not made


def test_false_leaves_wandb_out_only(shards, capsys):
    assert train(shards, *FLAGS, "--trainer.logger", "false") == 0
    assert Path("runs/x/config.yaml").exists()
    assert table("x")[-1]["val/top1"]
    assert not list(Path().rglob("wandb*"))
    assert "W&B" not in capsys.readouterr().out


def test_several_loggers_may_come_from_a_config(shards, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers = [
        {"class_path": "CSVLogger", "init_args": {"save_dir": name}} for name in ("one", "two")
    ]
    Path("two.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    assert train(shards, *FLAGS, "--config", "two.yaml") == 0
    for name in ("one", "two"):
        (theirs,) = Path(name).rglob("metrics.csv")
        assert "val/top1" in theirs.read_text()
    assert table("x")[-1]["val/top1"]
    assert list(Path("runs/x/wandb").glob("offline-run-*/*.wandb"))


def test_a_wandb_logger_of_the_users_takes_the_place_of_ours(shards):
    words = [
        "WandbLogger",
        "--trainer.logger.save_dir",
        "theirs",
        "--trainer.logger.offline",
        "true",
    ]
    assert train(shards, *FLAGS, *PICTURES, "--trainer.logger", *words) == 0
    (file,) = Path().rglob("*.wandb")
    assert file.is_relative_to("theirs")
    assert {path.stem.split("_")[0] for path in Path("theirs").rglob("media/images/val/*.png")} == {
        "evidence",
        "confusion",
    }


class Refusing(Logger):
    """Cannot be made, as MLflow's with an address that it does not take."""

    name = version = "refusing"

    def __init__(self) -> None:
        raise ValueError("nobody keeps files here any more.\nSee the manual")

    def log_hyperparams(self) -> None:
        raise NotImplementedError

    def log_metrics(self) -> None:
        raise NotImplementedError


def test_a_logger_that_cannot_be_made_says_why_in_one_line(shards, capsys):
    name = f"{Refusing.__module__}.Refusing"
    assert train(shards, *FLAGS, "--trainer.logger", name) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == f"error: {name}: nobody keeps files here any more."
    assert not Path("runs").exists()


class Strict(CSVLogger):
    """Takes no settings, as MLflow takes no others for a run that it has."""

    def log_hyperparams(self, params=None) -> None:
        raise RuntimeError("Changing values\nis not allowed")


def test_a_logger_that_does_not_take_the_settings_gets_the_figures(shards, capsys):
    name = f"{Strict.__module__}.Strict"
    words = ["--trainer.logger", name, "--trainer.logger.save_dir", "theirs"]
    assert train(shards, *FLAGS, *words) == 0
    line = "Strict does not take the settings (Changing values is not allowed); they are in "
    assert f"{line}runs/x/config.yaml" in capsys.readouterr().out
    (theirs,) = Path("theirs").rglob("metrics.csv")
    assert "val/top1" in theirs.read_text()


class Experiment:
    """Notes what a client of MLflow or Comet is asked to show."""

    def __init__(self) -> None:
        self.shown: list[tuple[tuple, dict]] = []

    def log_image(self, *words, **options) -> None:
        self.shown.append((words, options))


@pytest.mark.parametrize("kind", [MLFlowLogger, CometLogger])
def test_mlflow_and_comet_get_pictures(kind, monkeypatch):
    """Their packages are not installed; the calls are those of their documentation."""
    experiment = Experiment()
    monkeypatch.setattr(kind, "experiment", experiment)
    monkeypatch.setattr(MLFlowLogger, "run_id", "7")
    theirs = kind.__new__(kind)
    trainer = SimpleNamespace(loggers=[CSVLogger("csv"), theirs], global_step=12)
    publish(Figure(figsize=(1, 1)), Path("a.png"), "val/evidence", trainer)
    ((words, options),) = experiment.shown
    *run, image = words
    assert image.shape[2] == 3
    assert image.dtype == np.uint8
    assert (run, options) == (
        (["7"], {"key": "val/evidence", "step": 11})
        if kind is MLFlowLogger
        else ([], {"name": "val/evidence", "step": 11})
    )
