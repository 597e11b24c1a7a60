"""A short training whose losses and weights are compared with those of others.

    python -m tests.soak.steps DATA OUT NAME

OUT/NAME-RANK.pt has the loss of each batch and the weights at the end.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.distributed.nn.functional import all_reduce

from bagnet.training.classifier import BagNetClassifier
from bagnet.training.command_line.trainer import prepare_devices
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.training.quiet import quiet_trainer

EPOCHS = 40
BATCH = 16
RATE = 0.1
"""The learning rate, for 256 images."""


@dataclass(frozen=True)
class Setting:
    """How a training differs from the plain one in float32.

    Args:
        precision: Lightning's name for it, or fp16: torch's autocast, as Lightning refuses
            16-mixed on a CPU.
        accumulate: Batches of an optimizer step, each of `BATCH / accumulate` images.
        ranks: Number of processes. Several share the statistics of BatchNorm.
        frozen: Whether BatchNorm's statistics stay as they are, those of the weights that fp32
            has trained, with which it begins.
        compiled: Whether the network is compiled, by torch's compiler without its code generator.
        scale: What the loss is multiplied by, for fp16.
        rate: The learning rate.
        alone: Whether several ranks keep their own statistics of BatchNorm.
        rounded: Whether it begins with weights that are rounded to bfloat16.
        epochs: How long it trains.
        steps: The most steps; -1 for all of the epochs.
    """

    precision: str = "32-true"
    accumulate: int = 1
    ranks: int = 1
    frozen: bool = False
    compiled: bool = False
    scale: float = 2.0**10
    rate: float = RATE
    alone: bool = False
    rounded: bool = False
    epochs: int = EPOCHS
    steps: int = -1


SETTINGS = {
    "fp32": Setting(),
    "rounded": Setting(rounded=True),
    "bf16": Setting("bf16-mixed"),
    "fp16": Setting("fp16"),
    "compiled": Setting(compiled=True, epochs=1),
    "whole": Setting("64-true", frozen=True, epochs=1),
    "accumulated": Setting("64-true", accumulate=4, frozen=True, epochs=1),
    "one": Setting("64-true", steps=3),
    "two": Setting("64-true", ranks=2, steps=3),
}
FAULTS = {
    "weights in bf16": Setting("bf16-true"),
    "gradients that underflow": Setting("fp16", scale=2.0**-20),
    "sums instead of means": Setting("64-true", accumulate=4, frozen=True, rate=4 * RATE, epochs=1),
    "ranks with statistics of their own": Setting("64-true", ranks=2, alone=True, steps=3),
}
"""Trainings that must not pass for another one."""


class Watch(Callback):
    """Keeps the losses; leaves BatchNorm's statistics alone if they are frozen."""

    def __init__(self, frozen: bool) -> None:
        self.frozen, self.losses = frozen, list[float]()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        for layer in pl_module.modules():
            if isinstance(layer, nn.BatchNorm2d) and self.frozen:
                layer.eval()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *arguments: Any
    ) -> None:
        self.losses.append(float(outputs["loss"]))


def train(data: Path, out: Path, name: str) -> int:
    torch.set_num_threads(1)
    setting = {**SETTINGS, **FAULTS}[name]
    config = {"accelerator": "cpu", "devices": setting.ranks, "num_nodes": 1, "benchmark": None}
    config |= {"accumulate_grad_batches": setting.accumulate, "deterministic": None}
    config |= {"precision": setting.precision, "strategy": "ddp" if setting.ranks > 1 else "auto"}
    options = {**config, **prepare_devices(config)}
    if setting.precision == "fp16":
        scaler = torch.amp.GradScaler("cpu", init_scale=setting.scale)
        options["plugins"].append(MixedPrecision("16-mixed", "cpu", scaler))
        options["precision"] = None
    if setting.ranks > 1 and not setting.alone:
        nn.BatchNorm2d.forward = synchronized
    if setting.compiled:
        _compile_without_code()
    watch = Watch(setting.frozen)
    trainer = quiet_trainer(
        **options,
        callbacks=[watch],
        max_epochs=setting.epochs,
        max_steps=setting.steps,
        use_distributed_sampler=False,
        limit_val_batches=0,
        log_every_n_steps=1000,
    )
    images = ImageNetDataModule(
        str(data),
        batch_size=BATCH // setting.accumulate,
        workers=0,
        image_size=32,
        resize_size=32,
        min_scale=0.5,
    )
    torch.manual_seed(0)
    module = BagNetClassifier(
        "bagnet9",
        num_classes=9,
        width=16,
        learning_rate=setting.rate,
        schedule="constant",
        compile=setting.compiled,
    )
    if setting.frozen:
        module.load_state_dict(torch.load(out / "fp32-0.pt")["weights"])
    if setting.rounded:
        module.to(torch.bfloat16).float()
    trainer.fit(module, datamodule=images)
    content = {"losses": torch.tensor(watch.losses), "weights": dict(module.state_dict())}
    torch.save(content, out / f"{name}-{trainer.global_rank}.pt")
    return 0


def synchronized(layer: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """What SyncBatchNorm does, which torch refuses on CPUs: the sums are those of all ranks."""
    assert layer.training
    ones = torch.full_like(x[0, :, 0, 0], x.numel() / x.shape[1])
    sums = torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), ones])
    total, squares, counts = all_reduce(sums)
    mean = total / counts
    variance = squares / counts - mean.square()
    with torch.no_grad():
        layer.num_batches_tracked += 1
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance * counts / (counts - 1), layer.momentum)
    scale = layer.weight * (variance + layer.eps).rsqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]


def _compile_without_code() -> None:
    """Without the code generator, which needs minutes on a CPU."""
    compile_ = torch.compile
    torch.compile = lambda function, mode, **options: compile_(  # type: ignore[assignment]
        function, backend="aot_eager", **options
    )


if __name__ == "__main__":
    sys.exit(train(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
