"""The report without a browser: what it finds, what it holds, and clear messages."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bagnet.evidence.__main__ import main
from bagnet.evidence.report.html_file import write_report
from bagnet.evidence.report.inputs import read_image
from bagnet.evidence.report.votes import ImageVotes
from bagnet.model.network import BagNet
from bagnet.model.registry import build_model, normalize
from bagnet.model.weights import load_model
from datamodules.decoding.transforms import EvalTransform, WholeTransform
from tests.bagnet.evidence.report.reported import random_votes

NAMES = ("cat", "dog", "fox")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_network(tmp_path / "tiny.ckpt", "bagnet9", len(NAMES))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("cat/a.png", "dog/b.jpg"):
        save_noise(tmp_path / "images" / name)
    return tmp_path / "images"


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


def save_network(path: Path, name: str, classes: int) -> Path:
    settings = {"name": name, "width": 2, "num_classes": classes}
    weights = build_model(**settings).state_dict()
    torch.save({"state_dict": weights, "hyper_parameters": settings}, path)
    return path


def save_noise(path: Path, size: tuple[int, int] = (50, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def report(images: Path, checkpoint: Path, *more: str | Path) -> tuple[int, Path]:
    out = checkpoint.parent / "report.html"
    sizes = ("--data.image_size", "32", "--data.resize_size", "36")
    command = ["report", images, "--checkpoint", checkpoint, "--out", out, *sizes, *more]
    return main([str(each) for each in command]), out


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    code, out = report(*arguments)
    message = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert not out.is_file()
    assert message.startswith("error: ")
    return message


def data_of(report: Path) -> dict:
    html = report.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


def labels_of(report: Path) -> list[int | None]:
    return [image["true"] for image in data_of(report)["images"]]


def test_the_network_sees_what_it_sees_in_validation_and_the_mean_of_a_map_is_its_logit(
    images: Path, checkpoint: Path, classes: Path
) -> None:
    code, page = report(images, checkpoint, "--classes", classes)
    assert code == 0
    model = load_model(checkpoint)
    names = ("cat/a.png", "dog/b.jpg")
    for label, (image, name) in enumerate(zip(data_of(page)["images"], names, strict=True)):
        assert (image["name"], image["true"]) == (name, label)
        assert sorted(image["classes"]) == [0, 1, 2]
        assert image["rows"] == image["columns"] == 3
        logits = np.frombuffer(base64.b64decode(image["logits"]), "<f4")
        pixels = EvalTransform(32, 36)((images / name).read_bytes())
        expected = model(normalize(pixels[None]))[0].detach().numpy()
        np.testing.assert_array_equal(logits, expected[image["classes"]])
        maps = np.frombuffer(base64.b64decode(image["maps"]), "<f4").reshape(len(logits), 9)
        np.testing.assert_allclose(maps.mean(1), logits, rtol=1e-4, atol=1e-6)
        assert np.ptp(maps) > 0


def test_a_whole_image_is_resized_as_in_validation_and_keeps_its_shape(
    tmp_path: Path, checkpoint: Path
) -> None:
    path = save_noise(tmp_path / "x.png", size=(40, 80))
    whole = read_image(path, WholeTransform(36))
    assert whole.shape == (3, 36, 72)
    assert torch.equal(whole[:, 2:34, 20:52], read_image(path, EvalTransform(32, 36)))
    _, page = report(path, checkpoint, "--whole", "true")
    (image,) = data_of(page)["images"]
    assert (image["height"], image["width"]) == (36, 72)


def test_fifty_images_of_a_thousand_classes_stay_below_20_mb(tmp_path: Path) -> None:
    model = BagNet(33, num_classes=2, width=2)
    votes = random_votes(1000, 24)
    noise = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)  # the largest possible JPEG
    image = ImageVotes("x.png", 1, noise, votes.logits, votes.evidence)
    names = [f"a rather long name of class {number}" for number in range(1000)]
    sizes = []
    for count in (1, 2):
        write_report(tmp_path / "page.html", [image] * count, names, model, "x.ckpt")
        sizes.append((tmp_path / "page.html").stat().st_size)
    assert sizes[0] + 49 * (sizes[1] - sizes[0]) < 20e6


def test_the_report_loads_nothing_and_names_of_files_cannot_end_its_data(
    images: Path, checkpoint: Path
) -> None:
    name = "<img src=x onerror=alert(1)><!-- <script>.png"
    save_noise(images / name)
    _, page = report(images, checkpoint)
    html = page.read_text(encoding="utf-8")
    assert "<img src" not in html
    assert data_of(page)["images"][0]["name"] == name
    html = re.sub(r'id="data">.*?</script>', "", html, flags=re.DOTALL)
    assert re.search(r"(src|href)=|https?:|@import|url\(", html) is None
    assert "default-src 'none'" in html


@pytest.mark.parametrize(
    ("ids", "names", "expected"),
    [(("x", "dog", "cat"), NAMES, [2, 1]), (("n1", "n2", "n3"), ("fox", "cat", "dog"), [1, 2])],
)
def test_folders_are_classes_by_id_or_name(
    images: Path, checkpoint: Path, tmp_path: Path, ids, names, expected
) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"classes": ids, "class_names": names}))
    code, page = report(images, checkpoint, "--classes", manifest)
    assert code == 0
    assert data_of(page)["names"] == list(names)
    assert labels_of(page) == expected


def test_a_shared_name_gets_the_id(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.tsv"
    classes.write_text("0\tcat\tcrane\n1\tdog\tcrane\n2\tn3\tfox\n")
    _, page = report(images, checkpoint, "--classes", classes)
    assert data_of(page)["names"] == ["crane (cat)", "crane (dog)", "fox"]


def test_without_a_list_as_many_folders_are_the_classes(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, page = report(images, checkpoint)
    assert labels_of(page) == [None, None]
    assert "no class names: give --classes" in capsys.readouterr().err
    save_noise(images / "bee/c.png")
    _, page = report(images, checkpoint)
    assert data_of(page)["names"] == ["bee", "cat", "dog"]
    assert labels_of(page) == [0, 1, 2]
    assert "sorted order" in capsys.readouterr().err


def test_only_images_are_taken_and_no_hidden_files(images: Path, checkpoint: Path) -> None:
    for name in ("cat/._a.png", ".cache/a.png", "cat/notes.txt"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_text("no image")
    save_noise(images / "cat/Z.PNG")
    code, page = report(images, checkpoint)
    assert code == 0
    names = [image["name"] for image in data_of(page)["images"]]
    assert names == ["cat/Z.PNG", "cat/a.png", "dog/b.jpg"]


def test_one_image_is_enough(images: Path, checkpoint: Path) -> None:
    code, page = report(images / "cat/a.png", checkpoint)
    assert code == 0
    assert [image["name"] for image in data_of(page)["images"]] == ["a.png"]


@pytest.mark.parametrize("name", ["cat/a.png", "dog/b.jpg"])
def test_an_unreadable_image_is_named(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    broken = images / name
    broken.write_bytes(broken.read_bytes()[:2000])
    assert f"{broken} cannot be read" in error_of(capsys, images, checkpoint)
    broken.write_text("no image")
    assert f"{broken} cannot be read" in error_of(capsys, images, checkpoint)


def test_only_bagnets_have_a_report(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_network(tmp_path / "alexnet.ckpt", "alexnet", 2)
    assert "AlexNet is not a BagNet" in error_of(capsys, images, other)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data.image_size", "8"), "8x8 pixels is smaller than the patch of 9x9"),
        (("--whole", "true", "--data.resize_size", "8"), "8x8 pixels is smaller"),
        (("--data.image_size", "0"), "image_size is 0"),
        (("--data.image_size", "64"), "resize_size of at least 64"),
        (("--classes", "nowhere.txt"), "No such file or directory: 'nowhere.txt'"),
        (("--checkpoint", "nowhere.ckpt"), "there is no checkpoint"),
        (("--out", "."), "--out is the folder"),
    ],
)
def test_a_bad_option_gets_one_clear_message(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], more, message
) -> None:
    assert message in error_of(capsys, images, checkpoint, *more)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "cat\ndog\n", "lists 2 classes, but the network has 3"),
        ("a.txt", "cat\nwolf\nfox\n", "the folder 'dog' is none of the 3 classes"),
        ("a.txt", "", "neither a manifest.json nor"),
        ("a.json", "{}", "neither a manifest.json nor"),
        ("a.json", "[]", "neither a manifest.json nor"),
        ("a.json", "{", "neither a manifest.json nor"),
        ("a.json", '{"classes": [1], "class_names": [2]}', "neither a manifest.json nor"),
    ],
)
def test_a_bad_list_of_classes_gets_one_clear_message(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], name, text, message
) -> None:
    classes = checkpoint.with_name(name)
    classes.write_text(text)
    assert message in error_of(capsys, images, checkpoint, "--classes", classes)


def test_a_bad_folder_gets_one_clear_message(
    images: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "no such folder" in error_of(capsys, images / "nowhere", checkpoint)
    (images / "none").mkdir()
    assert "has no images" in error_of(capsys, images / "none", checkpoint)
    monkeypatch.setattr("bagnet.evidence.report.inputs.MAX_IMAGES", 1)
    assert "has 2 images and a report holds at most 1" in error_of(capsys, images, checkpoint)


def test_help_does_not_import_torch() -> None:
    code = "import sys; from bagnet.evidence.__main__ import main\n"
    code += "try: main(['report', '--help'])\nfinally: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
