"""A folder as on the Hugging Face Hub, and its model card."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from timm.data import create_transform, resolve_data_config

import bagnet
from bagnet.model.card import card_of
from bagnet.model.weights import load_model
from bagnet.training.command_line.command import main
from tests.bagnet.export.conftest import CARD, save_network
from tests.conftest import CLASSES
from tests.trainings import table, train


def page_of(folder: Path) -> str:
    return " ".join((folder / "README.md").read_text().split())


def test_the_folder_is_loaded_as_the_network_and_its_files_are_for_everybody(
    export, weights, tmp_path
):
    folder = export("hf", "hub")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    (tmp_path / "ordinary").mkdir()
    (tmp_path / "ordinary" / "file").touch()
    assert folder.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    modes = {path.stat().st_mode for path in (*folder.iterdir(), tmp_path / "ordinary" / "file")}
    assert len(modes) == 1
    model, images = bagnet.load(str(folder)), torch.randn(2, 3, 40, 40)
    assert card_of(model) == CARD
    assert torch.equal(model(images), load_model(weights)(images))
    config = json.loads((folder / "config.json").read_text())
    assert create_transform(**resolve_data_config(pretrained_cfg=config["pretrained_cfg"]))


def test_of_a_file_the_card_says_what_is_known(export, tmp_path):
    page = page_of(export("hf", "hub"))
    assert "# bagnet9 bagnet9, 57,049 parameters. A BagNet (" in page
    assert "## Data 5 classes: a cat, ein Hündchen, C, D, E. ## Figures Not known. " in page
    assert "## Recipe Not known: weights of tiny.safetensors. ## Limits" in page
    resnet = save_network(tmp_path / "resnet50.safetensors", "resnet50", 1000, width=2)
    assert main(f"export --model.weights {resnet} --format hf other".split()) == 0
    other = page_of(Path("other"))
    assert "## Data 1,000 classes. ## Figures" in other
    assert "evidence" not in other
    assert "arranged" not in other


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_of_a_run_the_card_says_how_it_was_trained(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train(shards, "--name", "mine", "--trainer.max_epochs", "2") == 0
    best, last = (Path(f"runs/mine/checkpoints/{name}.ckpt") for name in ("best", "last"))
    assert main(["export", "--name", "mine", "--format", "hf", "hub"]) == 0
    validated = [row for row in table("mine") if row["val/top1"]]
    rows = {int(row["step"]) + 1: row for row in validated}
    row = rows[torch.load(best, weights_only=True)["global_step"]]
    page = page_of(Path("hub"))
    top1, epoch = float(row["val/top1"]), int(row["epoch"]) + 1
    assert f"Validation after epoch {epoch}: top-1 {top1:.2%}, top-5 " in page
    assert f"6 classes: {', '.join(CLASSES)}. Trained on 150 images, validated on 53." in page
    assert re.search(r"Trained at commit [0-9a-f]{40}(-dirty)? by `python train.py", page)
    assert str(tmp_path) not in page  # nor any place of this machine
    assert str(shards) not in page

    text = Path("hub/README.md").read_text()
    data = ModelCard(text).data
    assert (data.pipeline_tag, data.library_name) == ("image-classification", "bagnet")
    Path("recipe.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--config", "recipe.yaml", "--data.root", "elsewhere", "--print_config"])
    again, trained = (
        yaml.safe_load(text)
        for text in (capsys.readouterr().out, Path("runs/mine/config.yaml").read_text())
    )
    assert again["model"] == trained["model"]
    places = {"root": "elsewhere", "workers": again["data"]["workers"]}
    assert again["data"] == {**trained["data"], **places}
    assert again["trainer"]["max_epochs"] == 2

    words = f"export --model.weights {last} --format hf of-last"
    monkeypatch.setattr("datamodules.shards.manifest.MANIFEST", "gone.json")
    assert main(words.split()) == 0
    assert "class5. ## Figures Validation after epoch 2: " in page_of(Path("of-last"))
