"""Maps against masks: evidence that lies in the mask scores 1, and the files have the scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.maps import evidence_map, pixel_evidence
from bagnet.experiments.__main__ import main
from bagnet.experiments.explanations import localization, scores
from bagnet.experiments.explanations.options import LocalizationOptions
from bagnet.experiments.measuring.parts import read_file
from bagnet.experiments.options import DataOptions
from bagnet.model.registry import normalize
from bagnet.model.weights import load_model
from datamodules.demo.generate import PLANTED
from datamodules.demo.pictures import SIZE
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.experiments.conftest import read_csv, save_network

CLASSES = 9  # of the demo
WITH_MASK = (0, 1, 2, 4, 5, 7, 8, 11)  # of 12
MAPS = {"dense": dense_evidence, "pixel": pixel_evidence}


def write_masks(demo: Path, folder: Path) -> Path:
    """Masks of the planted textures, of some images."""
    folder.mkdir()
    planted = json.loads((demo / "val" / PLANTED).read_text())["images"]
    for number in WITH_MASK:
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for top, left, bottom, right in planted[f"val-{number:06d}"]["textures"]:
            mask[top:bottom, left:right] = 255
        Image.fromarray(mask).save(folder / f"val-{number:06d}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {
        f"net{patch}": save_network(folder / f"{patch}.ckpt", patch, CLASSES) for patch in (9, 17)
    }


@pytest.fixture(scope="module")
def words(
    demo: Path, weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    masks = write_masks(demo, tmp_path_factory.mktemp("masks") / "masks")
    models = [f"{label}={path}" for label, path in weights.items()]
    where = ["--data.root", str(demo), "--gpus", "0", "--data.workers", "0", "--masks", str(masks)]
    sizes = ["--data.image_size", "56", "--data.resize_size", "64"]
    return ["localization", "--models", *models, *where, *sizes]


@pytest.fixture(scope="module")
def out(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert main([*words, "--out", str(out)]) == 0
    return out


def test_the_scores_are_those_of_the_networks_maps_and_masks(out, words, demo, weights):
    data = ImageNetDataModule(str(demo), workers=0, image_size=56, resize_size=64)
    ids = np.array(WITH_MASK)
    (images, labels, _), _ = data.batches("val")[0, ids]
    folder = Path(words[words.index("--masks") + 1])
    table = {(row["model"], row["map"]): row for row in read_csv(out / "localization/table.csv")}
    for label, path in weights.items():
        model = load_model(path).eval()
        inputs = normalize(images)
        with torch.no_grad():
            right = model(inputs).argmax(1) == labels
        rows = read_file(out / "localization" / f"{label}.parquet").to_pylist()
        assert [row["sample_id"] for row in rows] == list(WITH_MASK)
        expected: dict[str, list[float]] = {}
        for n, row in enumerate(rows):
            with Image.open(folder / row["file"]) as file:
                # Halfway between pixels, resizing could choose either.
                whole = np.asarray(file.resize((64, 64), Image.Resampling.NEAREST)) > 0
            mask = whole[4:60, 4:60]
            near = distance_transform_edt(~mask) < 15
            true = int(labels[n])
            numbers = {"area": mask.mean(), "near": near.mean()}
            votes = evidence_map(model, inputs[n : n + 1])[0, true].numpy()
            numbers["small"], numbers["strongest"] = scores.sparsity(votes)
            for name, compute in MAPS.items():
                evidence = compute(model, inputs[n], true).numpy()
                numbers[f"points_{name}"] = scores.points(evidence, near)
                numbers[f"precision_{name}"] = scores.average_precision(evidence, mask)
                numbers[f"iou_{name}"] = scores.overlap(evidence, mask)
            assert {name: row[name] for name in numbers} == pytest.approx(numbers, rel=1e-3)
            assert (row["rank"] == 0) == bool(right[n])
            for name, value in numbers.items():
                expected.setdefault(name, []).append(float(value))
        for name in MAPS:
            line = table[label, name]
            assert line["images"] == "8"
            for score in ("points", "precision", "iou"):
                own = np.mean(expected[f"{score}_{name}"])
                assert float(line[score]) == pytest.approx(own, rel=1e-3)
                assert float(line[f"{score}_low"]) <= own + 1e-6
                assert float(line[f"{score}_high"]) >= own - 1e-6
            assert float(line["top1"]) == pytest.approx(float(right.float().mean()))
    chance, area = table["random order", ""], np.array(expected["area"])
    assert float(chance["precision"]) == pytest.approx(area.mean())
    assert float(chance["points"]) == pytest.approx(np.mean(expected["near"]))
    assert float(chance["iou"]) == pytest.approx((area / (2 - area)).mean())


def test_masks_of_the_strongest_evidence_score_1(demo, weights, tmp_path):
    """The strongest tenth of each dense map of net9."""
    data = ImageNetDataModule(str(demo), workers=0, image_size=SIZE, resize_size=SIZE)
    (images, labels, ids), _ = data.batches("val")[0, np.arange(5)]
    model = load_model(weights["net9"]).eval()
    for image, label, number in zip(normalize(images), labels, ids, strict=True):
        evidence = dense_evidence(model, image, int(label)).numpy()
        mask = evidence >= np.percentile(evidence, 90)
        Image.fromarray(mask).save(tmp_path / f"val-{int(number):06d}.png")
    size = ["--data.image_size", str(SIZE), "--data.resize_size", str(SIZE)]
    where = ["--data.root", str(demo), "--masks", str(tmp_path), "--out", str(tmp_path / "out")]
    models = ["--models", f"net9={weights['net9']}", "--data.workers", "0", "--gpus", "0"]
    assert main(["localization", *models, *where, *size]) == 0
    dense, pixel, _ = read_csv(tmp_path / "out" / "localization" / "table.csv")
    for score in ("points", "precision", "iou"):
        assert float(dense[score]) == pytest.approx(1, abs=1e-3)
    assert float(pixel["iou"]) < 0.9


def test_it_says_what_is_left_out(words, demo, tmp_path, capsys):
    masks = write_masks(demo, tmp_path / "masks")
    Image.new("L", (SIZE, SIZE)).save(masks / "val-000005.png")
    Image.new("L", (SIZE, SIZE)).save(masks / "of-training.png")
    options = LocalizationOptions(
        models=[words[2]],
        data=DataOptions(str(demo), image_size=SIZE, resize_size=SIZE),
        out=tmp_path,
        masks=masks,
        limit=6,
    )
    measurement, samples = localization.prepare(options)
    assert samples == [0, 1, 2, 4, 7, 8]
    assert measurement.shown == tuple(samples)
    assert capsys.readouterr().out.splitlines() == [
        "7 of 12 validation images have a mask; left out: 4 without one, and 1 with nothing of it "
        "in the crop",
        f"{masks} has 1 files that are no masks of these images",
    ]


def test_it_draws_the_same_again_from_the_rows_alone(out, tmp_path):
    folder = shutil.copytree(out, tmp_path / "out") / "localization"
    drawn = {file: file.read_bytes() for file in folder.glob("[tfi]*")}
    assert {file.name for file in drawn} >= {"table.csv", "table.md", "figure.png", "images.png"}
    for file in drawn:
        file.unlink()
    assert main(["localization", "--out", str(tmp_path / "out")]) == 0
    assert {file: file.read_bytes() for file in folder.glob("[tfi]*")} == drawn
    assert main(["report", "--out", str(tmp_path / "out")]) == 0
    assert 'alt="localization: images"' in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda masks: [], "add --masks FOLDER"),
        (lambda masks: ["--masks", f"{masks}-none"], "masks-none"),
        (lambda masks: ["--masks", str(masks), "--limit", "3"], "3 images with a mask are too few"),
    ],
)
def test_what_cannot_be_measured_is_one_message(
    change: Callable[[Path], list[str]], message, words, tmp_path, capsys
):
    start = words.index("--masks")
    masks = Path(words[start + 1])
    others = words[:start] + words[start + 2 :]
    assert main([*others, "--out", str(tmp_path), *change(masks)]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after warnings
    assert message in line
    assert not list(tmp_path.glob("*/*"))


def test_results_with_other_masks_are_not_mixed(out, words, demo, tmp_path, capsys):
    masks = write_masks(demo, tmp_path / "masks")
    Image.new("L", (SIZE, SIZE), 1).save(masks / "val-000004.png")
    folder = shutil.copytree(out, tmp_path / "out")
    assert main([*words, "--masks", str(masks), "--out", str(folder)]) == 2
    assert "holds the results of another measurement" in capsys.readouterr().err
