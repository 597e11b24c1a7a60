"""The metrics agree with torchmetrics, whatever the batches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassConfusionMatrix,
)

from bagnet.training.metrics import (
    FEW_CLASSES,
    ClassificationMetrics,
    FewClassMetrics,
    evaluation_metrics,
    rank_of_label,
)
from datamodules.common.batch import UNREADABLE


@given(st.integers(0, 2**32), st.integers(6, 12), st.lists(st.integers(1, 9), min_size=1))
def test_they_are_the_means_over_all_readable_samples(seed, classes, sizes):
    generator = torch.Generator().manual_seed(seed)
    metrics = ClassificationMetrics(classes)
    oracles = [
        MulticlassAccuracy(classes, top_k=k, average="micro", ignore_index=UNREADABLE)
        for k in (1, 5)
    ]
    losses = []
    for size in sizes:
        logits = torch.randn(size, classes, generator=generator)
        labels = torch.randint(UNREADABLE, classes, (size,), generator=generator)
        labels[0] = 0
        metrics.update(logits, labels)
        readable = labels != UNREADABLE
        for oracle in oracles:
            oracle.update(logits, labels)
        losses.append(F.cross_entropy(logits[readable], labels[readable], reduction="none"))
    found = metrics.compute()
    expected = [torch.cat(losses).mean(), *(oracle.compute() for oracle in oracles)]
    torch.testing.assert_close(
        [found[name].float() for name in ("loss", "top1", "top5")], expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("classes", "has"), [(2, False), (5, False), (6, True), (1000, True)])
def test_top_5_is_left_out_where_it_is_always_right(classes, has):
    metrics = ClassificationMetrics(classes)
    metrics.update(torch.randn(3, classes), torch.zeros(3, dtype=torch.int64))
    assert list(metrics.compute()) == (["loss", "top1", "top5"] if has else ["loss", "top1"])


@given(st.integers(0, 2**32), st.integers(2, 8))
def test_the_figures_of_few_classes_are_those_of_torchmetrics(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    metrics = evaluation_metrics(classes)
    recall = MulticlassAccuracy(classes, average="macro", ignore_index=UNREADABLE)
    auroc = MulticlassAUROC(classes, ignore_index=UNREADABLE)
    confusion = MulticlassConfusionMatrix(classes, ignore_index=UNREADABLE)
    for _ in range(3):
        logits = torch.randn(30, classes, generator=generator)
        labels = torch.randint(UNREADABLE, classes, (30,), generator=generator)
        labels[:classes] = torch.arange(classes)
        for each in (metrics, recall, auroc, confusion):
            each.update(logits, labels)
    found = metrics.compute()
    torch.testing.assert_close(found["balanced_accuracy"].float(), recall.compute())
    torch.testing.assert_close(found["auroc"].float(), auroc.compute())
    assert torch.equal(metrics.confusion, confusion.compute())
    correct = metrics.confusion.diag().sum() / metrics.confusion.sum()
    torch.testing.assert_close(found["top1"].float(), correct)


@pytest.mark.filterwarnings("error")
def test_an_absent_class_does_not_count():
    # Class 1 has no images; one of class 0 is taken for it.
    logits = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 1, 5]])
    metrics = evaluation_metrics(3)
    metrics.update(logits, torch.tensor([0, 0, 2]))
    found = metrics.compute()
    assert found["balanced_accuracy"] == 0.75
    assert found["auroc"] == 1
    assert metrics.confusion.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    metrics.reset()
    metrics.update(logits, torch.tensor([0, 0, UNREADABLE]))
    found = metrics.compute()
    assert found["balanced_accuracy"] == 0.5
    assert math.isnan(found["auroc"])


def test_many_classes_keep_no_logits():
    assert type(evaluation_metrics(FEW_CLASSES + 1)) is ClassificationMetrics
    assert type(evaluation_metrics(FEW_CLASSES)) is FewClassMetrics


def test_the_next_batch_may_overwrite_this_one():
    metrics = evaluation_metrics(3)
    logits, labels = torch.eye(3), torch.arange(3)
    metrics.update(logits, labels)
    logits.zero_(), labels.zero_()
    metrics.compute()
    assert torch.equal(metrics.confusion, torch.eye(3, dtype=torch.int64))


def test_a_loss_of_nan_is_reported():
    metrics = ClassificationMetrics(3)
    metrics.update(torch.full((2, 3), torch.nan), torch.tensor([0, UNREADABLE]))
    metrics.update(torch.eye(3), torch.arange(3))
    assert metrics.compute()["loss"].isnan()


def test_without_readable_samples_there_is_no_mean():
    metrics = ClassificationMetrics(3)
    metrics.update(torch.eye(3), torch.full((3,), UNREADABLE))
    assert math.isnan(metrics.compute()["top1"])


@pytest.mark.parametrize("splits", [(1,), (2, 3), (1, 1, 3)])
def test_the_result_does_not_depend_on_the_batches(splits):
    logits, labels = torch.randn(60, 7), torch.randint(0, 7, (60,))
    whole, parts = ClassificationMetrics(7), ClassificationMetrics(7)
    whole.update(logits, labels)
    for some, theirs in zip(logits.chunk(len(splits)), labels.chunk(len(splits)), strict=True):
        parts.update(some, theirs)
    torch.testing.assert_close(whole.compute(), parts.compute(), rtol=1e-12, atol=0)


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9))
def test_the_rank_is_the_place_in_a_stable_order(seed, classes, size):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 4, (size, classes), generator=generator).float()
    labels = torch.randint(0, classes, (size,), generator=generator)
    order = logits.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(rank_of_label(logits, labels), (order == labels[:, None]).int().argmax(1))


def test_nan_is_never_right():
    logits = torch.eye(3)
    logits[1] = torch.nan
    assert rank_of_label(logits, torch.arange(3)).tolist() == [0, 3, 0]
