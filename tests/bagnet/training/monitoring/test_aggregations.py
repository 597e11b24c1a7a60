"""Aggregations are computed from the forward pass of an ordinary validation."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from bagnet.evidence import aggregation
from bagnet.evidence.maps import evidence_map
from bagnet.model.registry import normalize
from bagnet.training.classifier import BagNetClassifier
from bagnet.training.monitoring.aggregations import Aggregations
from tests.bagnet.training.quiet import quiet_trainer

LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, -1, 3, 2, 1])


def validate(module: BagNetClassifier, images: torch.Tensor, *names: str):
    batches = list(zip(images.split(5), LABELS.split(5), torch.arange(12).split(5), strict=True))
    callback = Aggregations(names)
    trainer = quiet_trainer(callbacks=[callback])
    (figures,) = trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)
    return callback.figures, figures


def test_each_aggregation_has_its_accuracy_from_one_forward_pass():
    torch.manual_seed(0)
    module = BagNetClassifier("bagnet9", num_classes=8, width=4)
    images = torch.randint(0, 256, (12, 3, 24, 24), dtype=torch.uint8)
    calls = []
    module.model.conv1.register_forward_hook(lambda *_: calls.append(1))
    found, figures = validate(module, images, "mean", "median", "clamp:0.02", "masked:2")
    assert len(calls) == 3  # batches
    assert found["mean"] == {name: value for name, value in figures.items() if name != "val/loss"}
    evidence = evidence_map(module.model, normalize(images))
    readable = LABELS >= 0
    for name in ("median", "clamp:0.02", "masked:2"):
        logits = aggregation.parse(name)(evidence)[readable]
        best = logits.argsort(dim=1, descending=True, stable=True)[:, :5]
        hits = best == LABELS[readable, None]
        expected = hits[:, 0].double().mean().item(), hits.any(1).double().mean().item()
        assert [found[name][f"val/{top}"] for top in ("top1", "top5")] == pytest.approx(expected)
    assert not module.model.layer4._forward_hooks


def test_other_networks_are_refused():
    module = BagNetClassifier("resnet50", num_classes=8, width=4)
    with pytest.raises(ValueError, match="not a BagNet"):
        validate(module, torch.zeros(12, 3, 32, 32, dtype=torch.uint8), "median")


@pytest.mark.parametrize("text", ["mode", "clamp", "clamp:x", "mean:3", "masked:1.5"])
def test_an_unknown_aggregation_is_an_error_that_lists_the_known(text):
    with pytest.raises(ValueError, match=f"no aggregation '{text}': choose from mean, median"):
        Aggregations([text])
