"""The moving average of the weights: its value, and who sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from bagnet.model.weights import load_model
from bagnet.run.folder import Run
from bagnet.training.classifier import BagNetClassifier
from bagnet.training.recipe.averaging import EMA
from tests.bagnet.run.fitting import fit

DECAY = 0.75


class Weights(Callback):
    """Notes the network's state after each step, and in each validation."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        self.steps += [state(pl_module)] * (trainer.global_step > len(self.steps))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        self.validated.append(state(pl_module))


def state(module: LightningModule) -> dict[str, torch.Tensor]:
    return floats(module.model.state_dict())


def floats(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without BatchNorm's counts of batches."""
    return {name: value.clone() for name, value in weights.items() if value.is_floating_point()}


def averages(steps: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """The definition: the weights after the first step, then a step towards each further ones."""
    average = steps[0]
    result = [average]
    for weights in steps[1:]:
        average = {
            name: DECAY * average[name] + (1 - DECAY) * value for name, value in weights.items()
        }
        result.append(average)
    return result


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_average_is_validated_and_saved_and_the_training_continues_from_the_weights(
    run, accumulated
):
    averaged, plain = Weights(), Weights()
    options = {"limit_val_batches": 1, "accumulate_grad_batches": accumulated, "max_epochs": 2}
    fit(run, 60.0, averaged, EMA(DECAY), **options)
    fit(Run("plain"), 60.0, plain, **options)
    for one, other in zip(averaged.steps, plain.steps, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    expected = averages(plain.steps)
    per_epoch = len(expected) // 2
    torch.testing.assert_close(averaged.validated, [expected[per_epoch - 1], expected[-1]])
    torch.testing.assert_close(floats(load_model(run.last).state_dict()), expected[-1])


def test_the_metrics_of_a_validation_are_not_averaged(run):
    """Their constants are buffers, and the largest one would not survive."""
    found = []

    class Figures(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            found.append(float(trainer.callback_metrics["val/top1"]))

    fit(run, 60.0, EMA(0.999), Figures(), limit_val_batches=3)
    assert len(found) == 2
    assert all(round(12 * top1, 9) in range(13) for top1 in found), found  # of twelve images


def test_a_resumed_run_averages_to_the_same_bits(run):
    options = {"limit_val_batches": 1, "accumulate_grad_batches": 2}
    whole = Run("whole")
    fit(whole, 60.0, EMA(DECAY), **options)
    fit(run, 60.0, EMA(DECAY), max_steps=3, **options)
    fit(run, 60.0, EMA(DECAY), resume=run.last, **options)
    one, other = (torch.load(path, weights_only=True) for path in (whole.last, run.last))
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_the_average_is_on_the_trainings_device_and_its_count_on_the_host():
    ema = EMA(DECAY)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    ema.setup(trainer, BagNetClassifier("bagnet9", num_classes=3, width=4), "fit")
    average = ema._average_model
    assert {weight.device.type for weight in average.parameters()} == {"meta"}
    assert dict(average.named_buffers())["n_averaged"].device.type == "cpu"
