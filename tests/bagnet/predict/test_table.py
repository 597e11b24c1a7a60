"""The table of predictions says what the network says of each image, and where its evidence is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from PIL import Image

from bagnet.evidence.maps import evidence_map
from bagnet.model.registry import normalize
from bagnet.model.weights import load_model
from datamodules.decoding.transforms import EvalTransform
from tests.bagnet.evidence.report.test_command import save_network, save_noise
from tests.bagnet.predict.conftest import CARD


def box_of(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(row[f"evidence_{side}"] for side in ("top", "left", "bottom", "right"))


def test_the_table_says_what_the_network_says_in_the_order_of_the_files(predict, weights, images):
    single = save_noise(images.parent / "single.png", (40, 40))
    rows = predict(single, images).to_pylist()
    names = ["img9.png", "img10.png", "inner/deep/c.jpg"]
    assert [row["file"] for row in rows] == [str(single), *(str(images / name) for name in names)]
    model = load_model(weights)
    for row in rows:
        pixels = EvalTransform(40, 40)(Path(row["file"]).read_bytes())
        x = normalize(pixels[None])
        probabilities = model(x)[0].softmax(0).detach()
        values, classes = probabilities.topk(5)
        for rank, (value, number) in enumerate(zip(values, classes.tolist(), strict=True), 1):
            assert row[f"class_{rank}"] == CARD["classes"][number]
            assert row[f"name_{rank}"] == CARD["class_names"][number]
            assert row[f"probability_{rank}"] == pytest.approx(float(value), rel=1e-4)
        evidence = evidence_map(model, x)[0, classes[0]]
        i, j = divmod(int(evidence.argmax()), evidence.shape[1])
        assert row["evidence_logit"] == pytest.approx(float(evidence[i, j]), rel=1e-4)
        assert box_of(row) == model.box(i, j)
    assert "class_6" not in rows[0]


def test_the_csv_and_the_parquet_file_are_the_same_table(predict, images):
    save_noise(images / 'new\nline, "quote".png', (40, 40))
    save_noise(images / os.fsdecode(b"latin-\xe9.png"), (40, 40))
    table = predict(images)
    convert = pyarrow.csv.ConvertOptions(column_types=table.schema)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    assert pyarrow.csv.read_csv("predictions.csv", None, parse, convert).equals(table)
    assert f"{images}/latin-\\xe9.png" in table["file"].to_pylist()
    assert f'{images}/new\nline, "quote".png' in table["file"].to_pylist()


def test_pixels_outside_of_the_box_say_nothing_about_the_strongest_evidence(predict, images):
    """Of an image of twice the size, cropped: what lies outside of its box is replaced."""
    path = save_noise(images / "large.png", (100, 130))
    (row,) = predict(path, "--data.image_size", "40", "--data.resize_size", "50").to_pylist()
    top, left, bottom, right = box_of(row)
    assert (bottom - top, right - left) == (18, 18)
    margin = 2  # what resampling sees besides
    pixels = np.array(Image.open(path))
    other = 255 - pixels
    inside = np.s_[top - margin : bottom + margin, left - margin : right + margin]
    other[inside] = pixels[inside]
    Image.fromarray(other).save(path)
    model = load_model(images.parent / "tiny.ckpt")
    maps = evidence_map(model, normalize(EvalTransform(40, 50)(path.read_bytes())[None]))
    votes = maps[0, CARD["classes"].index(row["class_1"])]
    kept = (votes - row["evidence_logit"]).abs() < 1e-5
    assert kept.sum() == 1
    i, j = kept.nonzero()[0].tolist()
    # In the crop of 40 x 40 that begins at row 5 and column 12 of 50 x 65, at half the size.
    assert (top, left) == (2 * (5 + 8 * i), 2 * (12 + 8 * j))


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "RGBA", "P", "CMYK"])
def test_any_image_that_the_project_decodes(predict, tmp_path, mode):
    ramp = Image.linear_gradient("L").resize((60, 50))
    image = ramp.convert("I").convert("I;16") if mode == "I;16" else ramp.convert(mode)
    suffixes = {"RGB": ("webp", "bmp", "ppm", "jpg"), "P": ("gif", "png"), "CMYK": ("jpg", "tif")}
    files = [tmp_path / f"image.{suffix}" for suffix in suffixes.get(mode, ("png", "tiff"))]
    for file in files:
        image.save(file)
    assert predict(*files)["file"].to_pylist() == [str(file) for file in files]


def test_another_network_has_no_evidence(predict, tmp_path):
    network = save_network(tmp_path / "alexnet.pth", "alexnet", 3)
    path = save_noise(tmp_path / "x.png", (64, 64))
    words = ("--data.image_size", "64", "--data.resize_size", "64")
    table = predict(path, *words, network=("--model.weights", network))
    (row,) = table.to_pylist()
    pixels = EvalTransform(64, 64)(path.read_bytes())
    logits = load_model(network)(normalize(pixels[None]))[0].detach()
    best = int(logits.argmax())
    # The file does not name its classes.
    assert (row["class_1"], row["name_1"]) == (str(best), str(best))
    assert row["probability_1"] == pytest.approx(float(logits.softmax(0)[best]), rel=1e-5)
    assert (row["evidence_logit"], *box_of(row)) == (None,) * 5
    assert table.schema.field("evidence_top").type == pa.int32()
    assert Path("predictions.csv").read_text().splitlines()[1].endswith(",,,,,")


@pytest.mark.parametrize("classes", [1, 2])
def test_a_network_of_few_classes_has_few_columns(predict, images, tmp_path, classes):
    network = save_network(tmp_path / "few.ckpt", "bagnet9", classes)
    table = predict(
        *(images, "--data.image_size", "40", "--data.resize_size", "40"),
        network=("--model.weights", network),
    )
    ranks = [name for name in table.column_names if name.startswith("class_")]
    assert ranks == ["class_1", "class_2"][:classes]
    total = sum(table[f"probability_{rank + 1}"].to_numpy() for rank in range(classes))
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_among_equal_logits_the_lower_class_comes_first(predict, images, tmp_path):
    saved = torch.load(tmp_path / "tiny.ckpt")
    saved["state_dict"]["fc.weight"].fill_(1)
    saved["state_dict"]["fc.bias"].fill_(0)
    torch.save(saved, tmp_path / "tiny.ckpt")
    row = predict(images).to_pylist()[0]
    assert [row[f"class_{rank}"] for rank in range(1, 6)] == list("abcde")
