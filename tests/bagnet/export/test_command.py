"""`train.py export` as a command: its weights, its messages, and what it does not leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bagnet.export import command, graphs
from bagnet.model.card import card_of
from bagnet.model.weights import load_model, save_weights
from bagnet.training.command_line.command import main
from tests.bagnet.export.conftest import CARD, save_network

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder, and returns the line with which it refuses."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def run(*words: str | Path) -> str:
        before = sorted(Path().iterdir())
        assert main(["export", *map(str, words)]) == 2
        assert sorted(Path().iterdir()) == before
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: ")
        return said

    return run


def test_weights_and_card_are_those_of_the_network(export, weights, capsys):
    out = export("safetensors", "mine.safetensors")
    expected, found = load_model(weights), load_model(out)
    assert card_of(found) == CARD
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)
    assert capsys.readouterr().out == (
        "mine.safetensors: bagnet9, for images of any size; outputs differ from torch's by at most "
        "0.0e+00 of the largest\n"
    )
    export("safetensors", "mine.safetensors", "--data.image_size", "48", "--data.resize_size", "50")
    assert (load_model(out).card.image_size, load_model(out).card.resize_size) == (48, 50)


def test_a_run_goes_by_its_name(export, weights, tmp_path):
    folder = tmp_path / "all" / "mine" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"state_dict": load_model(weights).state_dict()}, folder / "best.ckpt")
    words = ("--name", "mine", "--runs_dir", str(tmp_path / "all"), "--format", "safetensors")
    assert main(["export", *words, "a.safetensors"]) == 0
    assert load_model("a.safetensors").card.name == "bagnet9"


def test_what_cannot_be_done_is_one_line(refused, weights, tmp_path):
    network = ("--model.weights", weights, "--format")
    wanted = "give the network: either --name RUN, or --model.weights"
    assert wanted in refused("--format", "onnx", "a.onnx")
    assert "writes a .pt2 file: a.onnx has no" in refused(*network, "torch_export", "a.onnx")
    assert "--evidence is for onnx and" in refused(*network, "hf", "--evidence", "hub")
    Path("a.onnx").mkdir()
    assert "a.onnx is a folder: give a file" in refused(*network, "onnx", "a.onnx")
    Path("a.onnx/b").touch()
    for taken in ("a.onnx", "a.onnx/b"):
        assert f"{taken} exists, and is no empty folder" in refused(*network, "hf", taken)
    small = ("--data.image_size", "8", "--data.resize_size", "8", "a.pt2")
    assert "smaller than the patch" in refused(*network, "torch_export", *small)
    alexnet = save_network(tmp_path / "alexnet.safetensors", "alexnet")
    network = ("--model.weights", alexnet, "--format")
    assert "too small for this network" in refused(*network, "torch_export", *small)
    assert "AlexNet is not a BagNet" in refused(*network, "torch_export", "--evidence", "a.pt2")


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_without_the_packages_for_onnx_it_says_what_to_install(
    refused, weights, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    said = refused("--model.weights", weights, "--format", "onnx", "a.onnx")
    assert said == "error: --format onnx needs two packages: pip install onnxruntime onnxscript"


@pytest.mark.parametrize("form", ["safetensors", "hf"])
def test_what_computes_something_else_is_not_left_behind(refused, weights, monkeypatch, form):
    def save_another(model: nn.Module, path: Path) -> None:
        model.fc.bias.data[0] += 0.1
        save_weights(model, path)
        model.fc.bias.data[0] -= 0.1

    monkeypatch.setattr("bagnet.export.folder.save_weights", save_another)
    monkeypatch.setattr(command, "save_weights", save_another)
    said = refused("--model.weights", weights, "--format", form, "a.safetensors")
    assert "it computes something else than the network: on images (1, 3, 40, 40)" in said


def test_what_an_exporter_cannot_do_is_one_line(refused, weights, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("the reason\npages of advice")

    monkeypatch.setattr(graphs, "write_torch_export", fail)
    said = refused("--model.weights", weights, "--format", "torch_export", "a.pt2")
    assert f"cannot be written as torch_export by torch {torch.__version__} (the reason): " in said


def test_an_older_file_stays_if_the_new_one_is_refused(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.pt2").write_bytes(b"old")
    monkeypatch.setattr(graphs, "write_torch_export", lambda _, path, __: path.write_bytes(b"new"))
    words = ("--model.weights", str(weights), "--format", "torch_export", "a.pt2")
    assert main(["export", *words]) == 2
    assert Path("a.pt2").read_bytes() == b"old"


def test_help_is_instant_and_fits_80_columns():
    code = (
        "import sys, train\n"
        "try: train.main(['export', '--help'])\n"
        "finally: assert not {'torch', 'numpy', 'onnx'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
