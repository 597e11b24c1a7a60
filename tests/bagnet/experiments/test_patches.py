"""The strongest patches of each class, from results on disk, are those of the network; so are the mistakes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from bagnet.evidence import evidence_map
from bagnet.evidence.top_patches import OTHERS, OWN, TopPatches
from bagnet.experiments import patches
from bagnet.experiments.__main__ import main
from bagnet.experiments.measuring.parts import read_file
from bagnet.model.registry import build_model, normalize
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule

SIZES = ["--data.image_size", "32", "--data.resize_size", "36"]


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A narrow BagNet that decides badly."""
    torch.manual_seed(0)
    model = build_model("bagnet9", num_classes=6, width=4)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    settings = {"name": "bagnet9", "num_classes": 6, "width": 4}
    path = tmp_path_factory.mktemp("network") / "mine.ckpt"
    torch.save({"state_dict": weights, "hyper_parameters": settings}, path)
    return path


@pytest.fixture
def command(shards, network, tmp_path):
    """Runs the experiment on a narrow BagNet and returns its folder."""

    def run(*more: str, models: bool = True) -> Path:
        words = ["patches", "--out", str(tmp_path), "--data.workers", "0", *SIZES, *more]
        if models:
            words += ["--models", f"mine={network}", "--data.root", str(shards)]
        assert main(words) == 0
        return tmp_path / "patches"

    return run


def test_the_lists_are_those_of_all_images_and_classes(command, shards, network):
    folder = command("--patches", "3", "--classes", "class4", "class1")
    model = load_model(network)
    data = ImageNetDataModule(str(shards), 53, 0, 32, 36)
    ((images, labels, ids),) = data.val_dataloader()
    top = TopPatches(6, 3)
    evidence = evidence_map(model, normalize(images))
    best, places = evidence.flatten(2).max(2)
    top.update_best(best, places, evidence.shape[3], labels, ids)
    with (folder / "mine-patches.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = []
    for number in (4, 1):
        for of in (OWN, OTHERS):
            for rank, patch in enumerate(top.best(number, of), 1):
                box = model.box(*patch.entry)
                key = data.val_manifest.sample(patch.sample_id).key
                expected.append((f"class{number}", patches.ROWS[of], rank, key, box[0], box[1]))
    found = [
        (r["class"], r["of"], int(r["rank"]), r["file"], int(r["top"]), int(r["left"]))
        for r in rows
    ]
    assert found == expected
    assert {path.name for path in folder.glob("mine-*.png")} == {
        "mine-mistakes.png",
        "mine-patches.png",
    }


def test_mistakes_hold_the_evidence_that_makes_their_logits(command):
    folder = command()
    table = read_file(folder / "mine.parquet")
    wrong = [row for row in table.to_pylist() if row["predicted"] != row["label"]]
    assert wrong
    for row in wrong:
        true, predicted = torch.tensor(row["maps"]).view(2, -1)
        assert true.mean().item() == pytest.approx(row["logit_true"], abs=1e-4)
        assert predicted.mean().item() == pytest.approx(row["logit_predicted"], abs=1e-4)
        assert row["logit_predicted"] > row["logit_true"]
    assert all(not row["maps"] for row in table.to_pylist() if row["predicted"] == row["label"])


def test_drawn_again_without_a_network_the_pictures_are_the_same(command, shards):
    folder = command()
    before = {file.name: file.read_bytes() for file in folder.glob("mine-*")}
    for file in folder.glob("mine-*"):
        file.unlink()
    command("--data.root", str(shards), models=False)
    assert {file.name: file.read_bytes() for file in folder.glob("mine-*")} == before


def test_bad_input_gets_one_message(command, shards, tmp_path, capsys):
    command()
    words = ["patches", "--out", str(tmp_path), "--data.workers", "0"]
    assert main([*words, *SIZES, "--classes", "cat"]) == 2
    assert "--classes cat: there is no such class" in capsys.readouterr().err
    assert main([*words, "--data.root", str(shards)]) == 2
    assert "image_size" in capsys.readouterr().err
