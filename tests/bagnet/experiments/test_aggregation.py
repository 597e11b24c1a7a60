"""The aggregation experiment: one pass over the data, numbers where the answer is known, its files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from bagnet.evidence import aggregation as functions
from bagnet.experiments import aggregation
from bagnet.experiments.__main__ import main
from bagnet.model.network import BagNet
from datamodules.imagenet import ImageNetDataModule

CLASSES = 6
SIZE = 40


class Scripted(BagNet):
    """A BagNet-9 that shows given evidence (images, classes, H', W') instead of looking."""

    def __init__(self, evidence: Tensor) -> None:
        super().__init__(9, CLASSES, width=2)
        self.evidence = evidence
        self.shown = 0

    def logits_map(self, x: Tensor) -> Tensor:
        self.shown += len(x)
        return self.evidence[self.shown - len(x) : self.shown]


def data(shards: Path) -> ImageNetDataModule:
    return ImageNetDataModule(
        str(shards), batch_size=32, workers=0, image_size=SIZE, resize_size=SIZE
    )


def labels(shards: Path) -> Tensor:
    return torch.cat([batch[1] for batch in data(shards).val_dataloader()])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    weights = BagNet(9, CLASSES, width=2).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_every_way_is_evaluated_on_the_maps_of_one_pass(shards):
    true = labels(shards)
    evidence = torch.randn(len(true), CLASSES, 5, 6, generator=torch.Generator().manual_seed(0))
    evidence[torch.arange(len(true)), true] += 0.2
    evidence *= 20
    ways = aggregation.all_ways([-5, 10], [2], 30)
    model = Scripted(evidence)
    rows, _ = aggregation.measure(model, data(shards), ways, {4: 2}, Console(quiet=True))
    assert model.shown == len(true)
    assert len(rows) == len(ways) == 11
    for row, way in zip(rows, ways.values(), strict=True):
        order = way(evidence).argsort(descending=True, dim=1, stable=True)
        hits = order == true[:, None]
        assert row["top1"] == pytest.approx(hits[:, 0].float().mean().item()), row
        if row["aggregation"] != "binarise":  # it has ties
            assert row["top5"] == pytest.approx(hits[:, :5].any(1).float().mean().item()), row
    assert len({row["top1"] for row in rows}) > 3


def test_certified_accuracy_counts_the_labels_that_no_attack_changes(shards):
    true = labels(shards)
    evidence = torch.zeros(len(true), CLASSES, 5, 6)
    certain = torch.arange(len(true)) % 4 == 0
    evidence[torch.arange(len(true)), true] = torch.where(certain, 100.0, 1.0)[:, None, None]
    model = Scripted(evidence)
    windows = {1: 1, 40: 9}
    ways = {("mean", None): functions.mean}
    rows, attacks = aggregation.measure(model, data(shards), ways, windows, Console(quiet=True))
    assert rows == [{"aggregation": "mean", "parameter": "", "top1": 1, "top5": 1}]
    share = pytest.approx(certain.float().mean().item())
    assert attacks == [
        {"attack_px": 1, "window": 1, "tanh_certified": share, "masked_certified": 1},
        {"attack_px": 40, "window": 9, "tanh_certified": 0, "masked_certified": 0},
    ]


def test_it_writes_tables_and_a_figure(shards, checkpoint, tmp_path, capsys):
    words = ["aggregation", "--checkpoint", str(checkpoint), "--name", "bagnet9"]
    words += ["--data.root", str(shards), "--data.image_size", "40", "--data.resize_size", "40"]
    words += ["--thresholds", "1", "0", "--attacks", "8", "--out", str(tmp_path / "new" / "out")]
    assert main(words) == 0
    out = tmp_path / "new" / "out"
    rows = list(csv.DictReader((out / "aggregation.csv").open()))
    names = [f"{row['aggregation']} {row['parameter']}".strip() for row in rows]
    assert names[:4] == ["mean", "median", "tanh", "sigmoid"]
    assert names[4:7] == ["strongest 1", "strongest 10", "masked 2"]
    assert names[7:] == ["clamp 0", "clamp 1", "binarise 0", "binarise 1"]
    (attack,) = csv.DictReader((out / "certified.csv").open())
    assert (attack["attack_px"], attack["window"]) == ("8", "2")
    markdown = (out / "aggregation.md").read_text()
    assert f"| mean |  | {float(rows[0]['top1']):.4f} |" in markdown
    assert markdown in capsys.readouterr().out
    with Image.open(out / "thresholds.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "does not say which network"),
        (["--name", "bagnet33"], "does not fit bagnet33"),
        (["--name", "bagnet9", "--data.image_size", "8"], "8x8 pixels is smaller than the patch"),
        (["--name", "bagnet9", "--attacks", "0"], "0 pixels changes nothing"),
    ],
)
def test_what_cannot_be_measured_is_one_line(flags, message, shards, checkpoint, capsys):
    words = ["aggregation", "--checkpoint", str(checkpoint), "--data.root", str(shards)]
    assert main([*words, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
