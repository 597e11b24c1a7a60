"""What commands write, what they draw again without models, and what they refuse."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bagnet.experiments.__main__ import main
from bagnet.experiments.decisions.interactions import Interactions
from bagnet.experiments.decisions.scrambling import ShuffledTiles, Textures
from bagnet.experiments.decisions.textures import Synthesis
from bagnet.experiments.explanations.aggregation import Aggregated
from bagnet.experiments.faithfulness.deletion import Deletion
from bagnet.experiments.faithfulness.sensitivity import Sensitivity
from bagnet.experiments.faithfulness.single_deletion import SingleDeletion
from bagnet.experiments.measuring import statistics
from bagnet.experiments.measuring.models import ModelFile
from bagnet.model.network import BagNet
from bagnet.model.registry import build_model
from bagnet.model.weights import save_weights
from tests.bagnet.experiments.conftest import CLASSES, read_csv
from tests.bagnet.experiments.decisions.test_textures import tiny_vgg

SMALL = {
    name: words.split()
    for name, words in {
        "interactions": "--sides 9 12 --gaps 0 8 --pair_side 8 --pairs 2",
        "scrambling": "--tiles 2 4",
        "sensitivity": "--explainer bagnet9 --counts 1 5 --methods evidence random",
        "deletion": "--steps 4",
        "single_deletion": "--methods evidence random",
        "aggregation": "--thresholds 0 1 --attacks 8",
    }.items()
}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(statistics.bootstrap.__kwdefaults__, "samples", 50)


@pytest.fixture
def words(command: list[str], networks: Path, tmp_path: Path) -> list[str]:
    models = [f"bagnet{patch}={networks / f'{patch}.ckpt'}" for patch in (9, 17)]
    sizes = ["--data.image_size", "36", "--limit", "5", "--out", str(tmp_path)]
    return [*command, *sizes, "--models", *models]


@pytest.mark.parametrize("name", SMALL)
def test_a_command_writes_rows_tables_and_figures_and_draws_them_again_from_the_rows(
    name, words, tmp_path
):
    assert main([name, *words, *SMALL[name]]) == 0
    folder = tmp_path / name
    assert sorted(pq.read_table(folder / "bagnet9.parquet")["sample_id"].to_pylist()) == [
        53 * n // 5 for n in range(5)
    ]
    drawn = [p for p in folder.iterdir() if p.suffix in (".csv", ".md", ".png", ".svg")]
    again = {p: p.read_bytes() for p in drawn if not p.stem.endswith(("examples", "masks", "maps"))}
    assert {p.name for p in again} >= {"table.csv", "table.md", "figure.png", "figure.svg"}
    assert {row["model"] for row in read_csv(folder / "table.csv")} == {"bagnet9", "bagnet17"}
    assert (folder / "masks.png").is_file() == (name == "interactions")
    assert (folder / "bagnet17-maps.png").is_file() == (name == "sensitivity")
    for path in again:
        path.unlink()
    assert main([name, "--out", str(tmp_path)]) == 0
    for path, content in again.items():
        assert path.read_bytes() == content, path


def test_measurements_can_be_pickled_and_their_record_names_weights_not_paths(tmp_path):
    settings = {"methods": ("evidence",), "counts": (1,), "cell": 8, "fill": "zero"}
    settings |= {"pooling": "mean", "seed": 0, "explainer_weights": ("0123abcd",)}
    explainers = (ModelFile("bagnet9", tmp_path / "bagnet9.pth"),)
    sensitivity = Sensitivity(**settings, explainers=explainers)
    for measurement in (
        Aggregated((0.0,), (23,)),
        Deletion(("evidence",), 16, 8, "zero", "mean", 0),
        SingleDeletion(("evidence",), 4, "zero", "mean", 0),
        Interactions((8,), "mean", (0,), 16, 4, 0),
        sensitivity,
        Synthesis(tmp_path, ("pool1",), 5, 0),
        Textures("by vgg16", tmp_path),
        ShuffledTiles((2,), 0),
    ):
        assert pickle.loads(pickle.dumps(measurement)) == measurement
        assert str(tmp_path) not in repr(measurement)
    assert "0123abcd" in repr(sensitivity)


def test_squares_that_no_patch_of_a_bagnet_sees_together_do_not_interact(words, tmp_path):
    assert main(["interactions", *words, *SMALL["interactions"]]) == 0
    folder = tmp_path / "interactions"
    r = {(row["model"], row["side"]): float(row["r"]) for row in read_csv(folder / "table.csv")}
    assert [r["bagnet9", side] for side in ("9", "12")] == pytest.approx([1, 1], abs=1e-3)
    pairs = {
        (row["model"], row["gap"]): float(row["interaction"])
        for row in read_csv(folder / "distance.csv")
    }
    assert pairs["bagnet9", "8"] < 1e-4
    assert min(pairs["bagnet9", "0"], pairs["bagnet17", "0"]) > 0.01
    assert pairs["bagnet17", "8"] > 5e-4


def test_textures_are_made_once_and_measured_like_the_images(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "bagnet.experiments.decisions.textures.load_model", lambda path, name: Features()
    )
    (tmp_path / "vgg.pth").write_bytes(b"weights")
    textures = f"--texture_network mine={tmp_path / 'vgg.pth'} --steps 3 --layers conv1_1 pool1"
    command = ["scrambling", *words, *SMALL["scrambling"], *textures.split()]
    assert main(command) == 0
    pictures = sorted((tmp_path / "textures" / "mine").iterdir())
    assert len(pictures) == 5
    losses = pq.read_table(tmp_path / "textures" / "mine.parquet")
    assert (losses["loss"].to_numpy() < losses["loss_start"].to_numpy()).all()
    assert (tmp_path / "scrambling" / "examples.png").is_file()
    before = (tmp_path / "texturised" / "table.csv").read_bytes()
    monkeypatch.setattr("bagnet.experiments.measuring.results.save_figure", lambda *_: None)
    rows = read_csv(tmp_path / "texturised" / "table.csv")
    assert [(row["model"], row["order"]) for row in rows] == [
        (model, order) for model in ("bagnet9", "bagnet17") for order in ("image", "texture")
    ]
    table = read_csv(tmp_path / "scrambling" / "table.csv")
    clean = {row["model"]: row["top1"] for row in table if row["order"] == "as it is"}
    assert clean == {row["model"]: row["top1"] for row in rows if row["order"] == "image"}
    times = [picture.stat().st_mtime_ns for picture in pictures]
    assert main(command) == 0
    assert [picture.stat().st_mtime_ns for picture in pictures] == times
    assert main(["scrambling", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "texturised" / "table.csv").read_bytes() == before
    # Lost pictures are reported, and other settings are another measurement.
    (tmp_path / "texturised" / "bagnet9.parquet").unlink()
    pictures[0].unlink()
    assert main(command) == 2
    assert "has disappeared: delete" in capsys.readouterr().err
    assert main([*command, "--steps", "4"]) == 2
    assert "give another --out" in capsys.readouterr().err


class Features(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.features = tiny_vgg()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("interactions", "--sides 20", "--sides 20: a grid of squares of 20 px has fewer than two"),
        ("interactions", "--gaps 0 30", "no pair of squares of 8 px with a gap of 30 px fits"),
        ("interactions", "--limit 3", "--limit 3: the statistics need at least 5"),
        ("sensitivity", "--limit 3", "--limit 3: the statistics need at least 5"),
        ("deletion", "--limit 3", "--limit 3: the statistics need at least 5"),
        ("errors", "--limit 3", "--limit 3: the statistics need at least 5"),
        ("patches", "--classes cat", "--classes cat: no such class"),
        ("scrambling", "--tiles 5", "--tiles 5 does not cut images of 36 px into equal tiles"),
        (
            "sensitivity",
            "--explainer vgg",
            "--explainer vgg: evidence and pixel_evidence are",
        ),
        ("sensitivity", "--counts 99", "an image of 36x36 px has 25 cells of 8 px to mask"),
    ],
)
def test_what_cannot_be_measured_is_one_message_before_anything_is(
    name, more, message, words, tmp_path, capsys
):
    assert main([name, *words, *SMALL.get(name, ()), *more.split()]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after warnings
    assert message in line
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("name", ["heatmaps", "patches", "words", "aggregation", "deletion"])
def test_a_second_network_without_evidence_fails_before_the_first_is_measured(
    name, words, tmp_path, capsys
):
    torch.save(build_model("resnet50", CLASSES, 4).state_dict(), tmp_path / "weights.pth")
    words = [*words, f"resnet50={tmp_path / 'weights.pth'}"]  # one more of --models
    assert main([name, *words, *SMALL.get(name, ())]) == 2
    assert "ResNet is not a BagNet" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_each_explainer_has_curves_of_its_own(words, tmp_path):
    methods = ["--methods", "evidence", "pixel_evidence"]
    both = ["--explainer", "bagnet9", "bagnet17"]
    assert main(["sensitivity", *words, *SMALL["sensitivity"], *methods, *both]) == 0
    tables = {
        label: pq.read_table(tmp_path / "sensitivity" / f"{label}.parquet")
        for label in ("bagnet9", "bagnet17")
    }
    names = [f"{method} of bagnet{patch}" for method in methods[1:] for patch in (9, 17)]
    for table in tables.values():
        assert [name for name in table.column_names if " of " in name] == names
        first, second = (np.array(table[name].to_pylist()) for name in names[:2])
        assert first.shape == second.shape == (5, 2)
        assert not np.array_equal(first, second)
    rows = read_csv(tmp_path / "sensitivity" / "table.csv")
    assert [row["method"] for row in rows if row["model"] == "bagnet9"] == names
    # An explainer alone gives the same.
    alone = [*SMALL["sensitivity"], "--explainer", "bagnet17", "--out", str(tmp_path / "alone")]
    assert main(["sensitivity", *words, *alone]) == 0
    table = pq.read_table(tmp_path / "alone" / "sensitivity" / "bagnet9.parquet")
    assert table[names[1]] == tables["bagnet9"][names[1]]


def test_an_explainer_must_be_a_bagnet(words, tmp_path, capsys):
    torch.save(build_model("resnet50", CLASSES, 4).state_dict(), tmp_path / "weights.pth")
    words += ["--models", f"resnet50={tmp_path / 'weights.pth'}"]
    options = [*words, *SMALL["sensitivity"], "--explainer", "resnet50"]
    assert main(["sensitivity", *options]) == 2
    assert "ResNet is not a BagNet" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*SMALL, "accuracy", "heatmaps", "patches", "words"])
def test_no_experiment_takes_a_network_whose_logits_are_not_finite(name, words, tmp_path, capsys):
    torch.manual_seed(0)
    model = BagNet(9, CLASSES, width=2)
    with torch.no_grad():
        model.fc.weight.fill_(3e38)  # finite, as weights that are not can not be read at all
    save_weights(model, tmp_path / "huge.safetensors")
    words = [*words, "--models", f"bagnet9={tmp_path / 'huge.safetensors'}"]
    assert main([name, *words, *SMALL.get(name, [])]) == 2
    error = capsys.readouterr().err
    assert re.search(r"bagnet9: logits for samples \d+ to \d+ are NaN or infinite", error)
    assert not list(tmp_path.glob("*/table.csv"))
