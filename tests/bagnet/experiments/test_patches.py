"""The strongest patches of each class and the mistakes, read from disk, are the network's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from bagnet.evidence.maps import evidence_map
from bagnet.evidence.top_patches import OTHERS, OWN, TopPatches
from bagnet.experiments import patches
from bagnet.experiments.__main__ import main
from bagnet.experiments.measuring.parts import read_file
from bagnet.model.registry import build_model, normalize
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.experiments.conftest import read_csv

SIZES = ["--data.workers", "0", "--data.image_size", "32", "--data.resize_size", "36"]
SHOWN = ["--patches", "3", "--classes", "class4", "class1", "--mistakes", "2"]


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """Weights of a narrow BagNet that decides badly."""
    torch.manual_seed(0)
    model = build_model("bagnet9", num_classes=6, width=4)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    settings = {"name": "bagnet9", "num_classes": 6, "width": 4}
    path = tmp_path_factory.mktemp("network") / "mine.ckpt"
    torch.save({"state_dict": weights, "hyper_parameters": settings}, path)
    return path


@pytest.fixture(scope="module")
def out(shards, network, tmp_path_factory) -> Path:
    """The --out of a run."""
    out = tmp_path_factory.mktemp("out")
    words = ["patches", "--models", f"mine={network}", "--data.root", str(shards)]
    assert main([*words, "--out", str(out), *SIZES, *SHOWN]) == 0
    return out


def test_the_lists_are_those_of_all_images_and_classes(out, shards, network):
    folder = out / "patches"
    model = load_model(network)
    data = ImageNetDataModule(str(shards), 53, 0, 32, 36)
    ((images, labels, ids),) = data.val_dataloader()
    top = TopPatches(6, 3)
    evidence = evidence_map(model, normalize(images))
    best, places = evidence.flatten(2).max(2)
    top.update_best(best, places, evidence.shape[3], labels, ids)
    expected = []
    for number in (4, 1):
        for of in (OWN, OTHERS):
            for rank, patch in enumerate(top.best(number, of), 1):
                box = model.box(*patch.entry)
                key = data.val_manifest.sample(patch.sample_id).key
                expected.append((f"class{number}", patches.ROWS[of], rank, key, box[0], box[1]))
    found = [
        (r["class"], r["of"], int(r["rank"]), r["file"], int(r["top"]), int(r["left"]))
        for r in read_csv(folder / "mine-patches.csv")
    ]
    assert found == expected
    assert {path.name for path in folder.glob("mine-*.png")} == {
        "mine-mistakes.png",
        "mine-patches.png",
    }


def test_mistakes_hold_the_evidence_that_makes_their_logits(out):
    rows = read_file(out / "patches" / "mine.parquet").to_pylist()
    wrong = [row for row in rows if row["predicted"] != row["label"]]
    assert wrong
    for row in wrong:
        true, predicted = torch.tensor(row["maps"]).view(2, -1)
        assert true.mean().item() == pytest.approx(row["logit_true"], abs=1e-4)
        assert predicted.mean().item() == pytest.approx(row["logit_predicted"], abs=1e-4)
        assert row["logit_predicted"] > row["logit_true"]
    assert all(not row["maps"] for row in rows if row["predicted"] == row["label"])


def test_drawn_again_without_a_network_the_pictures_are_the_same(out, shards, tmp_path):
    folder = shutil.copytree(out, tmp_path / "out") / "patches"
    before = {file.name: file.read_bytes() for file in folder.glob("mine-*")}
    for file in folder.glob("mine-*"):
        file.unlink()
    words = ["patches", "--data.root", str(shards), "--out", str(tmp_path / "out")]
    assert main([*words, *SIZES, *SHOWN]) == 0
    assert {file.name: file.read_bytes() for file in folder.glob("mine-*")} == before


def test_bad_input_gets_one_message(out, shards, capsys):
    words = ["patches", "--out", str(out), "--data.workers", "0"]
    assert main([*words, "--classes", "cat"]) == 2
    assert "--classes cat: there is no such class" in capsys.readouterr().err
    assert main([*words, "--data.root", str(shards)]) == 2
    assert "image_size" in capsys.readouterr().err
