"""Sensitivity: networks whose important cells are known, and curves worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from bagnet.experiments.__main__ import main
from bagnet.experiments.faithfulness import maps
from bagnet.experiments.faithfulness.attribution import (
    attribute,
    by_cell,
    check_methods,
    last_maps,
)
from bagnet.experiments.faithfulness.options import SensitivityOptions
from bagnet.experiments.faithfulness.sensitivity import Sensitivity, _counts
from bagnet.experiments.measuring.masking import probability_curves
from bagnet.experiments.options import DataOptions
from bagnet.model.network import BagNet
from bagnet.model.registry import build_model, normalize
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.experiments.bags import Linear, Pixel, pictures, tiny_bagnet
from tests.bagnet.experiments.conftest import flags

SLOW_VGG = pytest.param("vgg16", marks=pytest.mark.slow)  # its linear layers are large
OWN = ("saliency", "integrated_gradients", "smoothgrad")


def measure(model, images, first=0, **settings):
    defaults = {"methods": (*OWN, "random"), "counts": (1, 4), "cell": 8, "seed": 0}
    defaults |= {"fill": "zero", "pooling": "mean"}
    labels, ids = torch.zeros(len(images), dtype=torch.long), torch.arange(len(images)) + first
    return Sensitivity(**defaults | settings)(model, images, labels, ids)


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("pooling", ["mean", "absolute", "max"])
def test_a_network_that_looks_at_one_pixel_is_sensitive_there_only(method, pooling):
    images = torch.full((2, 3, 24, 24), 255, dtype=torch.uint8)
    images[0, :, 3, :] = 250  # or Captum's noise has no range
    settings = {"methods": (method, "random"), "counts": (1, 8, 9), "pooling": pooling}
    columns = measure(Pixel(9, 20), images, **settings)
    assert (columns["target"] == 1).all()
    before = columns["probability"][0]
    assert before > 0.99
    # White becomes the mean colour, however many cells are masked.
    black = Pixel(9, 20)(torch.zeros(1, 3, 24, 24)).double().softmax(1)[0, 1].item()
    np.testing.assert_allclose(columns[method], black)
    np.testing.assert_allclose(columns["random"][:, 2], black)
    assert set(columns["random"][:, :2].flatten().round(6)) <= {round(before, 6), round(black, 6)}


def test_the_curve_of_a_linear_bag_is_the_sigmoid_of_what_is_left():
    model = Linear(16)
    x = torch.ones(1, 3, 16, 16) / 100
    shares = (model.weight.detach() / 100).unflatten(2, (2, 8)).unflatten(1, (2, 8)).sum((0, 2, 4))
    counts, targets = (0, 1, 2, 3, 4), torch.tensor([1])
    curves = probability_curves(model, x, targets, shares[None], counts, cell=8, fill="zero")
    masked = shares.flatten().sort(descending=True)[0].cumsum(0)
    left = shares.sum() - torch.cat([torch.zeros(1), masked])
    torch.testing.assert_close(curves[0], left.double().sigmoid(), rtol=1e-5, atol=1e-6)


def test_integrated_gradients_of_a_linear_bag_are_its_votes():
    model, x = Linear(16), normalize(pictures(2, 16))
    targets, ids = torch.tensor([1, 1]), torch.tensor([0, 1])
    scores = attribute("integrated_gradients", model, x, targets, ids, 0)
    votes = (x * model.weight.detach()).sum(1, keepdim=True)
    torch.testing.assert_close(scores, votes, rtol=1e-4, atol=1e-4)


def test_the_pixel_evidence_of_an_image_sums_to_its_logit():
    model = BagNet(9, 3, width=4).eval()
    x, targets = torch.randn(2, 3, 24, 30), torch.tensor([2, 1])
    scores = attribute("pixel_evidence", model, x, targets, torch.tensor([0, 1]), 0)
    assert scores.shape == (2, 1, 24, 30)
    logits = model(x).detach()[range(2), targets]
    torch.testing.assert_close(scores.sum((1, 2, 3)), logits)
    with pytest.raises(ValueError, match="is not a BagNet"):
        check_methods(["pixel_evidence"], build_model("alexnet", 3))


def test_gradient_times_input_is_what_it_says():
    model = BagNet(9, 3, width=4).eval()
    x, targets = torch.randn(2, 3, 24, 30, requires_grad=True), torch.tensor([2, 1])
    (gradient,) = torch.autograd.grad(model(x)[range(2), targets].sum(), x)
    scores = attribute("gradient_x_input", model, x.detach(), targets, torch.tensor([0, 1]), 0)
    torch.testing.assert_close(scores, (gradient * x).sum(1, keepdim=True).detach())


def test_more_steps_leave_integrated_gradients_a_smaller_gap():
    model, images = tiny_bagnet(9).float(), pictures(3, 32)
    gaps = []
    for steps in (2, 200):
        settings = {"methods": ("integrated_gradients",), "integration_steps": steps}
        columns = measure(model, images, **settings)
        x, target = normalize(images), columns["target"]
        scores = attribute(
            "integrated_gradients", model, x, torch.tensor(target), torch.arange(3), 0, steps
        )
        with torch.no_grad():
            change = (model(x) - model(torch.zeros_like(x)))[range(3), target]
        gap = columns["integrated_gradients_gap"]
        np.testing.assert_allclose(gap, (scores.sum((1, 2, 3)) - change).numpy(), atol=1e-5)
        gaps.append(np.abs(gap).mean())
    assert gaps[1] < 0.1 * gaps[0]


def test_a_cell_counts_with_the_pixels_it_has():
    scores = torch.zeros(1, 1, 10, 12)
    scores[..., 8:, 8:] = -1  # 2x4 pixels
    scores[..., 0, 0] = 64
    assert by_cell(scores, 8, "mean").tolist() == [[[1, 0], [0, -1]]]
    assert by_cell(scores, 8, "absolute").tolist() == [[[1, 0], [0, 1]]]
    assert by_cell(scores, 8, "max").tolist() == [[[64, 0], [0, -1]]]


def test_cells_at_the_border_are_masked_as_far_as_they_go():
    x = torch.ones(1, 3, 10, 12)
    priority = torch.tensor([[[0.0, 0], [0, 1]]])
    seen = []

    def model(images):
        seen.append(images)
        return torch.zeros(1, 2)

    probability_curves(model, x, torch.tensor([0]), priority, (1,), cell=8, fill="zero")
    (masked,) = seen
    assert masked.sum() == 3 * (120 - 2 * 4)
    assert masked[..., 8:, 8:].sum() == 0


@pytest.mark.parametrize("name", ["bagnet9", "alexnet", "resnet50", "densenet169", SLOW_VGG])
def test_gradcam_finds_the_last_maps_of_every_network(name):
    torch.manual_seed(0)
    model = (build_model(name, 3, 4) if name == "bagnet9" else build_model(name, 3)).eval()
    x = normalize(pictures(1, 64))
    before = model(x)
    scores = attribute("gradcam", model, x, torch.tensor([1]), torch.tensor([0]), 0)
    assert torch.equal(model(x), before)
    assert scores.shape == (1, 1, 64, 64)
    assert (scores >= 0).all()
    # Grad-CAM's definition, in torch alone. Some networks change the maps in place, so they get a
    # copy.
    kept = []

    def keep(_module, _inputs, maps):
        kept.append(maps)
        return maps.clone()

    hook = last_maps(model).register_forward_hook(keep)
    logit = model(x)[0, 1]
    hook.remove()
    assert (kept[0] >= 0).all()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    maps = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
    whole = torch.nn.functional.interpolate(maps, (64, 64), mode="bilinear")
    torch.testing.assert_close(scores, whole.detach(), rtol=1e-4, atol=1e-7)


def test_images_are_measured_the_same_in_any_batch_and_leave_the_random_numbers_alone():
    model, images = tiny_bagnet(9).float(), pictures(3, 32)
    torch.manual_seed(7)
    together = measure(model, images, first=5)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))
    alone = [measure(model, images[n, None], first=5 + n) for n in range(3)]
    for name, column in together.items():
        rows = np.concatenate([columns[name] for columns in alone])
        np.testing.assert_allclose(column, rows, rtol=1e-4, atol=1e-6, err_msg=name)
    other = measure(model, images, first=50)
    assert (other["saliency"] == together["saliency"]).all()
    assert (other["random"] != together["random"]).any()


def test_more_cells_than_there_are_cannot_be_masked():
    options = {"out": Path("x"), "data": DataOptions(image_size=24)}
    with pytest.raises(ValueError, match=r"--counts 10: an image of 24x24 px has 9 cells of 8 px"):
        _counts(SensitivityOptions(**options, counts=[1, 10]))
    assert _counts(SensitivityOptions(**options)) == (1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert _counts(SensitivityOptions(out=Path("x"))) == tuple(range(1, 101))


def test_the_maps_are_those_that_are_masked_by(monkeypatch, shards, networks, tmp_path):
    drawn = []
    monkeypatch.setattr(maps, "heatmap_sheet", lambda rows, *words: drawn.append(rows) or Figure())
    words = flags(shards, networks, tmp_path)
    words = [*words, "--explainer", "bagnet9", "mine", "--counts", "1", "--limit", "5"]
    assert main(["sensitivity", *words, "--methods", "evidence", "deeplift", "random"]) == 0
    first, second = drawn  # of bagnet9, and of mine
    data = ImageNetDataModule(str(shards), 53, 0, 33, 36)
    images, _, ids = next(iter(data.val_dataloader()))
    chosen = [53 * n // 5 for n in range(3)]
    x, sample_ids = normalize(images[chosen]), ids[chosen]
    loaded = {"bagnet9": load_model(networks / "9.ckpt"), "mine": load_model(networks / "17.ckpt")}
    for model, rows in zip(loaded.values(), (first, second), strict=True):
        targets = model(x).argmax(1)
        expected = {f"evidence of {name}": ("evidence", each) for name, each in loaded.items()}
        expected["deeplift"] = ("deeplift", model)
        for n, row in enumerate(rows):
            assert [heatmap.title for heatmap in row.maps] == list(expected)
            for heatmap, (method, explained) in zip(row.maps, expected.values(), strict=True):
                scores = attribute(method, explained, x, targets, sample_ids, 0)
                np.testing.assert_allclose(heatmap.values, scores[n, 0], rtol=1e-4, atol=1e-6)
