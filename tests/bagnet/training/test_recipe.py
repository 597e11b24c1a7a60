"""A whole recipe: it trains as it says, and a resumed run ends with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Trainer
from torchvision.transforms import v2

from bagnet.training.classifier import BagNetClassifier
from bagnet.training.command_line.command import main as train
from bagnet.training.monitoring.throughput import Throughput
from datamodules.audit.__main__ import main as audit
from tests.bagnet.training.recipe.test_batchnorm import require_precise
from tests.starts import end, kill_at, start

RECIPE = {
    "model": {
        "name": "bagnet9",
        "width": 4,
        "optimizer_args": {"nesterov": True},
        "schedule": "one-cycle",
        "warmup_epochs": 1,
        "floor": 0.01,
        "decay_norm": False,
        "label_smoothing": 0.1,
        "mixup": 0.2,
        "cutmix": 1.0,
        "ema": 0.9,
        "precise_bn": 2,
        "backbone_rate": 0.5,
        "freeze": 1,
        "test_flip": True,
        "activation_checkpointing": True,
    },
    "data": {
        "batch_size": 12,
        "image_size": 32,
        "resize_size": 36,
        "train_sizes": {0: 24, 1: 28, 2: 32},
        "augment": [
            {"class_path": "torchvision.transforms.v2.RandAugment", "init_args": {"magnitude": 6}},
            {"class_path": "torchvision.transforms.v2.RandomErasing"},
        ],
        "workers": 0,
    },
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 1.0,
        "enable_progress_bar": False,
    },
    "evidence_images": 0,
}
STEPS = 6  # of each epoch


@pytest.fixture
def flags(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    RECIPE["data"]["root"] = str(shards)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return ["--config", "recipe.yaml", "--resume", "auto"]


def saved(name: str) -> dict[str, Any]:
    return torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)


def require_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["global_step"] == other["global_step"] == 3 * STEPS
    for part in ("state_dict", "current_model_state", "averaging_state"):
        for name, tensor in one[part].items():
            assert torch.equal(tensor, other[part][name]), name


@pytest.mark.slow
def test_stopped_within_each_epoch_and_between_mixing_and_step_a_run_ends_with_the_same_bits(
    flags, monkeypatch
):
    assert train([*flags, "--name", "whole"]) == 0
    parts = [*flags, "--name", "parts", "--data.audit_dir", "audit"]
    for last in (2, 8, 15):

        def stops(
            callback: Throughput, trainer: Trainer, *arguments: Any, last: int = last
        ) -> None:
            trainer.should_stop |= trainer.global_step == last

        with monkeypatch.context() as patch:
            patch.setattr(Throughput, "on_train_batch_end", stops)
            assert train(parts) == 0
        assert saved("parts")["global_step"] == last
    real = BagNetClassifier.training_step

    def fails(module: BagNetClassifier, batch: Any, batch_idx: int) -> Any:
        loss = real(module, batch, batch_idx)  # the batch is mixed
        if module.global_step == 16:
            raise ValueError("the process dies here")
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(BagNetClassifier, "training_step", fails)
        with pytest.raises(ValueError, match="the process dies here"):
            train(parts)
    assert train(parts) == 0
    assert audit(["audit"]) == 0
    require_same(saved("whole"), saved("parts"))


@pytest.mark.slow
def test_killed_on_two_ranks_a_run_ends_with_the_same_bits(flags, shards, tmp_path):
    words = ["--config", str(tmp_path / "recipe.yaml"), "--trainer.max_epochs", "3"]
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    end(start(tmp_path / "whole", shards, 2, *words))
    kill_at(tmp_path / "parts", shards, 2, 9, *words)
    kill_at(tmp_path / "parts", shards, 2, 9, *words, "--resume", "auto")
    end(start(tmp_path / "parts", shards, 2, *words, "--resume", "auto"))
    one, other = (
        torch.load(tmp_path / name / "runs/x/checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "parts")
    )
    require_same(one, other)
    last = tmp_path / "whole/runs/x/checkpoints/last.ckpt"
    augment = [v2.RandAugment(magnitude=6), v2.RandomErasing()]
    require_precise(last, shards, epoch=2, ranks=2, augment=augment)
