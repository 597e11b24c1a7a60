"""Every recipe trains, and W&B's sweep is one of settings that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from bagnet.training.command_line.command import main
from tests.test_project import CONFIGS, SWEEP, accepted

SMALL = [
    *("--model.width", "2", "--data.batch_size", "4", "--data.workers", "0"),
    *("--data.image_size", "41", "--data.resize_size", "48", "--evidence_images", "0"),
    *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_trains(config, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--config", str(config), *SMALL, "--data.root", str(shards)]
    if yaml.safe_load(config.read_text())["data"].get("train_sizes"):
        words += ["--data.train_sizes", "{0: 41, 1: 48}"]
    assert main(words) == 0
    last = Path("runs", config.stem, "checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_opens_with_its_command_and_what_is_known_of_it(config):
    head = config.read_text().split("trainer:")[0]
    assert f"python train.py --config configs/{config.name}" in head or "make demo" in head
    if config.stem not in ("debug", "demo", "finetune"):
        assert "Measured: " in head or "Not trained by this project" in head


def test_the_sweep_sets_settings_that_exist(capsys):
    sweep = yaml.safe_load(SWEEP.read_text())
    words = ["--config", str(SWEEP.parent / "fast.yaml")]
    for name, values in sweep["parameters"].items():
        words += [f"--{name}", str(values.get("min", values.get("values", [None])[0]))]
    resolved = yaml.safe_load(accepted(words, capsys))
    assert resolved["model"]["learning_rate"] == 0.003
    assert sweep["metric"]["name"] == "val/top1"
