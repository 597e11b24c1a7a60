"""The errors experiment on made-up predictions, and on real ones."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from bagnet.experiments.__main__ import main
from bagnet.experiments.decisions.errors import _row, draw, most_different
from bagnet.experiments.decisions.pairs import Pair
from bagnet.experiments.measuring.statistics import Interval, kappa, share_of
from tests.bagnet.experiments.conftest import read_csv


def table(labels: list[int], ranks: list[int], ids: list[int] | None = None) -> pa.Table:
    """Predictions; class 9 is predicted if the rank is not 0."""
    predicted = [label if rank == 0 else 9 for label, rank in zip(labels, ranks, strict=True)]
    ids = ids or list(range(len(labels)))
    return pa.table({"sample_id": ids, "label": labels, "rank": ranks, "predicted": predicted})


def test_accuracies_are_counted_class_by_class_and_empty_classes_left_out():
    labels = [0, 0, 0, 0, 3, 3]
    tables = {"a": table(labels, [0, 0, 0, 2, 5, 0]), "b": table(labels, [1, 0, 7, 7, 0, 0])}
    pair = Pair.of(("a", "b"), tables, top=1)
    assert pair.classes.tolist() == [0, 3]
    assert pair.images.tolist() == [4, 2]
    assert pair.accuracies.tolist() == [[0.75, 0.5], [0.25, 1.0]]
    assert pair.right.sum(1).tolist() == [4, 3]
    wider = Pair.of(("a", "b"), tables, top=5)
    assert wider.accuracies.tolist() == [[1.0, 0.5], [0.5, 1.0]]
    assert (wider.right == pair.right).all()  # images are compared by the predicted class


def test_only_images_that_both_have_count():
    tables = {
        "a": table([0, 1, 1], [0, 0, 3], [4, 7, 9]),
        "b": table([1, 1, 2], [3, 0, 0], [7, 9, 11]),
    }
    pair = Pair.of(("a", "b"), tables, top=1)
    assert pair.right.tolist() == [[True, False], [False, True]]
    assert pair.classes.tolist() == [1]


def test_the_classes_that_differ_most_come_first_whatever_the_sign():
    hits = np.array([[1, 9, 1], [1, 7, 8]])
    nothing = np.zeros((2, 0))
    images = np.array([2, 10, 10])
    pair = Pair(("a", "b"), np.array([0, 2, 5]), images, hits, hits[0], nothing, nothing)
    first, second = most_different(pair, ["p", "q", "r", "s", "t", "u"], 2)
    assert (first["class"], second["class"]) == ("u", "r")
    assert first["difference"] == pytest.approx(-0.7)
    assert second["first_accuracy"] == share_of(9, 10)
    assert second["second_accuracy"] == share_of(7, 10)


def test_it_compares_all_pairs_that_accuracy_has_measured(command, networks, tmp_path):
    third = f"copy={networks / '17.ckpt'}"
    assert main(["errors", command[0], third, *command[1:], "--top", "1"]) == 0
    folder = tmp_path / "out" / "errors"
    pairs = {(row["first"], row["second"]): row for row in read_csv(folder / "table.csv")}
    assert list(pairs) == [("bagnet9", "copy"), ("bagnet9", "mine"), ("copy", "mine")]
    same, other = pairs["copy", "mine"], pairs["bagnet9", "mine"]
    assert float(same["kappa"]) == float(same["consistency"]) == float(same["pearson"]) == 1
    assert (same["only_first"], same["only_second"], same["mcnemar"]) == ("0", "0", "1.0")
    assert other["images"] == "53"
    assert float(other["kappa"]) < 0.9
    assert float(other["ceiling"]) <= 1
    fewer, more = sorted((int(other["only_first"]), int(other["only_second"])))
    tail = sum(math.comb(fewer + more, k) for k in range(fewer + 1)) / 2 ** (fewer + more)
    assert float(other["mcnemar"]) == pytest.approx(min(1, 2 * tail))
    assert float(other["mcnemar_holm"]) == pytest.approx(min(1, 3 * 2 * tail))
    assert len(read_csv(folder / "classes.csv")) == 3 * 5
    # Without a model, from the results that exist.
    (tmp_path / "out" / "accuracy" / "copy.parquet").unlink()
    assert main(["errors", "--out", str(tmp_path / "out"), "--top", "1"]) == 0
    assert read_csv(folder / "table.csv") == [{**other, "mcnemar_holm": other["mcnemar"]}]


def test_the_figure_has_a_dot_for_each_pair_of_accuracies_and_says_how_sure_r_is():
    labels = [*range(7)] * 4
    ranks = {"a": [0, 0, 0, 1, 1, 1, 0], "b": [0, 0, 1, 1, 1, 0, 0], "c": [1, 0, 0, 1, 0, 0, 0]}
    tables = {name: table(labels, own * 4) for name, own in ranks.items()}
    pairs = [Pair.of(names, tables, 1) for names in (("a", "b"), ("a", "c"), ("b", "c"))]
    rows = [
        {"pearson": Interval(0.4, -0.1, 0.8), "noiseless": Interval(0.5, 0, 1)},
        {"pearson": None, "noiseless": None, "classes": 4},
        {"pearson": Interval(*[math.nan] * 3), "noiseless": None},
    ]
    figure = draw(pairs, rows, top=1)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == [
        "r = 0.40 (-0.10 to 0.80)\nwithout noise 0.50",
        "4 classes, too few for r",
        "r not defined",
    ]
    (dots,) = shown[0].collections
    assert sorted(map(tuple, dots.get_offsets())) == [(0, 0), (0, 100), (100, 0), (100, 100)]
    assert sorted(dots.get_sizes()) == [30, 30, 60, 90]  # 1, 1, 2 and 3 classes
    assert "7 classes" in figure.get_supxlabel()
    assert all(axes.get_xlabel().endswith(", %") for axes in figure.axes if axes.get_xlabel())


def test_few_classes_leave_out_the_correlations_and_nothing_else():
    labels = [0, 1, 2, 0, 1, 2]
    tables = {"a": table(labels, [0, 1, 0, 0, 0, 1]), "b": table(labels, [0, 0, 1, 0, 1, 0])}
    row = _row(Pair.of(("a", "b"), tables, 1))
    correlations = ("pearson", "ceiling", "noiseless", "spearman")
    assert all(row[name] is None for name in correlations)
    predicted = [tables[name]["predicted"].to_numpy() for name in "ab"]
    assert row["kappa"].value == pytest.approx(kappa(*predicted))


def simulated(images: int, *, same_noise: bool) -> tuple[Pair, float]:
    """A pair whose accuracies of 400 classes correlate by 0.6, and the noise ceiling of these."""
    rng = np.random.default_rng(0)
    common, own = rng.uniform(-1, 1, (1, 400)), rng.uniform(-1, 1, (2, 400))
    accuracies = 0.5 + 0.3 * (math.sqrt(0.6) * common + math.sqrt(0.4) * own)
    hard = rng.random((400, images, 1 if same_noise else 2))  # how hard each image is
    ranks = (hard >= accuracies.T[:, None]).astype(int).reshape(-1, 2).T
    labels = np.repeat(np.arange(400), images).tolist()
    tables = {
        name: table(labels, list(map(int, own))) for name, own in zip("ab", ranks, strict=True)
    }
    signal = 0.3**2 / 3
    noise = (0.25 - signal) / images
    return Pair.of(("a", "b"), tables, 1), signal / (signal + noise)


@pytest.mark.parametrize("same_noise", [False, True])
def test_the_correlation_without_noise_is_that_of_the_true_accuracies(same_noise):
    pair, ceiling = simulated(20, same_noise=same_noise)
    row = _row(pair)
    assert row["noiseless"].low < 0.6 < row["noiseless"].high
    assert row["noiseless"].value == pytest.approx(0.6, abs=0.08)
    assert row["ceiling"].value == pytest.approx(ceiling, abs=0.04)
    if same_noise:  # the same images make it too high: r divided by the ceiling would be wrong
        assert row["pearson"].value / row["ceiling"].value > 0.8
    else:  # noise makes it too low
        assert row["pearson"].high < 0.6
        assert row["pearson"].value / row["ceiling"].value == pytest.approx(0.6, abs=0.08)


def test_noise_alone_and_single_images_have_no_correlation_without_noise():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 6).tolist()
    tables = {name: table(labels, rng.integers(0, 2, 120).tolist()) for name in "ab"}
    row = _row(Pair.of(("a", "b"), tables, 1))  # all classes are equally hard
    assert row["ceiling"].low == 0
    assert row["noiseless"] is None
    tables = {name: table(list(range(8)), [0, 1] * 4) for name in "ab"}
    row = _row(Pair.of(("a", "b"), tables, 1))
    assert row["pearson"].value == 1
    assert (row["ceiling"], row["noiseless"]) == (None, None)


def test_one_network_alone_is_a_clear_error_before_anything_is_measured(command, capsys, tmp_path):
    assert main(["errors", *command[:2], *command[3:]]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "there is only bagnet9" in message
    assert "give two" in message
    assert not (tmp_path / "out").exists()
