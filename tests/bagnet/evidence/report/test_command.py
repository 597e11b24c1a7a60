"""The report without a browser: what it finds, what it holds, and clear messages."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bagnet.evidence.__main__ import main
from bagnet.evidence.report.html_file import write_report
from bagnet.model.registry import build_model, normalize
from bagnet.model.weights import load_model
from datamodules.decoding.folders import read_image
from datamodules.decoding.transforms import EvalTransform, WholeTransform
from tests.bagnet.evidence.report.reported import MODEL, random_evidence, votes

NAMES = ("cat", "dog", "fox")


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: Path
    said: str

    @property
    def html(self) -> str:
        assert self.code == 0, self.said
        return self.out.read_text(encoding="utf-8")

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(re.search(r'id="data">(.*?)</script>', self.html, re.DOTALL)[1])

    def images(self, key: str) -> list[Any]:
        """A value of each image."""
        return [image[key] for image in self.data["images"]]

    @property
    def error(self) -> str:
        assert (self.code, self.out.is_file()) == (2, False)
        message = self.said.splitlines()[-1]
        assert message.startswith("error: ")
        return message


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_network(tmp_path / "tiny.ckpt", "bagnet9", len(NAMES))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("cat/a.png", "dog/b.jpg"):
        save_noise(tmp_path / "images" / name)
    return tmp_path / "images"


@pytest.fixture
def report(images, checkpoint, capsys) -> Callable[..., Result]:
    def run(*more: str | Path, folder: Path = images) -> Result:
        out = checkpoint.parent / "report.html"
        words = ["report", folder, "--checkpoint", checkpoint, "--out", out]
        words += ["--data.image_size", "32", "--data.resize_size", "36", *more]
        return Result(main([str(word) for word in words]), out, capsys.readouterr().err)

    return run


def save_network(path: Path, name: str, classes: int, **more: Any) -> Path:
    torch.manual_seed(0)
    settings = {"name": name, "width": 2, "num_classes": classes}
    weights = build_model(**settings).state_dict()
    torch.save({"state_dict": weights, "hyper_parameters": settings, **more}, path)
    return path


def save_noise(path: Path, size: tuple[int, int] = (50, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def numbers(text: str, dtype: str = "<f4") -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_network_sees_what_it_sees_in_validation_and_the_mean_of_a_map_is_its_logit(
    report, images, checkpoint
):
    model = load_model(checkpoint)
    written = report()
    assert written.images("name") == ["cat/a.png", "dog/b.jpg"]
    for image in written.data["images"]:
        assert sorted(image["classes"]) == [0, 1, 2]
        assert image["rows"] == image["columns"] == 3
        logits = numbers(image["logits"])
        pixels = EvalTransform(32, 36)((images / image["name"]).read_bytes())
        expected = model(normalize(pixels[None]))[0].detach().numpy()
        np.testing.assert_array_equal(logits, expected[image["classes"]])
        maps = numbers(image["maps"]).reshape(3, 9)
        np.testing.assert_allclose(maps.mean(1), logits, rtol=1e-4, atol=1e-6)
        assert np.ptp(maps) > 0
        # The classes of each patch, in descending order.
        order = (-maps).argsort(0)
        classes = numbers(image["patchClasses"], "<i4").reshape(9, 3)
        np.testing.assert_array_equal(classes.T, np.array(image["classes"])[order])
        top = numbers(image["patchLogits"]).reshape(9, 3)
        np.testing.assert_array_equal(top.T, np.take_along_axis(maps, order, 0))


def test_a_whole_image_is_resized_as_in_validation_and_keeps_its_shape(report, tmp_path):
    path = save_noise(tmp_path / "x.png", size=(40, 80))
    whole = read_image(path, WholeTransform(36))
    assert whole.shape == (3, 36, 72)
    assert torch.equal(whole[:, 2:34, 20:52], read_image(path, EvalTransform(32, 36)))
    (image,) = report("--whole", "true", folder=path).data["images"]
    assert (image["name"], image["height"], image["width"]) == ("x.png", 36, 72)


def test_fifty_images_of_a_thousand_classes_stay_below_20_mb(tmp_path):
    noise = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)  # the largest possible JPEG
    image = replace(votes(random_evidence(1000, 24), label=1), pixels=noise)
    names = [f"a rather long name of class {number}" for number in range(1000)]
    sizes = []
    for count in (1, 2):
        write_report(tmp_path / "report.html", [image] * count, names, MODEL, "x.ckpt", "32 px")
        sizes.append((tmp_path / "report.html").stat().st_size)
    assert sizes[0] + 49 * (sizes[1] - sizes[0]) < 20e6


def test_the_report_loads_nothing_and_names_of_files_cannot_end_its_data(report, images):
    name = "<img src=x onerror=alert(1)><!-- <script>.png"
    save_noise(images / name)
    written = report()
    assert "<img src" not in written.html
    assert written.images("name")[0] == name
    page = re.sub(r'id="data">.*?</script>', "", written.html, flags=re.DOTALL)
    assert re.search(r"(src|href)=|https?:|@import|url\(", page) is None
    assert "default-src 'none'" in page


def manifest(ids: tuple[str, ...], names: tuple[str, ...]) -> str:
    return json.dumps({"classes": ids, "class_names": names})


@pytest.mark.parametrize(
    ("file", "text", "names", "labels"),
    [
        ("manifest.json", manifest(("x", "dog", "cat"), NAMES), NAMES, [2, 1]),
        (
            "m.json",
            manifest(("n1", "n2", "n3"), ("fox", "cat", "dog")),
            ("fox", "cat", "dog"),
            [1, 2],
        ),
        ("classes.txt", "cat\ndog\n\nfox\n", NAMES, [0, 1]),
        # A name that two classes share is followed by the id.
        (
            "classes.tsv",
            "0\tcat\tcrane\n1\tdog\tcrane\n2\tn3\tfox\n",
            ("crane (cat)", "crane (dog)", "fox"),
            [0, 1],
        ),
    ],
)
def test_folders_are_classes_by_id_or_name(report, tmp_path, file, text, names, labels):
    (tmp_path / file).write_text(text)
    written = report("--classes", tmp_path / file)
    assert written.data["names"] == list(names)
    assert written.images("true") == labels


def test_without_a_list_as_many_folders_are_the_classes(report, images):
    written = report()
    assert written.images("true") == [None, None]
    assert "no class names: give --classes" in written.said
    save_noise(images / "bee/c.png")
    written = report()
    assert written.data["names"] == ["bee", "cat", "dog"]
    assert written.images("true") == [0, 1, 2]
    assert "sorted order" in written.said


def test_the_content_decides_what_is_an_image_and_hidden_files_are_none(report, images):
    for name in ("cat/._a.png", ".cache/a.png", "cat/notes.txt"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_text("no image")
    save_noise(images / "cat/Z.PNG")
    save_noise(images / "cat/c.png").rename(images / "cat/c")
    (images / "cat/self").symlink_to(".")
    written = report()
    assert written.images("name") == ["cat/Z.PNG", "cat/a.png", "cat/c", "dog/b.jpg"]
    assert f"note: left out {images}/cat/notes.txt (not an image in a format" in written.said
    assert f"note: left out {images}/cat/self (a link to {images}/cat)" in written.said
    assert "._a.png" not in written.said


def test_unreadable_images_are_named_and_left_out(report, images, tmp_path):
    whole = (images / "cat/a.png").read_bytes()
    (images / "cat/a.png").write_bytes(whole[:2000])
    written = report()
    assert written.images("name") == ["dog/b.jpg"]
    name = images / "cat/a.png"
    assert f"note: {name} cannot be read as an image (" in written.said
    assert "and is left out" in written.said
    assert "1 image, 0." in written.said
    written.out.unlink()
    (images / "dog/b.jpg").write_bytes((images / "dog/b.jpg").read_bytes()[:900])
    assert f"no image can be read in {images}" in report().error


CARD = {
    "name": "bagnet9",
    "classes": ("n1", "n2", "n3"),
    "class_names": ("cat", "fox", "dog"),
    "image_size": 25,
    "resize_size": 40,
}


def test_sizes_and_classes_come_from_the_checkpoint(images, tmp_path, monkeypatch, capsys):
    run = tmp_path / "runs" / "mine"
    (run / "checkpoints").mkdir(parents=True)
    save_network(run / "checkpoints" / "last.ckpt", "bagnet9", 3, card=CARD)
    monkeypatch.setenv("BAGNET_RUNS", str(tmp_path / "runs"))
    out = tmp_path / "report.html"
    for words in (("--name", "mine"), ("--checkpoint", str(run)), ("--checkpoint", "mine")):
        result = main(["report", str(images), *words, "--out", str(out)])
        written = Result(result, out, capsys.readouterr().err)
        assert written.images("width") == [25, 25]
        assert written.data["names"] == ["cat", "fox", "dog"]
        assert written.images("true") == [0, 2]
        assert written.data["seen"] == "25 px, cut from 40 px"
        assert written.data["checkpoint"] == "mine, last.ckpt"
    given = ["--data.image_size", "32", "--data.resize_size", "36"]
    assert main(["report", str(images), "--name", "mine", "--out", str(out), *given]) == 0
    assert Result(0, out, "").images("width") == [32, 32]


def test_a_list_of_classes_is_compared_with_those_of_the_network(report, images, tmp_path):
    network = save_network(tmp_path / "known.ckpt", "bagnet9", 3, card=CARD)
    (tmp_path / "list.json").write_text(manifest(("n3", "n1", "n2"), ("Hund", "Katze", "Fuchs")))
    (images / "cat").rename(images / "n1")
    (images / "dog").rename(images / "Hund")
    written = report("--checkpoint", network, "--classes", tmp_path / "list.json")
    assert written.data["names"] == ["Katze", "Fuchs", "Hund"]
    assert written.images("true") == [2, 0]
    written.out.unlink()
    (tmp_path / "list.json").write_text(manifest(("n3", "n1", "n4"), NAMES))
    said = report("--checkpoint", network, "--classes", tmp_path / "list.json").error
    assert f"other classes here than in {tmp_path / 'list.json'}, which does not know 'n2'" in said


def test_a_large_page_says_so(report, monkeypatch):
    assert "too much for a browser" not in report("--whole", "true").said
    monkeypatch.setattr("bagnet.evidence.report.command.LARGE", 0.01)
    assert "note: 0 MB may be too much for a browser: give fewer" in report("--whole", "true").said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data.image_size", "8"), "8x8 pixels is smaller than the patch of 9x9"),
        (("--whole", "true", "--data.resize_size", "8"), "8x8 pixels is smaller"),
        (("--data.image_size", "0"), "image_size is 0"),
        (("--data.image_size", "64"), "resize_size of at least 64"),
        (("--classes", "nowhere.txt"), "nowhere.txt: No such file or directory"),
        (("--checkpoint", "nowhere.ckpt"), "there is neither a file nowhere.ckpt nor a run"),
        (("--name", "demo"), "either --name RUN, or --checkpoint FILE"),
        (("--out", "."), "--out is the folder"),
    ],
)
def test_a_bad_option_gets_one_clear_message(report, more, message):
    assert message in report(*more).error


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "cat\ndog\n", "lists 2 classes, but the network has 3"),
        ("a.txt", "cat\nwolf\nfox\n", "the folder 'dog' is none of the 3 classes"),
        ("a.txt", "", "neither a manifest.json, an"),
        ("a.json", "{}", "neither a manifest.json, an"),
        ("a.json", "[]", "neither a manifest.json, an"),
        ("a.json", "{", "neither a manifest.json, an"),
        ("a.json", '{"classes": [1], "class_names": [2]}', "neither a manifest.json, an"),
    ],
)
def test_a_bad_list_of_classes_gets_one_clear_message(report, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    assert message in report("--classes", tmp_path / name).error


def test_other_bad_input_gets_one_clear_message(report, images, tmp_path, monkeypatch):
    other = save_network(tmp_path / "alexnet.ckpt", "alexnet", 2)
    assert "AlexNet is not a BagNet" in report("--checkpoint", other).error
    assert "no such folder" in report(folder=images / "nowhere").error
    (images / "none").mkdir()
    assert "has no images" in report(folder=images / "none").error
    monkeypatch.setattr("bagnet.evidence.report.inputs.MAX_IMAGES", 1)
    assert "has 2 images and a report holds at most 1" in report().error


def test_help_does_not_import_torch():
    code = "import sys; from bagnet.evidence.__main__ import main\n"
    code += "try: main(['report', '--help'])\nfinally: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
