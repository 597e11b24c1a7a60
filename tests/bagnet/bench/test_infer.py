"""The inference benchmark: its variants give the same logits and are measured in turn."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import partial

import pytest
import torch
from torch import nn

from bagnet.bench import infer
from bagnet.bench.__main__ import main
from bagnet.bench.lib.steps import ON_REQUEST, VARIANTS, Setting, choose
from bagnet.model.registry import build_model

TINY = ["infer", "--width", "2", "--image-size", "41", "--batch-size", "2", "--device", "cpu"]
TINY += ["--steps", "2", "--rounds", "2"]


@pytest.mark.usefixtures("not_compiled")
def test_every_variant_is_measured_in_every_round_and_told_beside_the_papers_ratio(tmp_path, said):
    assert main([*TINY, "--out", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    rates = figures["images_per_second"]
    assert set(rates) == set(infer.VARIANTS) - {"graph"}, "which needs a GPU"
    assert all(len(values) == 2 and min(values) > 0 for values in rates.values())
    assert len(figures["dense_maps_per_second"]) == 2
    ratio = sum(rates["fp32"]) / sum(rates["resnet50-fp32"])  # the median of two is their mean
    text = said()
    assert "in the paper: 0.27" in text
    assert f"  fp32: {ratio:.2f}" in text
    assert "maps/s" in text


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("name", ["channels-last", "folded", "compiled", "map"])
def test_every_variant_gives_the_logits_of_the_plain_network_in_float32(name):
    setting = Setting.synthetic("bagnet9", width=16, batch=2, side=33, device="cpu")
    expected = infer.VARIANTS["fp32"](setting)()
    logits = partial(infer.VARIANTS[name], dtype=torch.float32)(setting)()
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_folding_a_resnet_leaves_no_normalisation_and_the_same_logits():
    torch.manual_seed(0)
    network = build_model("resnet50", width=4).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    network.eval()
    images = torch.randn(2, 3, 65, 65, dtype=torch.float64)
    with torch.no_grad():
        expected = network(images)
        folded = infer.fold(network)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(folded(images), expected)


def test_what_computes_something_else_is_not_compared(monkeypatch, capsys):
    monkeypatch.setitem(infer.VARIANTS, "bf16", partial(infer.build, model="resnet50"))
    assert main([*TINY, "--variants", "fp32", "bf16"]) == 2
    assert "bf16 computes something else" in capsys.readouterr().err


def test_a_gpu_has_more_variants():
    gpu, options = torch.device("cuda"), Namespace(variants=None, model="bagnet9", width=2)
    usual = [name for name in VARIANTS if name not in ON_REQUEST]
    assert choose(infer.VARIANTS, options, gpu) == list(infer.VARIANTS)
    assert choose(VARIANTS, options, gpu, ON_REQUEST) == usual
    options.variants = ["graph"]
    assert choose(VARIANTS, options, gpu, ON_REQUEST) == ["graph"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cuda_graph_without_a_gpu_is_one_line(capsys):
    assert main([*TINY, "--variants", "graph"]) == 2
    assert "CUDA graphs need a GPU" in capsys.readouterr().err
