"""ONNX by onnxruntime and torch.export by torch alone compute what the network computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from timm.data import create_transform

import bagnet
from bagnet.model.config import config_of
from bagnet.model.weights import load_model
from datamodules.decoding.transforms import EvalTransform
from tests.bagnet.export.conftest import CARD, save_network

SHAPES = [(1, 9, 9), (1, 40, 40), (2, 64, 51), (5, 33, 200)]


def images(shape: tuple[int, int, int]) -> torch.Tensor:
    count, height, width = shape
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def onnx_outputs(path: Path, images: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]


def of_torch_alone(path: Path, out: Path, shapes: list[tuple[int, int, int]]) -> list[tuple]:
    """Outputs of a .pt2 in a process that cannot import this project."""
    code = (
        "import sys, torch\n"
        "network = torch.export.load(sys.argv[1]).module()\n"
        "outputs = [network(images) for images in torch.load(sys.argv[2])]\n"
        "assert not [name for name in sys.modules if name.startswith('bagnet')]\n"
        "torch.save(outputs, sys.argv[2])"
    )
    torch.save([images(shape) for shape in shapes], out)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, path, out], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return torch.load(out)


@pytest.mark.slow
def test_onnx_with_evidence(export, weights):
    path = export("onnx", "mine.onnx", "--evidence")
    onnx.checker.check_model(path, full_check=True)
    model = load_model(weights)
    for shape in SHAPES:
        logits, evidence = onnx_outputs(path, images(shape))
        expected = bagnet.evidence_map(model, images(shape))
        largest = float(expected.abs().max())
        torch.testing.assert_close(evidence, expected, rtol=0, atol=1e-5 * largest)
        torch.testing.assert_close(logits, model(images(shape)), rtol=0, atol=1e-5 * largest)


@pytest.mark.slow
def test_onnx_says_what_goes_in_and_what_comes_out(export, weights, tmp_path):
    path = export("onnx", "mine.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (entry,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type) == ("images", "tensor(float)")
    assert entry.shape == ["batch", 3, "height", "width"]
    assert (logits.name, logits.shape) == ("logits", ["batch", 5])
    said = session.get_modelmeta().custom_metadata_map
    config = config_of(load_model(weights))
    assert said.pop("input").startswith("images: float32 (batch, 3, height, width), RGB from 0 to")
    assert said.pop("architecture") == "bagnet9"
    values = {key: json.loads(text) for key, text in said.items()}
    assert values == {k: v for k, v in json.loads(json.dumps(config)).items() if k in values}
    assert values["class_names"] == list(CARD.class_names)
    assert values.keys() == config.keys() - {"architecture"}
    # Whoever prepares an image by what the file says, here with timm, gets our prediction.
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((90, 80), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    seen = EvalTransform(40, 46)((tmp_path / "a.png").read_bytes())
    ours = load_model(weights)(bagnet.normalize(seen[None])).detach()
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    prepare = create_transform(**{key: values["pretrained_cfg"][key] for key in keys})
    (theirs,) = onnx_outputs(path, prepare(image)[None])
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0.02 * float(ours.abs().max()))
    # No place of the machine that wrote it.
    assert str(Path(bagnet.__file__).parent).encode() not in path.read_bytes()


@pytest.mark.slow
def test_torch_export_runs_without_this_project(export, weights, tmp_path):
    path = export("torch_export", "mine.pt2", "--evidence")
    model = load_model(weights)
    shapes = [(1, 17, 17), *SHAPES[1:]]  # torch refuses maps of one entry
    outputs = of_torch_alone(path, tmp_path / "outputs.pt", shapes)
    for shape, (logits, evidence) in zip(shapes, outputs, strict=True):
        expected = bagnet.evidence_map(model, images(shape))
        torch.testing.assert_close(evidence, expected)
        torch.testing.assert_close(logits, model(images(shape)))
    said = {"config.json": ""}
    torch.export.load(path, extra_files=said)
    said = json.loads(said["config.json"])
    assert said["class_names"] == list(CARD.class_names)
    assert (said["image_size"], said["resize_size"]) == (40, 46)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fixed"), [("resnet50", False), ("vgg11", True)])
def test_networks_for_comparison(export, tmp_path, name, fixed, capsys):
    network = save_network(tmp_path / f"{name}.safetensors", name)
    size = ("--data.image_size", "96", "--data.resize_size", "96")
    path = export("onnx", "mine.onnx", *size, network=network)
    only = "images of 96x96 pixels only" if fixed else "images of any size"
    assert only in capsys.readouterr().out
    model = load_model(network).requires_grad_(False)
    for shape in [(1, 96, 96), (4, 96, 96)] if fixed else [(1, 96, 96), (4, 120, 161)]:
        (logits,) = onnx_outputs(path, images(shape))
        expected = model(images(shape))
        torch.testing.assert_close(
            logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.slow
def test_a_vgg_of_torch_export_takes_any_size(export, tmp_path):
    network = save_network(tmp_path / "vgg11.safetensors", "vgg11")
    path = export("torch_export", "mine.pt2", "--data.image_size", "96", network=network)
    model, shapes = load_model(network), [(1, 96, 96), (2, 301, 99)]
    for shape, (logits,) in zip(
        shapes, of_torch_alone(path, tmp_path / "outputs.pt", shapes), strict=True
    ):
        torch.testing.assert_close(logits, model(images(shape)))
