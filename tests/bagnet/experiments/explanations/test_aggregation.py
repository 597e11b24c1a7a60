"""The aggregation experiment: numbers where the answer is known, and what is refused."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from bagnet.evidence.aggregation import parse
from bagnet.experiments.__main__ import main
from bagnet.experiments.explanations.aggregation import Aggregated, accuracies, all_names, attacks
from bagnet.experiments.measuring.statistics import share, share_of
from bagnet.model.network import BagNet

CLASSES, IMAGES = 6, 40


class Scripted(BagNet):
    """A BagNet-9 that returns given evidence (images, classes, H', W') instead of looking."""

    def __init__(self, evidence: Tensor) -> None:
        super().__init__(9, CLASSES, width=2)
        self.evidence = evidence

    def logits_map(self, x: Tensor) -> Tensor:
        return self.evidence


def measure(evidence: Tensor, labels: Tensor, *settings: tuple) -> dict[str, pa.Table]:
    images = torch.zeros(len(labels), 3, 40, 48, dtype=torch.uint8)
    columns = Aggregated(*settings)(Scripted(evidence), images, labels, torch.arange(len(labels)))
    return {"net": pa.table({name: list(column) for name, column in columns.items()})}


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(IMAGES) % CLASSES


def test_every_aggregation_is_evaluated_on_the_same_maps(labels):
    evidence = torch.randn(IMAGES, CLASSES, 5, 6, generator=torch.Generator().manual_seed(0))
    evidence[torch.arange(IMAGES), labels] += 0.2
    evidence *= 20
    rows = accuracies(measure(evidence, labels, (-5.0, 10.0), (4, 3)))  # both touch 2 entries
    names = all_names((-5.0, 10.0), (2, 2), 30)
    expected = "mean median tanh sigmoid strongest:1 strongest:10 masked:2 clamp:-5 clamp:10"
    assert names == [*expected.split(), "binarise:-5", "binarise:10"]
    for row, name in zip(rows, names, strict=True):
        assert f"{row['aggregation']}:{row['parameter']}".rstrip(":") == name
        order = parse(name)(evidence).argsort(descending=True, dim=1, stable=True)
        hits = (order == labels[:, None]).float()
        assert row["top1"] == share(hits[:, 0]), row
        assert row["top5"] == share(hits[:, :5].sum(1)), row
    assert len({row["top1"].value for row in rows}) > 3


def test_certified_accuracy_counts_the_labels_that_no_attack_changes(labels):
    evidence = torch.zeros(IMAGES, CLASSES, 5, 6)
    certain = torch.arange(IMAGES) % 4 == 0
    evidence[torch.arange(IMAGES), labels] = torch.where(certain, 100.0, 1.0)[:, None, None]
    small, large = attacks(measure(evidence, labels, (), (1, 40)))
    assert (small["attack"], small["window"], large["window"]) == (1, 2, 6)
    assert (small["tanh"], small["masked"]) == (share(certain), share_of(IMAGES, IMAGES))
    assert (large["tanh"], large["masked"]) == (share_of(0, IMAGES), share_of(0, IMAGES))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.image_size", "8", "--data.resize_size", "8"], "8x8 pixels is smaller than"),
        (["--models", "resnet50=FILE"], "does not fit resnet50"),
    ],
)
def test_what_cannot_be_measured_is_one_message(flags, message, command, capsys):
    file = command[1].partition("=")[2]
    flags = [flag.replace("FILE", file) for flag in flags]
    assert main(["aggregation", *command[:2], *command[3:], *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
