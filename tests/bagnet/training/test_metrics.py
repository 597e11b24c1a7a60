"""The metrics agree with torchmetrics, whatever the batches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from bagnet.training.metrics import ClassificationMetrics, rank_of_label
from datamodules.common.batch import UNREADABLE


@given(st.integers(0, 2**32), st.integers(2, 12), st.lists(st.integers(1, 9), min_size=1))
def test_they_are_the_means_over_all_readable_samples(seed, classes, sizes):
    generator = torch.Generator().manual_seed(seed)
    metrics = ClassificationMetrics()
    oracles = [
        MulticlassAccuracy(classes, top_k=k, average="micro", ignore_index=UNREADABLE)
        for k in (1, min(5, classes))
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


def test_a_loss_of_nan_is_reported():
    metrics = ClassificationMetrics()
    metrics.update(torch.full((2, 3), torch.nan), torch.tensor([0, UNREADABLE]))
    metrics.update(torch.eye(3), torch.arange(3))
    assert metrics.compute()["loss"].isnan()


def test_without_readable_samples_there_is_no_mean():
    metrics = ClassificationMetrics()
    metrics.update(torch.eye(3), torch.full((3,), UNREADABLE))
    assert math.isnan(metrics.compute()["top1"])


@pytest.mark.parametrize("splits", [(1,), (2, 3), (1, 1, 3)])
def test_the_result_does_not_depend_on_the_batches(splits):
    logits, labels = torch.randn(60, 7), torch.randint(0, 7, (60,))
    whole, parts = ClassificationMetrics(), ClassificationMetrics()
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
