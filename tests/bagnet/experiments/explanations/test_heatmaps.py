"""The maps at every pixel, read from disk and from the picture, are the networks'."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.maps import evidence_map
from bagnet.experiments.__main__ import main
from bagnet.experiments.explanations import heatmaps
from bagnet.experiments.explanations.options import HeatmapsOptions
from bagnet.experiments.measuring import results
from bagnet.experiments.measuring.parts import read_file
from bagnet.model.registry import normalize
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.experiments.conftest import read_csv, save_network

CLASSES = 9  # of the demo
SIZES = ["--data.image_size", "48", "--data.resize_size", "48"]
SAMPLES = (2, 7, 11)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {
        f"net{patch}": save_network(folder / f"{patch}.ckpt", patch, CLASSES) for patch in (9, 17)
    }


@pytest.fixture(scope="module")
def words(demo: Path, weights: dict[str, Path]) -> list[str]:
    models = [f"{label}={path}" for label, path in weights.items()]
    where = ["--data.root", str(demo), "--gpus", "0", "--data.workers", "0"]
    return ["heatmaps", "--models", *models, *where, *SIZES]


@pytest.fixture(scope="module")
def out(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The --out of a run on three images, for three classes."""
    out = tmp_path_factory.mktemp("out")
    shown = ["--samples", "7", "2", "11", "7", "--classes", "predicted", "true", "4"]
    assert main([*words, "--out", str(out), *shown]) == 0
    return out


def test_the_maps_and_numbers_are_those_of_the_networks(out, demo, weights):
    data = ImageNetDataModule(str(demo), workers=0, image_size=48, resize_size=48)
    (images, labels, _), _ = data.batches("val")[0, np.array(SAMPLES)]
    inputs = normalize(images)
    lines = {
        (row["model"], int(row["sample"]), row["class"]): row
        for row in read_csv(out / "heatmaps" / "table.csv")
    }
    for label, path in weights.items():
        model = load_model(path).eval()
        with torch.no_grad():
            logits, native = model(inputs), evidence_map(model, inputs)
        rows = read_file(out / "heatmaps" / f"{label}.parquet").to_pylist()
        assert [row["sample_id"] for row in rows] == list(SAMPLES)
        for n, row in enumerate(rows):
            predicted, true = int(logits[n].argmax()), int(labels[n])
            assert row["shown"] == [predicted, true, 4]
            found = np.reshape(row["evidence"], (3, 48, 48))
            expected = dense_evidence(model, inputs[n], row["shown"]).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
            pixels = images[n].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(np.reshape(row["pixels"], (48, 48, 3)), pixels)
            for number, each in zip(row["shown"], expected, strict=True):
                line = lines[label, SAMPLES[n], data.class_names[number]]
                assert line["predicted"] == data.class_names[predicted]
                assert line["true"] == data.class_names[true]
                numbers = {
                    "logit": float(logits[n, number]),
                    "native_mean": float(native[n, number].mean()),
                    "dense_mean": float(each.mean()),
                    "scale": float(np.percentile(np.abs(each), 99)),
                }
                assert {name: float(line[name]) for name in numbers} == pytest.approx(
                    numbers, rel=1e-4, abs=1e-6
                )


def test_the_native_mean_is_the_logit_and_the_mean_over_all_pixels_is_not(out):
    for row in read_csv(out / "heatmaps" / "table.csv"):
        logit, native, dense = (float(row[n]) for n in ("logit", "native_mean", "dense_mean"))
        assert native == pytest.approx(logit, rel=1e-5, abs=1e-5)
        assert abs(dense - logit) > 1e-4


def test_a_row_is_not_repeated(words, tmp_path):
    """A network that predicts the true class needs no second map for it."""
    shown = ["--samples", "3", "--classes", "true", "predicted", "predicted", "true"]
    assert main([*words, "--out", str(tmp_path), *shown]) == 0
    rows = read_csv(tmp_path / "heatmaps" / "table.csv")
    pairs = [tuple(row["class"] for row in rows[n : n + 2]) for n in range(0, len(rows), 2)]
    assert len(set(pairs)) == len(pairs) <= 2
    assert pairs[0] == (rows[0]["true"],) * 2


def test_it_draws_the_same_again_from_the_rows_alone(out, tmp_path, capsys):
    folder = shutil.copytree(out, tmp_path / "out") / "heatmaps"
    drawn = {file: file.read_bytes() for file in folder.glob("[tf]*")}
    assert {file.name for file in drawn} >= {"table.csv", "table.md", "figure.png", "figure.svg"}
    for file in drawn:
        file.unlink()
    assert main(["heatmaps", "--out", str(tmp_path / "out")]) == 0
    assert {file: file.read_bytes() for file in folder.glob("[tf]*")} == drawn
    assert main(["report", "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'alt="heatmaps: figure"' in page
    assert "samples 2, 7, 11; classes predicted, true, 4" in page


def test_random_images_follow_from_the_seed():
    first, same, other = (
        heatmaps.choose_samples(HeatmapsOptions(out=Path(), limit=9, seed=seed), 1000)
        for seed in (0, 0, 1)
    )
    assert first == same == tuple(sorted(set(first)))
    assert len(first) == 9
    assert first != other


def test_many_images_go_into_several_figures(words, tmp_path):
    assert main([*words, "--out", str(tmp_path), "--limit", "9", "--classes", "0"]) == 0
    folder = tmp_path / "heatmaps"
    assert len({row["sample"] for row in read_csv(folder / "table.csv")}) == 9
    assert {file.name for file in folder.glob("*.png")} == {"figure.png", "figure-02.png"}
    with Image.open(folder / "figure-02.png") as picture:
        assert picture.width > picture.height  # one row


def test_the_picture_shows_each_map_in_its_own_colours(out, monkeypatch):
    figures: list[Figure] = []
    monkeypatch.setattr(results, "save_figure", lambda figure, stem: figures.append(figure))
    assert main(["heatmaps", "--out", str(out)]) == 0
    (figure,) = figures
    rows = read_csv(out / "heatmaps" / "table.csv")
    maps = [axes for axes in figure.axes if len(axes.images) == 2]  # the map, and edges over it
    assert len(maps) == len(rows)
    for axes, row in zip(maps, rows, strict=True):
        name, numbers = axes.get_title(loc="left").split("\n")
        assert name == f"{row['model']}: {row['class']}"
        predicted = "predicted, " * (row["class"] == row["predicted"])
        stated = f"logit {float(row['logit']):.3f}, s = {float(row['scale']):.3g}"
        assert numbers == predicted + stated
        assert axes.images[0].get_clim() == pytest.approx(
            (-float(row["scale"]), float(row["scale"]))
        )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--classes", "cat"], "--classes cat: no such class; give the id, name or number"),
        (["--classes", "9"], "--classes 9: no such class"),
        (["--samples", "12"], "--samples 12: the validation images have the ids 0 to 11"),
        (["--data.image_size", "12"], "12"),  # smaller than a patch
    ],
)
def test_what_cannot_be_shown_is_one_message_before_anything_is(
    more, message, words, tmp_path, capsys
):
    assert main([*words, "--out", str(tmp_path), *more]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after warnings
    assert message in line
    assert not list(tmp_path.glob("*/*"))


def test_too_many_images_are_refused():
    for options in (
        HeatmapsOptions(out=Path(), limit=33),
        HeatmapsOptions(out=Path(), samples=list(range(33))),
    ):
        with pytest.raises(ValueError, match="these are 33 images, and at most 32"):
            heatmaps.choose_samples(options, 100)
    assert len(heatmaps.choose_samples(HeatmapsOptions(out=Path(), limit=33), 20)) == 20
