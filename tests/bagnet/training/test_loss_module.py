"""The weights of the classes in the loss, and the penalty on the evidence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch.nn import functional as F
from torch.utils.data import DataLoader

from bagnet.model.registry import normalize
from bagnet.training.classifier import BagNetClassifier
from bagnet.training.forward import compiled
from bagnet.training.labels import class_weights
from bagnet.training.loss_module import strength
from datamodules.common.batch import UNREADABLE
from tests.bagnet.training.quiet import CLASSES, batches, classifier, loader, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
COUNTS = (5, 40, 1, 2, 7, 3, 12)


class Data(LightningDataModule):
    """A data module that knows how many images a class has."""

    def __init__(self, counts: tuple[int, ...] | None) -> None:
        super().__init__()
        if counts is not None:
            self.class_counts = counts

    def train_dataloader(self) -> DataLoader:
        return loader(8)


def fit(data: Data, **settings: object) -> BagNetClassifier:
    module = classifier(**settings)
    quiet_trainer(max_epochs=1).fit(module, datamodule=data)
    return module


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_all_classes_count_equally_in_the_loss(mixup):
    module = fit(Data(COUNTS), balanced=True, learning_rate=0.0, mixup=mixup)
    weight = torch.tensor([sum(COUNTS) / (CLASSES * count) for count in COUNTS])
    loss = module.train().training_step(batches(8)[0], 0)
    images, labels = module.mixed(*batches(8)[0][:2], 0)
    shares = labels if mixup else F.one_hot(labels, CLASSES)
    expected = -(shares * weight * module(images).log_softmax(1)).sum() / 8
    torch.testing.assert_close(loss, expected)
    assert "class_weights" not in "".join(module.state_dict())


def test_the_mean_weight_of_a_training_image_is_one():
    weights = class_weights(Data(COUNTS))
    per_class = [count * weight for count, weight in zip(COUNTS, weights, strict=True)]
    assert per_class == pytest.approx([sum(COUNTS) / CLASSES] * CLASSES)


def test_without_counts_the_classes_cannot_be_balanced():
    with pytest.raises(ValueError, match="^balanced needs a data module with class_counts"):
        fit(Data(None), balanced=True)
    with pytest.raises(ValueError, match="^balanced needs a data module with class_counts"):
        quiet_trainer(max_epochs=1).fit(classifier(balanced=True), loader(8))


def test_a_class_without_training_images_is_named():
    data = SimpleNamespace(class_counts=(3, 0), class_names=("healthy", "ill"))
    with pytest.raises(ValueError, match=r"^class 1 \(ill\) has no training images, so"):
        class_weights(data)


def test_the_penalty_is_the_mean_of_the_absolute_evidence_of_readable_images():
    images, labels, ids = batches(6)[0]
    labels[2] = UNREADABLE
    plain, sparse = (classifier(sparsity=factor).train() for factor in (0.0, 3.0))
    without, with_penalty = (
        module.training_step((images, labels, ids), 0).item() for module in (plain, sparse)
    )
    evidence = sparse.model.logits_map(normalize(images))[labels != UNREADABLE]
    assert with_penalty - without == pytest.approx(3 * evidence.abs().mean().item(), rel=1e-4)
    # The accuracy and the loss in the table are those of the same logits.
    torch.testing.assert_close(plain.train_metrics.totals, sparse.train_metrics.totals)


def test_the_penalty_is_the_same_for_labels_and_for_their_shares():
    evidence = torch.randn(4, CLASSES, 3, 2)
    labels = torch.tensor([0, UNREADABLE, 3, 1])
    shares = (labels[:, None] == torch.arange(CLASSES)).float()
    assert torch.equal(strength(evidence, labels), strength(evidence, shares))
    assert strength(evidence, torch.full((4,), UNREADABLE)) == 0


def test_a_penalty_makes_the_evidence_weaker():
    def evidence_after(factor: float) -> float:
        module = classifier(sparsity=factor, learning_rate=1.0, batch_size=8)
        quiet_trainer(max_epochs=5).fit(module, loader(8))
        return module.train().evidence(batches(8)[0][0]).abs().mean().item()

    assert evidence_after(10.0) < 0.8 * evidence_after(0.0)


def test_the_penalty_is_for_bagnets():
    with pytest.raises(ValueError, match="^sparsity is for BagNets, and this is a resnet50"):
        BagNetClassifier("resnet50", num_classes=CLASSES, width=4, sparsity=0.1)


@pytest.mark.slow
def test_a_compiled_network_has_the_same_loss(monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(
        "torch.compile",
        lambda function, mode, **options: compile_(
            function, fullgraph=True, backend="eager", **options
        ),
    )
    compiled.cache_clear()
    batch = batches(4)[0]
    losses = [
        classifier(sparsity=1.0, compile=compile).train().training_step(batch, 0)
        for compile in (False, True)
    ]
    compiled.cache_clear()
    torch.testing.assert_close(*losses)
