"""Networks and humans on generated data in the toolbox's layout, against plain loops."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from statistics import mean

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo

from bagnet.experiments.__main__ import main
from bagnet.experiments.decisions import humans
from bagnet.experiments.decisions.observers import Trials, classes_of, cues, figures, trials_of
from bagnet.experiments.measuring.parts import read_record
from bagnet.model.card import Card, set_card
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from bagnet.model.weights import load_model, save_weights
from datamodules.pack.__main__ import main as pack
from datamodules.pack.sources.humans import condition_of, read_answers
from tests.bagnet.experiments import toolbox
from tests.bagnet.experiments.conftest import read_csv
from tests.bagnet.experiments.toolbox import CATEGORIES, CONDITIONS

DATASETS = ("contrast", "false-colour", "sketch", "cue-conflict")
WNIDS = tuple(ImageNetInfo().label_names())
EXCLUDED = {"contrast": ("c100", "c03", "c01"), "false-colour": ("true",)}


def network(path: Path, classes: tuple[str, ...] = (), outputs: int = 1000) -> Path:
    """A narrow BagNet with random weights that prefers no class."""
    torch.manual_seed(0)
    model = BagNet(9, outputs, width=4).eval()
    model.fc.weight.data.normal_(0, 3)
    with torch.no_grad():
        model.fc.bias -= model(torch.randn(64, 3, 1, 1).expand(-1, -1, 17, 17)).mean(0)
    if classes:  # the outputs are in this order
        order = torch.tensor([WNIDS.index(wnid) for wnid in classes])
        model.fc.weight.data = model.fc.weight.data[order]
        model.fc.bias.data = model.fc.bias.data[order]
    set_card(model, Card("bagnet9", classes))
    save_weights(model, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `toolbox`, its `packed` images, and the network `net.safetensors`."""
    folder = tmp_path_factory.mktemp("humans")
    toolbox.generate(folder / "toolbox", DATASETS, count=6, humans=3)
    words = ["humans", str(folder / "toolbox"), str(folder / "packed"), "--workers", "1"]
    assert pack(words) == 0
    network(folder / "net.safetensors")
    return folder


def run(folder: Path, out: Path, *more: str, model: Path | None = None) -> list[dict[str, str]]:
    words = ["--models", f"net={model or folder / 'net.safetensors'}", "--data.workers", "0"]
    words += ["--data.root", str(folder / "packed"), "--data.image_size", "33", "--gpus", "0"]
    assert main(["humans", *words, "--out", str(out), *more]) == 0
    return read_csv(out / "humans" / "table.csv")


def answers(files: Iterable[Path]) -> dict[str, dict[str, tuple[str, str, str]]]:
    """Condition, category and answer by observer and image, read without any code of ours."""
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    for file in files:
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                image = row["imagename"].split("_10_")[1]
                entry = row["condition"], row["category"], row["object_response"]
                found.setdefault(row["subj"], {})[image] = entry
    return found


def plain(pair: list[dict[str, tuple[str, str, str]]], excluded: tuple[str, ...]) -> list[float]:
    """Squared difference, observed and error consistency of two observers, trial by trial."""
    rows = []
    for condition in {entry[0] for entry in pair[0].values()} - set(excluded):
        names = [name for name, entry in pair[0].items() if entry[0] == condition]
        right = [[one[name][1] == one[name][2] for name in names] for one in pair]
        p, q = map(mean, right)
        observed = mean(a == b for a, b in zip(*right, strict=True))
        expected = p * q + (1 - p) * (1 - q)
        error = 1.0 if observed == 1 else (observed - expected) / (1 - expected)
        rows.append(((p - q) ** 2, observed, error))
    return [mean(column) for column in zip(*rows, strict=True)]


def test_the_figures_are_those_of_plain_loops(folder, tmp_path):
    row, of_humans = run(folder, tmp_path)
    table = pq.read_table(tmp_path / "humans/net.parquet").to_pylist()
    assert len(table) == 6 * (8 + 2 + 1 + 1)
    expected: dict[str, list[list[float]]] = {"net": [], "humans": []}
    accuracies: dict[str, list[float]] = {"net": [], "humans": []}
    for name in DATASETS:
        excluded = EXCLUDED.get(name, ())
        observers = answers((folder / "toolbox/raw-data" / name).glob("*.csv"))
        predicted = {
            line["image"]: CATEGORIES[line["predicted"]]
            for line in table
            if line["dataset"] == name
        }
        persons = list(observers.values())
        assert len(persons) == 3
        net = {image: (*entry[:2], predicted[image]) for image, entry in persons[0].items()}
        pairs = {"net": [[net, one] for one in persons], "humans": combinations(persons, 2)}
        for who, all_pairs in pairs.items():
            columns = zip(*(plain([*pair], excluded) for pair in all_pairs), strict=True)
            expected[who].append([mean(column) for column in columns])
        for who, group in {"net": [net], "humans": persons}.items():
            counted = [e for one in group for e in one.values() if e[0] not in excluded]
            accuracies[who].append(mean(entry[1] == entry[2] for entry in counted))
    for who, found in {"net": row, "humans": of_humans}.items():
        assert float(found["accuracy"]) == pytest.approx(mean(accuracies[who]), abs=1e-12)
        means = [mean(column) for column in zip(*expected[who], strict=True)]
        names = ("difference", "observed", "consistency")
        assert [float(found[key]) for key in names] == pytest.approx(means, abs=1e-12)
        assert float(found["accuracy_low"]) < float(found["accuracy"])
    assert (row["datasets"], row["images"]) == ("4", str(6 * (5 + 1 + 1 + 1)))
    assert read_record(tmp_path / "humans/net.parquet")["resize_size"] == 33  # they are not resized
    before = (tmp_path / "humans/table.csv").read_bytes()
    assert main(["humans", "--out", str(tmp_path)]) == 0  # without the data
    assert (tmp_path / "humans/table.csv").read_bytes() == before
    assert main(["report", "--out", str(tmp_path)]) == 0
    assert "accuracy</figcaption>" in (tmp_path / "report.html").read_text()


def test_the_decision_is_the_category_with_the_largest_mean_probability(folder, tmp_path):
    run(folder, tmp_path)
    table = pq.read_table(tmp_path / "humans/net.parquet").to_pylist()
    root = folder / "toolbox" / "datasets"
    files = [file.relative_to(root) for file in root.rglob("*.png")]
    by_image = {(file.parts[0], file.name.split("_10_")[-1]): root / file for file in files}
    model = load_model(folder / "net.safetensors")
    bears, ovens = WNIDS.index("n02132136"), WNIDS.index("n04111531")
    for line in table[::7]:
        file = by_image[line["dataset"], line["image"]]
        pixels = torch.from_numpy(np.array(Image.open(file)))
        with torch.no_grad():
            logits = model(normalize(pixels.permute(2, 0, 1)[None]))[0].double().numpy()
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        means = [mean(shares[n] for n in own) for own in classes_of(model)]
        assert means[1] == pytest.approx(shares[bears : bears + 4].mean())
        assert means[14] == pytest.approx(shares[ovens])
        assert line["predicted"] == int(np.argmax(means))
        assert CATEGORIES[line["label"]] in str(file)
    assert len({line["predicted"] for line in table}) > 2


def test_the_classes_are_those_of_the_original():
    """Their number and the sums of their places, from the toolbox's human_categories.py."""
    found = classes_of(BagNet(9, 1000, width=4))
    assert {name: (len(own), sum(own)) for name, own in zip(CATEGORIES, found, strict=True)} == {
        "airplane": (1, 404),
        "bear": (4, 1182),
        "bicycle": (2, 1115),
        "bird": (49, 4213),
        "boat": (5, 3379),
        "bottle": (7, 5502),
        "car": (3, 1764),
        "cat": (6, 1701),
        "chair": (4, 2604),
        "clock": (3, 1831),
        "dog": (109, 22672),
        "elephant": (2, 771),
        "keyboard": (2, 1386),
        "knife": (1, 499),
        "oven": (1, 766),
        "truck": (8, 5637),
    }


def test_a_network_with_its_classes_in_another_order_decides_the_same(folder, tmp_path):
    order = tuple(random.Random(1).sample(WNIDS, 1000))
    other = network(tmp_path / "other.safetensors", order)
    run(folder, tmp_path / "a")
    run(folder, tmp_path / "b", model=other)
    a, b = (pq.read_table(tmp_path / x / "humans/net.parquet") for x in "ab")
    assert a["predicted"].equals(b["predicted"])


@pytest.mark.slow
def test_two_processes_give_the_same_rows(folder, tmp_path):
    assert run(folder, tmp_path / "a") == run(folder, tmp_path / "b", "--processes", "2")
    a, b = (pq.read_table(tmp_path / x / "humans/net.parquet") for x in "ab")
    assert a.equals(b)


@pytest.mark.parametrize(
    ("classes", "outputs", "message"),
    [
        ((), 12, "a network with 12 classes"),
        ((*WNIDS[:999], "n99999999"), 1000, "a network with 1,000 classes, and the 16"),
    ],
)
def test_a_network_with_other_classes_is_refused(
    folder, tmp_path, capsys, classes, outputs, message
):
    model = BagNet(9, outputs, width=4)
    set_card(model, Card("bagnet9", classes))
    save_weights(model, tmp_path / "net.safetensors")
    words = ["--models", f"net={tmp_path / 'net.safetensors'}", "--out", str(tmp_path)]
    words += ["--data.root", str(folder / "packed"), "--data.image_size", "33", "--gpus", "0"]
    assert main(["humans", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_data_without_answers_is_refused(folder, shards, tmp_path, capsys):
    words = ["--models", f"net={folder / 'net.safetensors'}", "--data.root", str(shards)]
    assert main(["humans", *words, "--out", str(tmp_path)]) == 2
    assert "pack the images with `python -m datamodules.pack humans`" in capsys.readouterr().err


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The decisions of three persons and the observer `network` in all data sets."""
    folder, rows = tmp_path_factory.mktemp("toy"), []
    code = {**{name: place for place, name in enumerate(CATEGORIES)}, "na": -1}
    for name in CONDITIONS:
        for who in ("subject-01", "subject-02", "subject-03"):
            toolbox.write_answers(folder, who, name, count=12)
        said = read_answers(folder / "raw-data" / name)
        for condition, category, image in toolbox.images_of(name, 12):
            answer = toolbox.decide("network", name, condition, category, image)
            row = {"dataset": name, "condition": condition_of(condition), "image": image}
            row |= {"label": code[category], "predicted": code[answer]}
            rows.append(row | {"humans": [code[said[image][who]] for who in sorted(said[image])]})
    return trials_of(pa.Table.from_pylist(rows))


def test_the_figures_are_those_of_the_original(toy):
    """What the functions of modelvshuman/plotting at commit 79ed7cd give for the same files:
    get_mean_over_datasets, get_raw_benchmark_df with format_benchmark_df, and ShapeBias.
    """
    expected = {
        "network": (
            *(0.7585784313725491, 0.017994281045751633, 0.7733932461873638, 0.2549385356677287),
            1.0,
        ),
        "humans": (
            *(0.739433551198257, 0.022004357298474945, 0.7300653594771243, 0.1616566233682512),
            0.9722222222222222,
        ),
    }
    for label, numbers in expected.items():
        total, each = humans._compare(label, toy)
        own = slice(1, None) if label == "humans" else slice(0, 1)
        shape, texture = cues(toy, own).sum(0)
        found = [total[key].value for key in humans.FIGURES] + [shape / (shape + texture)]
        assert found == pytest.approx(numbers, abs=1e-9)
        assert total["images"] == 12 * 46
        if label == "network":
            by_name = {row["dataset"]: row for row in each}
            found = [by_name["contrast"][key].value for key in ("difference", "observed")]
            assert found == pytest.approx([0.015740740740740743, 0.6888888888888889], abs=1e-9)
            assert by_name["edge"]["consistency"].value == pytest.approx(-0.0606060606060598)


def test_shape_bias_by_hand():
    """Shape bird: shape, texture, neither; then no conflict; then another data set."""
    names = ("bird1-cat2.png", "bird2-cat3.png", "bird3-dog1.png", "bird4-bird1.png")
    birds, decided = np.full(4, 3), np.array([[3], [7], [0], [3]])
    conflict = Trials("cue-conflict", "", birds, names, decided)
    counted = cues([conflict, Trials("edge", "", birds, names, decided)], slice(0, 1))
    assert counted[3].tolist() == [1, 1]
    assert counted.sum() == 2


def test_observers_who_always_agree_are_consistent():
    trials = Trials("edge", "", np.zeros(4, int), ("",) * 4, np.zeros((4, 2), int))
    values = figures([trials], slice(0, 1), [(0, 1)], np.random.default_rng(0))
    assert (values.T == (1, 0, 1, 1)).all()
