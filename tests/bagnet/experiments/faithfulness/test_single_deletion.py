"""Single deletion: networks whose score is known, and the figures of the authors' code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor, nn
from torchvision.transforms import v2

from bagnet.experiments.__main__ import main
from bagnet.experiments.faithfulness import single_deletion
from bagnet.experiments.faithfulness.single_deletion import SingleDeletion, rank_correlations
from bagnet.experiments.measuring import statistics
from bagnet.experiments.measuring.parts import read_file
from bagnet.model.registry import build_model, normalize
from tests.bagnet.experiments.bags import Linear, pictures
from tests.bagnet.experiments.conftest import CLASSES, flags, read_csv

METHODS = ["evidence", "pixel_evidence", "gradient_x_input", "gradcam", "random"]


class Waves(nn.Module):
    """One convolution and one linear layer, whose weights are given by formulas."""

    def __init__(self) -> None:
        super().__init__()
        numbers = torch.arange(6 * 3 * 5 * 5, dtype=torch.float64)
        self.convolution = nn.Parameter((1.7 * numbers).sin().view(6, 3, 5, 5) / 5)
        self.fc = nn.Parameter((2.3 * torch.arange(18, dtype=torch.float64)).cos().view(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.conv2d(x.double(), self.convolution, stride=2).relu()
        return maps.mean((2, 3)) @ self.fc.T


def columns_of(model, images, labels, *methods, grid=4, pooling="mean"):
    measurement = SingleDeletion(methods, grid, "zero", pooling, 0)
    return measurement(model, images, labels, torch.arange(len(images)))


@pytest.mark.parametrize(
    ("method", "grid", "expected"),
    [
        ("gradient_x_input", 4, 0.8361344537815125),
        ("gradient_x_input", 3, 0.8738095238095239),
        ("integrated_gradients", 3, 0.8738095238095239),
        ("saliency", 4, 0.03781512605042015),
    ],
)
def test_the_score_is_that_of_the_authors_code(method, grid, expected):
    """`single_deletion.py` of github.com/visinf/idsds at 6038935 gave these numbers.

    It was run by hand on this network and these images, with the attributions of this package.
    """
    numbers = torch.arange(7 * 3 * 24 * 24, dtype=torch.float64)
    images = (127.5 + 127.5 * (numbers * numbers * 0.0137).sin()).to(torch.uint8)
    images, labels = images.view(7, 3, 24, 24), torch.arange(7) % 3
    columns = columns_of(Waves(), images, labels, method, grid=grid)
    found = rank_correlations(columns[method], columns["falls"]).mean()
    assert found == pytest.approx(expected, abs=1e-12)


def test_falls_ranks_and_attributions_are_those_of_a_plain_loop():
    model, images, labels = Waves(), pictures(3, 24), torch.tensor([1, 0, 2])
    columns = columns_of(model, images, labels, "gradient_x_input")
    x = normalize(images).requires_grad_()
    logits = model(x)
    (gradients,) = torch.autograd.grad(logits[range(3), labels].sum(), x)
    for n, label in enumerate(labels):
        for cell in range(16):
            rows, across = (slice(6 * k, 6 * k + 6) for k in divmod(cell, 4))
            deleted = x[n].detach().clone()
            deleted[:, rows, across] = 0
            after = model(deleted[None])[0].detach()
            fall = float(logits[n, label].detach() - after[label])
            assert columns["falls"][n, cell] == pytest.approx(fall, abs=1e-9)
            assert columns["rank_deleted"][n, cell] == (after > after[label]).sum()
            share = (gradients * x)[n, :, rows, across].sum().item() / 36
            assert columns["gradient_x_input"][n, cell] == pytest.approx(share, rel=1e-4, abs=1e-6)


def test_the_order_of_a_linear_bag_is_known_to_its_attributions_and_not_to_chance():
    images, labels = pictures(150, 16), torch.ones(150, dtype=torch.long)
    methods = ("gradient_x_input", "deeplift", "random")
    columns = columns_of(Linear(16), images, labels, *methods)
    scores = {name: rank_correlations(columns[name], columns["falls"]) for name in methods}
    np.testing.assert_allclose(scores["gradient_x_input"], 1)
    np.testing.assert_allclose(scores["deeplift"], 1)
    # Of 16 cells, a random order has the standard deviation 1 / sqrt(15).
    assert abs(scores["random"].mean()) < 3 / np.sqrt(15 * 150)
    assert scores["random"].std() == pytest.approx(1 / np.sqrt(15), rel=0.2)


def test_pixel_evidence_has_the_order_of_the_falls_if_no_patch_sees_two_cells():
    torch.manual_seed(0)
    model = build_model("bagnet-0-0-0-0", 4, 4).eval()
    assert (model.receptive_field, model.stride) == (3, 8)
    images, labels = pictures(5, 32), torch.tensor([0, 1, 2, 3, 0])
    columns = columns_of(model, images, labels, "pixel_evidence", "evidence")
    scores = rank_correlations(columns["pixel_evidence"], columns["falls"])
    np.testing.assert_allclose(scores, 1)
    # The patches around all pixels are others than those that the logit is the mean of.
    assert (rank_correlations(columns["evidence"], columns["falls"]) < 0.999).any()


def test_rank_correlations_are_scipys_also_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (20, 16)), rng.random((20, 16))
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlations(a, b), expected)
    np.testing.assert_allclose(rank_correlations(a, -a), -1)


def test_images_without_an_order_are_left_out_of_the_mean():
    falls = np.tile(np.arange(4.0), (6, 1))
    flat = falls.copy()
    flat[::2] = 7
    scores = rank_correlations(flat, falls)
    assert np.isnan(scores).tolist() == [True, False] * 3
    interval = statistics.bootstrap(single_deletion.mean_of_known, scores)
    assert (interval.value, interval.low, interval.high) == (1, 1, 1)
    none = statistics.bootstrap(single_deletion.mean_of_known, np.full(6, np.nan))
    assert f"{none:.3f}" == "–"


@pytest.fixture(scope="module")
def words(shards: Path, networks: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A BagNet, and a network that has no evidence."""
    path = tmp_path_factory.mktemp("resnet") / "weights.pth"
    torch.manual_seed(0)
    torch.save(build_model("resnet50", CLASSES, 2).state_dict(), path)
    words = flags(shards, networks, Path())
    models = ["--models", f"bagnet9={networks / '9.ckpt'}", f"resnet50={path}"]
    start = words.index("--data.root")
    rest = [*words[start : start + 2], *words[words.index("--gpus") :]]
    return [*models, *rest, "--data.image_size", "36", "--data.resize_size", "36", "--limit", "6"]


@pytest.fixture(scope="module")
def out(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(statistics.bootstrap.__kwdefaults__, "samples", 50)
        patch.setattr(single_deletion, "METHODS", tuple(METHODS))
        assert main(["single_deletion", *words, "--out", str(out)]) == 0
    return out


def test_without_methods_each_network_has_all_that_explain_it(out):
    folder = out / "single_deletion"
    rows = {(row["model"], row["method"]): row for row in read_csv(folder / "table.csv")}
    assert [method for label, method in rows if label == "bagnet9"] == METHODS
    assert [method for label, method in rows if label == "resnet50"] == METHODS[2:]
    assert (folder / "figure.png").is_file()
    for (label, method), row in rows.items():
        table = read_file(folder / f"{label}.parquet")
        pairs = zip(table[method].to_pylist(), table["falls"].to_pylist(), strict=True)
        scores = [stats.spearmanr(a, b).statistic for a, b in pairs if len(set(a)) > 1]
        assert int(row["images"]) == 6
        assert int(row["no_order"]) == 6 - len(scores)
        assert float(row["correlation"]) == pytest.approx(np.mean(scores))
        assert float(row["top1"]) == (table["rank"].to_numpy() == 0).mean()
        deleted = np.array(table["rank_deleted"].to_pylist())
        assert deleted.shape == (6, 16)
        assert float(row["top1_deleted"]) == pytest.approx((deleted == 0).mean())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--grid 5", "--grid 5 does not cut images of 36 px into equal cells: give one of 2, 3, 4"),
        ("--grid 1", "--grid 1 does not cut images of 36 px"),
        ("--methods evidence", "ResNet is not a BagNet"),
    ],
)
def test_what_cannot_be_measured_is_one_message_before_anything_is(
    more, message, words, tmp_path, capsys
):
    assert main(["single_deletion", *words, "--out", str(tmp_path), *more.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert message in line
    assert not list(tmp_path.glob("*/*"))


def test_the_recipe_in_the_description_deletes_a_sixteenth_of_half_of_the_images():
    config = single_deletion.__doc__[single_deletion.__doc__.index("    data:") :]
    (step,) = yaml.safe_load(config[: config.index("\n\n")])["data"]["augment"]
    assert step["class_path"] == f"{v2.__name__}.RandomErasing"
    erase = v2.RandomErasing(**step["init_args"])
    torch.manual_seed(0)
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    deleted = [int((erase(image) == 115).sum()) for _ in range(100)]
    assert set(deleted) == {0, 3 * 12 * 12}
    assert 35 < np.count_nonzero(deleted) < 65
