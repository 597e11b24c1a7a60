"""Evaluation sets from their folders to the numbers, with a network whose answers are known."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from bagnet.experiments.__main__ import main as experiments
from bagnet.experiments.decisions import networks as network_facts
from bagnet.experiments.decisions.corruptions import ALEXNET, SEVERITIES, _row
from bagnet.experiments.measuring.parts import read_record
from bagnet.experiments.measuring.statistics import share
from bagnet.model.card import Card, set_card
from bagnet.model.network import BagNet
from bagnet.model.weights import save_weights
from bagnet.training.command_line.command import main
from datamodules.pack.__main__ import main as pack
from datamodules.pack.sources.humans import DATASETS
from tests.bagnet.experiments import toolbox
from tests.bagnet.experiments.conftest import read_csv, save_network
from tests.datamodules.pack.builders import image, write

IDS = tuple(f"n{number:08d}" for number in range(101, 113))
RANKING = (5, 0, 7, 11, 2, 9, 1, 3, 4, 6, 8, 10)
"""The classes in the order in which the network ranks them, for every image."""
PAGE = Path(__file__).parent.parent / "docs" / "evaluation-sets.md"
SIZES = ["--data.image_size", "32", "--data.resize_size", "32", "--data.workers", "0"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(network_facts, "SECONDS", 0.0)


@pytest.fixture
def network(tmp_path):
    """A file of weights whose outputs have another order than the list of classes."""
    outputs = random.Random(0).sample(range(12), 12)
    model = BagNet(9, 12, width=4)
    model.fc.weight.data.zero_()
    model.fc.bias.data = -torch.tensor([float(RANKING.index(label)) for label in outputs])
    set_card(model, Card("bagnet9", tuple(IDS[label] for label in outputs)))
    save_weights(model, tmp_path / "network.safetensors")
    return tmp_path / "network.safetensors"


@pytest.fixture
def packed(tmp_path):
    """Packs images of classes, as {place: labels of the images}; returns the folder."""
    index = {str(label): [wnid, f"name {label}"] for label, wnid in enumerate(IDS)}
    names = write(tmp_path / "imagenet_class_index.json", json.dumps(index).encode())

    def packed(sets, folder_name=IDS.__getitem__):
        for place, labels in sets.items():
            for number, label in enumerate(labels):
                path = tmp_path / "in" / place / folder_name(label) / f"{number}.JPEG"
                write(path, image(number, size=32))
        words = ["imagefolder", tmp_path / "in", tmp_path / "packed", "--classes", names]
        assert pack([*map(str, words), "--workers", "1"]) == 0
        return tmp_path / "packed"

    return packed


def validated(capsys, network, root):
    """What `validate` prints."""
    capsys.readouterr()
    words = ["--patch", "9", "--model.width", "4", "--gpus", "0", *SIZES]
    words += ["--model.weights", str(network), "--data.root", str(root)]
    words += ["--aggregations", "[median]"]
    assert main(["validate", *words, "--trainer.enable_progress_bar", "false"]) == 0
    return capsys.readouterr().out


def measured(network, root, out, name="accuracy", *more):
    """The table of an experiment."""
    words = ["--models", f"known={network}", "--data.root", str(root), "--out", str(out), *SIZES]
    assert experiments([name, *words, "--gpus", "0", *more]) == 0
    return read_csv(out / name / "table.csv")


def test_of_imagenet_a_and_r_only_the_classes_with_images_can_win(
    network, packed, tmp_path, capsys
):
    """The leading class, 5, is not among them; 7 is the first that is, and then 11, 2, 9, ..."""
    root = packed({"": [7, 7, 7, 11, 2, 9, 3, 4, 4, 6]})
    said = validated(capsys, network, root)
    assert "7 of 12 classes have images, and only these count" in said
    assert "validation   top-1 30.00%, top-5 70.00%" in said
    assert "median       top-1 30.00%, top-5 70.00%" in said
    (row,) = measured(network, root, tmp_path / "out")
    assert (row["classes"], row["images"]) == ("7", "10")
    assert (float(row["top1"]), float(row["top5"])) == (0.3, 0.7)
    (again,) = read_csv(tmp_path / "out/accuracy/table.csv")
    assert experiments(["accuracy", "--out", str(tmp_path / "out")]) == 0  # without the data
    assert read_csv(tmp_path / "out/accuracy/table.csv") == [again]


def test_the_loss_is_that_of_the_classes_with_images(network, packed, capsys):
    said = validated(capsys, network, packed({"": [7, 2, 2]}))
    logits = np.array([-RANKING.index(7), -RANKING.index(2)], dtype=float)
    likelihoods = logits - np.log(np.exp(logits).sum())
    loss = -(likelihoods[0] + 2 * likelihoods[1]) / 3
    assert f"loss {loss:.6f}" in said


@pytest.mark.parametrize("name", [IDS.__getitem__, str], ids=["sketch", "v2"])
def test_of_imagenet_sketch_and_v2_all_classes_count(network, packed, tmp_path, capsys, name):
    root = packed({"": [*range(12), 5, 5, 0]}, name)
    said = validated(capsys, network, root)
    assert "only these count" not in said
    assert "validation   top-1 20.00%, top-5 53.33%" in said
    (row,) = measured(network, root, tmp_path / "out")
    assert (row["classes"], float(row["top1"])) == ("12", 0.2)


def conditions(names):
    """For each condition, ten images; as many of them are wrong as the function says."""
    return {
        f"{name}/{severity}": [5] * (10 - wrong) + [0] * wrong
        for number, name in enumerate(names)
        for severity in SEVERITIES
        for wrong in [(number + 2 * severity) % 10]
    }


def errors_of(sets):
    """The errors as `corruptions` has them, from the images of each condition."""
    shares = {}
    for place, labels in sets.items():
        name, severity = place.split("/")
        ranks = np.array([RANKING.index(label) for label in labels])
        shares[name, int(severity)] = share(ranks >= 1), share(ranks >= 5), len(ranks)
    return shares


def test_the_mce_by_hand():
    """Half of the images wrong everywhere: CE = 0.5 / AlexNet's error."""
    sets = {f"{name}/{severity}": [5, 0] for name in ALEXNET for severity in SEVERITIES}
    row = _row("a", errors_of({**sets, "spatter/1": [0, 0]}))
    inverse = [
        *(1.12812, 1.11798, 1.08385, 1.21969, 1.21026, 1.27235, 1.25257, 1.15365),
        *(1.20982, 1.22052, 1.77119, 1.17205, 1.54785, 1.39307, 1.64880),
    ]
    assert row["mce"] == pytest.approx(0.5 * sum(inverse) / 15, abs=1e-5)
    assert row["top1"] == 0.5
    del sets["fog/5"]
    assert _row("a", errors_of(sets))["mce"] is None


@pytest.mark.slow
def test_the_mce_is_that_of_the_formula(network, packed, tmp_path, capsys):
    sets = conditions([*reversed(ALEXNET), "spatter"])
    root, out = packed(sets), tmp_path / "out"
    capsys.readouterr()
    (row,) = measured(network, root, out, "corruptions")
    assert "the mCE needs" not in capsys.readouterr().out
    wrong = {place: labels.count(0) / 10 for place, labels in sets.items()}
    ces = [
        sum(wrong[f"{name}/{severity}"] for severity in SEVERITIES) / 5 / alexnet
        for name, alexnet in ALEXNET.items()
    ]
    assert float(row["mce"]) == pytest.approx(sum(ces) / 15)
    counted = [share for place, share in wrong.items() if "spatter" not in place]
    assert float(row["top1"]) == pytest.approx(1 - sum(counted) / 75)
    assert (row["images"], row["conditions"], float(row["top5"])) == ("10", "75", 1.0)
    each = read_csv(out / "corruptions/corruptions.csv")
    assert [line["corruption"] for line in each] == [*ALEXNET, "spatter"]
    assert float(each[0]["ce"]) == pytest.approx(ces[0])
    assert float(each[0]["error3"]) == wrong["gaussian_noise/3"]
    assert (each[15]["ce"], each[15]["alexnet"]) == ("", "")
    assert (out / "corruptions/figure.png").is_file()


def test_a_stopped_measurement_resumes_and_too_few_conditions_have_no_mce(
    network, packed, tmp_path, capsys
):
    sets = conditions(["fog", "snow"])
    root = packed({place: labels for place, labels in sets.items() if place[-1] in "14"})
    out = tmp_path / "out"
    (row,) = measured(network, root, out, "corruptions")
    assert (row["mce"], row["conditions"]) == ("", "4")
    message = "71 of these conditions are missing, such as gaussian_noise/1"
    assert message in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert len(kept) == 4
    gone = kept.popitem()[0]
    gone.unlink()
    assert measured(network, root, out, "corruptions") == [row]
    assert gone.is_file()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    table = (out / "corruptions/corruptions.md").read_bytes()
    assert experiments(["corruptions", "--out", str(out)]) == 0
    assert (out / "corruptions/corruptions.md").read_bytes() == table
    assert experiments(["report", "--out", str(out)]) == 0


def test_the_commands_of_the_page_run(network, packed, tmp_path, monkeypatch, capsys):
    """On a few images, with the network of this file."""
    monkeypatch.chdir(tmp_path)
    packed({"a": [7, 7, 2], "c/fog/1": [5, 0], "c/fog/2": [0, 0]})
    for name in ("a", "c"):
        Path(f"imagenet-{name}").symlink_to(tmp_path / "in" / name)
    thousand = save_network(tmp_path / "thousand.ckpt", classes=1000)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (download,) = (block for block in blocks if block.startswith("git clone"))
    names = list(DATASETS)
    assert download.replace("\\", " ").split("in ", 1)[1].split("do\n")[0].split() == names
    toolbox.generate(Path("model-vs-human"), names[-2:])
    blocks.remove(download)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) == 8
    for words in commands:
        program, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
        if program == "datamodules.pack":
            assert pack([*arguments, "--workers", "1"]) == 0
        elif program == "bagnet.experiments":
            file = thousand if arguments[0] == "humans" else network
            arguments[arguments.index("bagnet33")] = f"known={file}"
            assert experiments([*arguments, *SIZES, "--gpus", "0"]) == 0
        else:
            arguments[arguments.index("bagnet33")] = str(network)
            small = ["--patch", "9", "--model.width", "4", "--gpus", "0", *SIZES]
            assert main([*arguments, *small, "--trainer.enable_progress_bar", "false"]) == 0
    said = capsys.readouterr().out
    assert "validation   top-1 66.67%" in said  # ImageNet-A
    assert "validation   top-1 50.00%" in said  # fog/1
    assert Path("results/corruptions/table.md").is_file()
    assert Path("results/humans/table.md").is_file()


def test_the_images_of_imagenet_c_are_not_resized(network, packed, tmp_path):
    root = packed({"fog/1": [5, 0]})
    sizes = ["--data.image_size", "24", "--data.workers", "0", "--gpus", "0"]
    words = ["--models", f"known={network}", "--data.root", str(root), "--out", str(tmp_path)]
    assert experiments(["corruptions", *words, *sizes]) == 0
    record = read_record(tmp_path / "corruptions/fog/1/known.parquet")
    assert (record["image_size"], record["resize_size"]) == (24, 24)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "known={}"], "add --data.root DIR"),
        (["--models", "known={}", "--data.root", "."], "has no CORRUPTION/SEVERITY/val: pack"),
        ([], "has no CORRUPTION/SEVERITY/val: pack"),
    ],
)
def test_what_is_missing_is_one_line(network, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    words = [word.format(network) for word in words]
    assert experiments(["corruptions", *words, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
