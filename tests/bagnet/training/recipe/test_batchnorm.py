"""Statistics of BatchNorm that are computed anew: their values, and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from bagnet.model.weights import load_model
from bagnet.training.classifier import BagNetClassifier
from bagnet.training.forward import logits
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.loader import TrainLoader
from tests.bagnet.training.quiet import batches, quiet_trainer

BATCHES = 2
DATA: dict[str, Any] = {"batch_size": 12, "image_size": 32, "resize_size": 36, "workers": 0}


def require_precise(checkpoint: Path, shards: Path, *, epoch: int, ranks: int, **data: Any) -> None:
    """Compare the statistics in a checkpoint with the means over the batches of all ranks."""
    model = load_model(checkpoint)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    saved = [[layer.running_mean, layer.running_var] for layer in layers]
    seen: list[list[list[torch.Tensor]]] = [[[], []] for _ in layers]
    for rank in range(ranks):
        source = ImageNetDataModule(str(shards), **DATA, **data).batches("train")
        loader = TrainLoader(source, 12, rank=rank, world_size=ranks, accumulate=2)
        loader.sampler.set_epoch(epoch)
        for (images, *_), _ in zip(loader, range(BATCHES), strict=False):
            for layer in layers:
                layer.train()
                layer.momentum = 1.0  # the statistics of this batch alone
                layer.running_mean = torch.zeros(layer.num_features)
                layer.running_var = torch.zeros(layer.num_features)
            with torch.no_grad():
                logits(model, images, torch.contiguous_format)
            for of_layer, layer in zip(seen, layers, strict=True):
                of_layer[0].append(layer.running_mean)
                of_layer[1].append(layer.running_var)
    for one, other in zip(saved, seen, strict=True):
        torch.testing.assert_close(one, [torch.stack(values).mean(0) for values in other])


def train(shards: Path, folder: Path, **settings: Any) -> Path:
    torch.manual_seed(0)
    module = BagNetClassifier("bagnet9", num_classes=6, width=4, mixup=0.2, **settings)
    options = {"accumulate_grad_batches": 2, "num_sanity_val_steps": 1}
    trainer = quiet_trainer(max_epochs=2, **options)
    trainer.fit(module, datamodule=ImageNetDataModule(str(shards), **DATA))
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_statistics_are_those_of_the_validated_weights_over_the_epochs_first_batches(
    shards, tmp_path, ema
):
    require_precise(train(shards, tmp_path, precise_bn=BATCHES, ema=ema), shards, epoch=1, ranks=1)


def test_the_steps_do_not_depend_on_it(shards, tmp_path):
    plain, precise = (
        torch.load(train(shards, tmp_path, precise_bn=batches), weights_only=True)
        for batches in (0, BATCHES)
    )
    for name, weight in plain["state_dict"].items():
        is_statistic = name.rpartition(".")[2] in (
            "running_mean",
            "running_var",
            "num_batches_tracked",
        )
        assert is_statistic != torch.equal(weight, precise["state_dict"][name]), name
    one, other = (each["optimizer_states"][0]["state"] for each in (plain, precise))
    assert all(torch.equal(one[i]["momentum_buffer"], other[i]["momentum_buffer"]) for i in one)


def test_frozen_layers_keep_their_statistics(shards, tmp_path):
    plain, precise = (
        load_model(train(shards, tmp_path, precise_bn=batches, freeze=-1)).state_dict()
        for batches in (0, BATCHES)
    )
    for name in plain:
        assert name.startswith("fc") or torch.equal(plain[name], precise[name]), name


def test_other_loaders_are_refused_in_one_line():
    module = BagNetClassifier("bagnet9", num_classes=3, width=4, precise_bn=BATCHES)
    with pytest.raises(ValueError, match="leave it at 0"):
        quiet_trainer(max_epochs=1).fit(module, DataLoader(batches(4), batch_size=None))
