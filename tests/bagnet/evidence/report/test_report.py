"""The report page, without a browser: what it shows, what it holds, and clear messages."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bagnet.evidence.__main__ import main
from bagnet.evidence.report.inputs import Framing, read_image
from bagnet.evidence.report.page import write_page
from bagnet.evidence.report.votes import (
    MAX_MAPS,
    Picture,
    decisions,
    look,
    patch_classes,
    shown_classes,
    thresholds,
)
from bagnet.model.network import BagNet
from bagnet.model.registry import build_model
from datamodules.decoding.transforms import EvalTransform

NAMES = ("cat", "dog", "fox")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.ckpt"
    settings = {"name": "bagnet9", "width": 2, "num_classes": len(NAMES)}
    weights = build_model(**settings).state_dict()
    torch.save({"state_dict": weights, "hyper_parameters": settings}, path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("cat/a.png", "dog/b.png"):
        save_noise(tmp_path / "images" / name)
    return tmp_path / "images"


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


def save_noise(path: Path, size: tuple[int, int] = (50, 40), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def report(images: Path, checkpoint: Path, *more: str | Path) -> tuple[int, Path]:
    out = checkpoint.parent / "report.html"
    sizes = ("--image-size", "32", "--resize-size", "36")
    command = ["report", images, "--checkpoint", checkpoint, "--out", out, *sizes, *more]
    return main([str(each) for each in command]), out


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    code, out = report(*arguments)
    message = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert not out.is_file()
    assert message.startswith("error: ")
    return message


def data_of(page: Path) -> dict:
    html = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


def random_picture(classes: int, side: int, seed: int = 0) -> Picture:
    random = torch.Generator().manual_seed(seed)
    evidence = torch.randn(classes, side, side, generator=random) * 5
    pixels = torch.randint(0, 256, (3, 32, 32), generator=random, dtype=torch.uint8)
    return Picture("x.png", 1, pixels, evidence.mean((1, 2)), evidence)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(50, 40), (33, 90)])
def test_the_network_sees_the_same_pixels_as_in_validation(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    path = tmp_path / "x.png"
    if mode == "I;16":
        values = np.random.default_rng(0).integers(0, 65536, size).astype(np.uint16)
        Image.fromarray(values).save(path)
    else:
        save_noise(path, size, mode)
    expected = EvalTransform(32, 36)(path.read_bytes())
    assert torch.equal(read_image(path, Framing(36, 32)), expected)


def test_the_network_sees_the_same_pixels_of_a_jpeg(tmp_path: Path) -> None:
    path = save_noise(tmp_path / "x.jpg")
    expected = EvalTransform(32, 36)(path.read_bytes())
    assert torch.equal(read_image(path, Framing(36, 32)), expected)


def test_a_whole_image_keeps_its_shape(tmp_path: Path) -> None:
    path = save_noise(tmp_path / "x.png", size=(40, 80))
    assert read_image(path, Framing(36, None)).shape == (3, 36, 72)


def test_the_page_holds_the_networks_own_numbers(
    images: Path, checkpoint: Path, classes: Path
) -> None:
    """The mean of each map is the logit of the network's forward pass, to float32's precision."""
    code, page = report(images, checkpoint, "--classes", classes)
    assert code == 0
    data = data_of(page)
    assert [(image["name"], image["true"]) for image in data["images"]] == [
        ("cat/a.png", 0),
        ("dog/b.png", 1),
    ]
    for image in data["images"]:
        logits = np.frombuffer(base64.b64decode(image["logits"]), "<f4")
        maps = np.frombuffer(base64.b64decode(image["maps"]), "<f4")
        maps = maps.reshape(len(logits), image["rows"] * image["columns"])
        assert image["rows"] == image["columns"] == 3
        assert sorted(image["classes"]) == [0, 1, 2]
        np.testing.assert_allclose(maps.mean(1), logits, rtol=1e-4, atol=1e-6)
        assert np.ptp(maps) > 0


def test_votes_below_the_threshold_count_as_nothing() -> None:
    steps = np.array([0, 1, 4, 8], np.float32)
    changes = 0
    for seed in range(20):
        evidence = random_picture(7, 5, seed).evidence
        votes = evidence.double().numpy().reshape(7, 25)
        expected = [int(np.where(votes >= t, votes, 0).mean(1).argmax()) for t in steps]
        assert decisions(evidence, steps) == expected
        changes += len(set(expected)) > 1
        assert decisions(evidence, np.array([votes.max() + 1], np.float32)) == [-1]
    assert changes  # else a wrong threshold would pass


def test_at_threshold_zero_the_decision_is_that_of_the_clipped_mean() -> None:
    for seed in range(20):
        evidence = random_picture(50, 4, seed).evidence
        clipped = evidence.clamp(min=0).double().mean((1, 2))
        assert decisions(evidence, np.zeros(1, np.float32)) == [int(clipped.argmax())]


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1, 40])
def test_thresholds_are_round_numbers_up_to_the_strongest_vote(scale: float) -> None:
    evidence = random_picture(5, 6).evidence * scale
    steps = thresholds(evidence)
    strongest = float(evidence.max())
    assert steps[0] == 0
    assert 15 < len(steps) <= 41
    assert steps[-1] <= strongest < steps[-1] + 1.001 * steps[1]
    assert f"{steps[1]:e}"[0] in "125"


def test_a_threshold_where_all_votes_are_against() -> None:
    evidence = torch.full((2, 3, 3), -1.0)
    assert thresholds(evidence).tolist() == [0]
    assert decisions(evidence, thresholds(evidence)) == [-1]


def test_what_can_matter_is_shown() -> None:
    picture = random_picture(1000, 24)
    decided = decisions(picture.evidence, thresholds(picture.evidence))
    shown = shown_classes(picture, decided)
    assert len(shown) == len(set(shown)) == MAX_MAPS
    assert shown[:10] == picture.logits.topk(10).indices.tolist()
    assert {1, *decided} - {-1} <= set(shown)
    few = random_picture(12, 3)
    assert sorted(shown_classes(few, [])) == list(range(12))


def test_the_top_classes_of_a_patch_are_in_order() -> None:
    evidence = random_picture(30, 4).evidence
    logits, classes = patch_classes(evidence)
    assert logits.shape == classes.shape == (4, 4, 5)
    order = evidence[:, 2, 3].argsort(descending=True)[:5]
    assert torch.equal(classes[2, 3], order)
    assert torch.equal(logits[2, 3], evidence[order, 2, 3])


def test_fifty_images_of_a_thousand_classes_stay_below_20_mb(tmp_path: Path) -> None:
    model = BagNet(33, num_classes=2, width=2)
    picture = random_picture(1000, 24)
    noise = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)  # the largest JPEG there is
    picture = Picture("x.png", 1, noise, picture.logits, picture.evidence)
    names = [f"a rather long name of class {number}" for number in range(1000)]
    sizes = []
    for count in (1, 2):
        write_page(tmp_path / "page.html", [picture] * count, names, model, "x.ckpt")
        sizes.append((tmp_path / "page.html").stat().st_size)
    assert sizes[0] + 49 * (sizes[1] - sizes[0]) < 20e6


def test_the_page_names_only_itself(images: Path, checkpoint: Path) -> None:
    _, page = report(images, checkpoint)
    html = page.read_text(encoding="utf-8")
    assert re.search(r"(src|href)=|https?:|@import|url\(", html) is None
    assert "default-src 'none'" in html


def test_texts_from_outside_cannot_end_the_data(images: Path, checkpoint: Path) -> None:
    name = "<img src=x onerror=alert(1)><!-- <script>.png"
    save_noise(images / name)
    _, page = report(images, checkpoint)
    assert "<img src" not in page.read_text(encoding="utf-8")
    assert data_of(page)["images"][0]["name"] == name


def test_folders_are_classes_by_id_or_name(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    for ids, names in ((("x", "dog", "cat"), NAMES), (("n1", "n2", "n3"), ("fox", "cat", "dog"))):
        manifest.write_text(json.dumps({"classes": ids, "class_names": names}))
        code, page = report(images, checkpoint, "--classes", manifest)
        assert code == 0
        data = data_of(page)
        assert data["names"] == list(names)
        expected = [(ids if "cat" in ids else names).index(each) for each in ("cat", "dog")]
        assert [image["true"] for image in data["images"]] == expected


def test_a_shared_name_gets_the_id(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.tsv"
    classes.write_text("0\tcat\tcrane\n1\tdog\tcrane\n2\tn3\tfox\n")
    _, page = report(images, checkpoint, "--classes", classes)
    assert data_of(page)["names"] == ["crane (cat)", "crane (dog)", "fox"]


def test_without_classes_as_many_folders_are_the_classes(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, page = report(images, checkpoint)
    assert [image["true"] for image in data_of(page)["images"]] == [None, None]
    assert "no class names: give --classes" in capsys.readouterr().err
    save_noise(images / "bee/c.png")
    _, page = report(images, checkpoint)
    assert data_of(page)["names"] == ["bee", "cat", "dog"]
    assert [image["true"] for image in data_of(page)["images"]] == [0, 1, 2]
    assert "sorted order" in capsys.readouterr().err


def test_only_images_are_taken_and_no_hidden_files(images: Path, checkpoint: Path) -> None:
    for name in ("cat/._a.png", ".cache/a.png", "cat/notes.txt"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_text("no image")
    save_noise(images / "cat/Z.PNG")
    code, page = report(images, checkpoint)
    assert code == 0
    names = [image["name"] for image in data_of(page)["images"]]
    assert names == ["cat/Z.PNG", "cat/a.png", "dog/b.png"]


def test_one_image_is_enough(images: Path, checkpoint: Path) -> None:
    code, page = report(images / "cat/a.png", checkpoint)
    assert code == 0
    assert [image["name"] for image in data_of(page)["images"]] == ["a.png"]


def test_an_unreadable_image_is_named(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = images / "dog/b.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    assert f"{broken} cannot be read" in error_of(capsys, images, checkpoint)
    broken.write_text("no image")
    assert f"{broken} cannot be read" in error_of(capsys, images, checkpoint)


def test_no_bagnet_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"name": "alexnet", "num_classes": 2}
    path = tmp_path / "alexnet.ckpt"
    weights = build_model("alexnet", 2).state_dict()
    torch.save({"state_dict": weights, "hyper_parameters": settings}, path)
    assert "AlexNet is no BagNet" in error_of(capsys, images, path)


def test_bad_input_gets_one_clear_message(
    images: Path, checkpoint: Path, classes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message(*more: str | Path, folder: Path = images) -> str:
        return error_of(capsys, folder, checkpoint, *more)

    small = message("--image-size", "8")
    assert "8x8 pixels is smaller than the patch of 9x9" in small
    assert "8x8 pixels is smaller" in message("--whole", "--resize-size", "8")
    assert "--image-size is 0" in message("--image-size", "0")
    assert "--resize-size of at least 64" in message("--image-size", "64")
    assert "no such folder" in message(folder=images / "nowhere")
    (images / "none").mkdir()
    assert "has no images" in message(folder=images / "none")
    assert "cannot be read: No such file" in message("--classes", images / "nowhere.txt")
    assert "there is no checkpoint" in message("--checkpoint", images / "nowhere.ckpt")
    assert "--out is the folder" in message("--out", images)
    classes.write_text("cat\ndog\n")
    assert "lists 2 classes and the network tells 3 apart" in message("--classes", classes)
    classes.write_text("cat\nwolf\nfox\n")
    assert "the folder 'dog' is none of the 3 classes" in message("--classes", classes)
    manifest = classes.with_suffix(".json")
    for text in ("{}", "[]", "{", '{"classes": [1], "class_names": [2]}'):
        manifest.write_text(text)
        assert "neither a manifest.json nor" in message("--classes", manifest)


def test_too_many_images_are_refused(
    images: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bagnet.evidence.report.inputs.MAX_IMAGES", 1)
    assert "has 2 images and a page holds at most 1" in error_of(capsys, images, checkpoint)


def test_a_diverged_network_is_refused() -> None:
    model = BagNet(9, num_classes=2, width=2)
    model.fc.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits for x.png are not finite"):
        look(model, torch.zeros(3, 16, 16, dtype=torch.uint8), "x.png", None)
