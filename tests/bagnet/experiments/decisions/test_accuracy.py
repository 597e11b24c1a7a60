"""The accuracy experiment: its numbers on cases whose answer is known, and its files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bagnet.experiments.__main__ import main
from bagnet.experiments.decisions import networks as network_facts
from bagnet.experiments.decisions.accuracy import Predictions, _networks, _row
from bagnet.experiments.measuring import models, results
from bagnet.experiments.measuring.models import ModelFile
from bagnet.experiments.measuring.parts import PartFiles, read_file, record_of
from bagnet.experiments.options import MeasureOptions
from bagnet.model.registry import normalize
from bagnet.model.weights import load_model
from datamodules.common import progress
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.experiments.conftest import flags, read_csv


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_facts, "SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def first_run(shards: Path, networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The --out of a run."""
    out = tmp_path_factory.mktemp("accuracy")
    assert main(["accuracy", *flags(shards, networks, out)]) == 0
    return out


@pytest.fixture
def out(first_run: Path, tmp_path: Path) -> Path:
    """The --out of `command`, after a run."""
    return shutil.copytree(first_run, tmp_path / "out")


class Says(nn.Module):
    """Gives the same logits for every image."""

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


def test_only_the_first_of_equal_logits_is_right():
    found = predictions(Says(1.0, 1.0, 1.0), [0, 1, 2])
    assert found["predicted"] == [0, 0, 0]
    assert found["rank"] == [0, 1, 2]


def test_the_table_has_the_accuracy_that_the_network_has(first_run, shards, networks):
    data = ImageNetDataModule(str(shards), batch_size=53, workers=0, image_size=33, resize_size=36)
    images, labels, _ = next(iter(data.val_dataloader()))
    with torch.no_grad():
        best = load_model(networks / "17.ckpt")(normalize(images)).topk(5).indices
    right = best == labels[:, None]
    first, row = read_csv(first_run / "accuracy" / "table.csv")
    assert (first["model"], row["model"]) == ("bagnet9", "mine")
    assert float(row["top1"]) == pytest.approx(right[:, 0].float().mean().item())
    assert float(row["top5"]) == pytest.approx(right.any(1).float().mean().item())
    assert float(row["top1_low"]) <= float(row["top1"]) <= float(row["top1_high"])
    _, calibration = read_csv(first_run / "accuracy" / "calibration.csv")
    logits = load_model(networks / "17.ckpt")(normalize(images)).double()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert float(calibration["loss"]) == pytest.approx(loss.item(), rel=1e-4)
    assert float(calibration["top1"]) == float(row["top1"])
    assert row["receptive_field"] == "17"
    assert float(row["images_per_second"]) > 0


def test_the_papers_numbers_stand_beside_its_networks_on_its_classes_only(first_run):
    assert "paper" not in (first_run / "accuracy" / "table.csv").read_text()
    table = read_file(first_run / "accuracy" / "bagnet9.parquet")
    record = record_of(table.schema) | {"class_names": [str(n) for n in range(1000)]}
    table = table.replace_schema_metadata({"bagnet": json.dumps(record)})
    row = _row("bagnet17", table, {})
    assert (row["paper_top5"], row["paper_images_per_second"]) == (0.805, 155)
    assert _row("bagnet9", table, {})["paper_top5"] is None
    assert _row("mine", table, {})["paper_top5"] is None
    table = table.replace_schema_metadata({"bagnet": json.dumps(record | {"evaluation": 200})})
    row = _row("bagnet9", table, {})
    assert row["classes"] == 200
    assert "paper_top5" not in row


def test_table_and_figure_are_drawn_again_without_a_model(out, monkeypatch):
    folder = out / "accuracy"
    stems = ("table.csv", "table.md", "figure.png", "figure.svg", "calibration.md")
    names = (*stems, "calibration.csv", "reliability.png", "reliability.svg")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    monkeypatch.setattr(models, "load_model", None)
    assert main(["accuracy", "--out", str(out)]) == 0
    assert {name: (folder / name).read_bytes() for name in names} == before
    with Image.open(folder / "figure.png") as picture:
        assert picture.format == "PNG"


def test_results_of_an_earlier_version_have_no_calibration_and_new_ones_are_not_mixed_with_them(
    command, out, capsys
):
    for name in ("bagnet9", "mine"):
        files = PartFiles(out / "accuracy", ModelFile(name, Path()), {"measurement": "Old()"})
        table = read_file(files.whole).drop_columns(["losses", "confidences"])
        record = record_of(table.schema) | files.record
        PartFiles(files.folder, files.model, record).write(files.whole, [table])
    (out / "accuracy" / "calibration.md").unlink()
    assert main(["accuracy", "--out", str(out)]) == 0
    assert "no calibration" in capsys.readouterr().out
    assert not (out / "accuracy" / "calibration.md").exists()
    assert main(["accuracy", *command]) == 2
    assert "delete the file" in capsys.readouterr().err.splitlines()[-1]


def test_facts_of_networks_that_are_not_given_are_kept_and_w_and_b_gets_the_results_when_asked(
    command, out, monkeypatch
):
    logged = []
    monkeypatch.setattr(results, "log_to_wandb", lambda *what: logged.append(what))
    path = out / "accuracy" / "networks.json"
    before = json.loads(path.read_text())
    only_mine = [*command[:1], *command[2:]]
    assert main(["accuracy", *only_mine]) == 0
    assert logged == []
    after = json.loads(path.read_text())
    assert list(after) == ["bagnet9", "mine"]
    assert after["bagnet9"] == before["bagnet9"]
    assert main(["accuracy", "--out", str(out), "--wandb", "true"]) == 0
    assert logged == [("accuracy", out / "accuracy")]


def test_three_images_give_wide_intervals(command, tmp_path):
    assert main(["accuracy", *command, "--limit", "3"]) == 0
    assert not (tmp_path / "out" / "accuracy" / "calibration.md").exists()  # too few for it
    for row in read_csv(tmp_path / "out" / "accuracy" / "table.csv"):
        assert float(row["top1_high"]) - float(row["top1_low"]) > 0.5


def test_a_log_says_how_long_the_measurement_of_speed_takes(command, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    assert main(["accuracy", *command]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(re.match(r"speed: \d+ of 100 percent, .* left$", line) for line in lines)
    assert any(re.match(r"accuracy: 2 models: 106 of 106 images, .*", line) for line in lines)


@pytest.mark.parametrize("text", ["{", "[1]", '{"mine": 5}'])
def test_damaged_facts_about_networks_are_named(tmp_path, text):
    (tmp_path / "networks.json").write_text(text)
    with pytest.raises(ValueError, match=r"networks\.json is .*delete it, and measure again"):
        _networks({}, MeasureOptions(out=tmp_path), tmp_path / "networks.json")
