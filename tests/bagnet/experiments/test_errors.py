"""The errors experiment on made-up predictions, and on real ones."""

from __future__ import annotations

from math import comb

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bagnet.experiments.__main__ import main
from bagnet.experiments.errors import Pair, most_different
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
    accuracies = np.array([[0.5, 0.9, 0.1], [0.5, 0.7, 0.8]])
    nothing = np.zeros((2, 0))
    pair = Pair(
        ("a", "b"), np.array([0, 2, 5]), np.array([2, 10, 10]), accuracies, nothing, nothing
    )
    first, second = most_different(pair, ["p", "q", "r", "s", "t", "u"], 2)
    assert (first["class"], second["class"]) == ("u", "r")
    assert first["difference"] == pytest.approx(-0.7)
    assert (second["first_accuracy"], second["second_accuracy"]) == (0.9, 0.7)


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
    fewer, more = sorted((int(other["only_first"]), int(other["only_second"])))
    tail = sum(comb(fewer + more, k) for k in range(fewer + 1)) / 2 ** (fewer + more)
    assert float(other["mcnemar"]) == pytest.approx(min(1, 2 * tail))
    assert len(read_csv(folder / "classes.csv")) == 3 * 5
    with Image.open(folder / "figure.png") as picture:
        assert picture.width > 2.5 * picture.height
    # Without a model, from the results that exist.
    (tmp_path / "out" / "accuracy" / "copy.parquet").unlink()
    assert main(["errors", "--out", str(tmp_path / "out"), "--top", "1"]) == 0
    assert read_csv(folder / "table.csv") == [other]


def test_one_network_alone_is_a_clear_error(command, capsys):
    assert main(["errors", *command[:2], *command[3:]]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "only the results of bagnet9" in message
    assert "give two" in message
