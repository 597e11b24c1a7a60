"""The accuracy experiment: its numbers where the answer is known, and its files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bagnet.experiments import accuracy
from bagnet.experiments.__main__ import main
from bagnet.experiments.accuracy import Predictions
from bagnet.experiments.measuring import models, networks
from bagnet.model.registry import normalize
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "SECONDS", 0.0)


class Says(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def predictions(model: nn.Module, labels: list[int]) -> dict[str, list]:
    images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    columns = Predictions()(model, images, torch.tensor(labels), torch.arange(len(labels)))
    return {key: column.tolist() for key, column in columns.items()}


def test_a_rank_counts_the_classes_before_the_true_one():
    found = predictions(Says(0.0, 3.0, 1.0, 2.0), [0, 1, 2, 3])
    assert found["predicted"] == [1, 1, 1, 1]
    assert found["rank"] == [3, 0, 2, 1]
    probabilities = torch.tensor([0.0, 3.0, 1.0, 2.0]).double().softmax(0)
    assert found["probability"] == pytest.approx(probabilities.tolist())
    assert found["confidence"] == pytest.approx([probabilities.max().item()] * 4)


def test_equal_logits_do_not_make_two_classes_right():
    found = predictions(Says(1.0, 1.0, 1.0), [0, 1, 2])
    assert found["predicted"] == [0, 0, 0]
    assert found["rank"] == [0, 1, 2]


def test_a_network_that_says_nan_is_an_error_and_never_right():
    with pytest.raises(ValueError, match="logits of sample 0 are not finite"):
        predictions(Says(float("nan"), 0.0), [0])


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_accuracy_that_the_network_has(command, shards, networks, tmp_path):
    assert main(["accuracy", *command]) == 0
    data = ImageNetDataModule(str(shards), batch_size=53, workers=0, image_size=33, resize_size=36)
    images, labels, _ = next(iter(data.val_dataloader()))
    with torch.no_grad():
        best = load_model(networks / "17.ckpt")(normalize(images)).topk(5).indices
    _, row = table(tmp_path / "out" / "accuracy")
    assert row["model"] == "mine"
    assert float(row["top1"]) == pytest.approx((best[:, 0] == labels).float().mean().item())
    assert float(row["top5"]) == pytest.approx(
        (best == labels[:, None]).any(1).float().mean().item()
    )
    assert float(row["top1_low"]) <= float(row["top1"]) <= float(row["top1_high"])
    assert row["receptive_field"] == "17"
    assert float(row["images_per_second"]) > 0


def test_the_papers_numbers_stand_beside_the_networks_it_has(command, tmp_path):
    assert main(["accuracy", *command]) == 0
    first, second = table(tmp_path / "out" / "accuracy")
    assert (first["paper_top5"], first["paper_images_per_second"]) == ("0.7", "155")
    assert second["paper_top5"] == ""


def test_table_and_figure_are_drawn_again_without_a_model(command, tmp_path, monkeypatch):
    assert main(["accuracy", *command]) == 0
    folder = tmp_path / "out" / "accuracy"
    names = ("table.csv", "table.md", "figure.png", "figure.svg")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    monkeypatch.setattr(models, "load_model", None)
    assert main(["accuracy", "--out", str(tmp_path / "out")]) == 0
    assert {name: (folder / name).read_bytes() for name in names} == before
    with Image.open(folder / "figure.png") as picture:
        assert picture.format == "PNG"


def test_facts_of_networks_that_are_not_given_are_kept(command, tmp_path):
    assert main(["accuracy", *command]) == 0
    path = tmp_path / "out" / "accuracy" / "networks.json"
    before = json.loads(path.read_text())
    only = [*command[:1], command[2], *command[3:]]
    assert main(["accuracy", *only]) == 0
    after = json.loads(path.read_text())
    assert list(after) == ["bagnet9", "mine"]
    assert after["bagnet9"] == before["bagnet9"]


def test_w_and_b_gets_it_when_asked(command, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(accuracy, "log_to_wandb", lambda *what: logged.append(what))
    assert main(["accuracy", *command]) == 0
    assert logged == []
    assert main(["accuracy", *command, "--wandb"]) == 0
    assert logged == [("accuracy", tmp_path / "out" / "accuracy")]


def test_an_error_is_one_line(command, capsys, tmp_path):
    assert main(["accuracy", *command, "--limit", "3"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: 3 rows are too few")
    assert pq.read_table(tmp_path / "out" / "accuracy" / "mine.parquet").num_rows == 3
