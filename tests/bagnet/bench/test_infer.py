"""The inference benchmark: its variants give the same logits and are measured in turn."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bagnet.bench import infer
from bagnet.bench.lib.setting import Setting, prepared
from bagnet.bench.lib.steps import ON_REQUEST, VARIANTS
from bagnet.bench.options import StepOptions

TINY = ["infer", "--width", "2", "--image_size", "41", "--batch_size", "2", "--device", "cpu"]
TINY += ["--steps", "1", "--rounds", "2"]
SMALL = StepOptions(model="bagnet9", width=16, batch_size=2, image_size=33, device="cpu", steps=1)


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize(
    "names",
    [
        ("fp32", "resnet50-fp32"),
        pytest.param(tuple(infer.VARIANTS.keys() - {"graph"}), marks=pytest.mark.slow),
    ],
)
def test_variants_are_measured_in_every_round_and_printed_beside_the_papers_ratio(
    names, figures, output
):
    found = figures(*TINY, "--variants", *names)
    rates = found["images_per_second"]
    assert list(rates) == list(names)
    assert all(len(values) == 2 and min(values) > 0 for values in rates.values())
    assert len(found["dense_maps_per_second"]) == 2
    ratio = sum(rates["fp32"]) / sum(rates["resnet50-fp32"])  # the median of two is their mean
    text = output()
    assert "in the paper: 0.27" in text
    assert f"  fp32: {ratio:.2f}" in text
    assert "maps/s" in text


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("name", ["channels-last", "folded", "compiled", "map", "resnet50-folded"])
def test_every_variant_gives_the_logits_of_the_plain_network_in_float32(name):
    setting = Setting.synthetic(SMALL)
    plain = "resnet50-fp32" if name.startswith("resnet50") else "fp32"
    logits = partial(infer.VARIANTS[name], dtype=torch.float32)(setting)()
    expected = infer.VARIANTS[plain](setting)()
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_variants_that_compute_something_else_are_not_compared(monkeypatch, error):
    monkeypatch.setitem(infer.VARIANTS, "bf16", partial(infer.build, model="resnet50"))
    assert "bf16 computes something else" in error(*TINY, "--variants", "fp32", "bf16")


def test_graphs_are_measured_on_a_gpu_and_those_of_steps_only_on_request(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = StepOptions()
    found = prepared(options, infer.VARIANTS)
    assert (found.device, found.batch_size, found.image_size) == ("cuda", 128, 224)
    assert found.variants == list(infer.VARIANTS)
    usual = [name for name in VARIANTS if name not in ON_REQUEST]
    assert prepared(options, VARIANTS, ON_REQUEST).variants == usual
    requested = StepOptions(variants=["graph"])
    assert prepared(requested, VARIANTS, ON_REQUEST).variants == ["graph"]
