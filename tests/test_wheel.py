"""What the README and the pages tell a user of the installed package to do, in an empty folder."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import colour_jpeg
from tests.test_project import REPOSITORY, commands_of
from tests.wheel import build, live_with, site

__all__ = ["site"]

SIZES = "--data.image_size 48 --data.resize_size 48"
TINY = f"{SIZES} --model.width 4 --data.batch_size 8 --trainer.max_epochs 1 --gpus 0"


@pytest.fixture
def folder(site, tmp_path, monkeypatch) -> Path:
    """An empty folder of a user with the installed package, and a folder of images beside it."""
    live_with(site, tmp_path / "home", monkeypatch)
    rng = np.random.default_rng(0)
    for split, count in {"train": 12, "val": 4}.items():
        for label in range(6):
            images = tmp_path / f"data/imagenet/{split}/n{label:08d}"
            images.mkdir(parents=True)
            for number in range(count):
                (images / f"{number}.jpg").write_bytes(colour_jpeg(label, rng))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_command(command: str, more: str = "") -> str:
    command = command.replace("/data/", "../data/").replace(" --gpus 1", "")
    return run("bash", "-c", f"{command.replace('python train.py', 'bagnet')} {more}")


def run_script(name: str, code: str) -> str:
    Path(name).write_text(code)
    return run("python", name)


@pytest.mark.slow
def test_the_wheel_has_all_files_of_the_packages_and_no_others(tmp_path):
    with zipfile.ZipFile(build(tmp_path)) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "bagnet"]
    kept = subprocess.run(
        [*listed, "datamodules"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert files == {name for name in kept.stdout.split() if (REPOSITORY / name).exists()}


@pytest.mark.slow
def test_pack_train_look_and_export_with_the_installed_package(folder, site):
    where = run("python", "-c", "import bagnet, datamodules; print(bagnet.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    pack, train = (
        next(command for command in commands_of("README.md") if words in command)
        for words in ("pack imagefolder /data", "--patch 33")
    )
    run_command(pack)
    run_command(train.replace(" --name first", ""), TINY)

    (explain,) = blocks("README.md", "python")
    shutil.copy("../data/imagenet/val/n00000003/0.jpg", "image.jpg")
    check = "\nassert logits.shape == (1, 6) and heatmap.shape == images.shape[2:]\nprint(heatmap)"
    code = explain.replace('"photos"', '"bagnet33"') + check
    assert "tensor(" in run_script("explain.py", code)
    (look,) = blocks("docs/evidence.md", "python")
    check = "\nassert logits.shape == (1, 6) and heatmap.shape == shares.shape == images.shape[2:]"
    run_script("look.py", look.replace("=7", "=5") + check)
    assert Path("evidence.png").stat().st_size

    commands = [line for block in blocks("docs/export.md", "bash") for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        assert "for images of any size; outputs differ from torch's by" in run_command(command)
    by_onnx, by_torch = blocks("docs/export.md", "python")
    assert re.fullmatch(r"n0000000\d\n", run_script("onnx_.py", by_onnx))
    compare = (
        "import bagnet\n"
        "networks = [bagnet.load(f'bagnet33{end}') for end in ('-folder', '.safetensors')]\n"
        "for network in networks:\n"
        "    torch.testing.assert_close(network(torch.from_numpy(images)), logits)\n"
    )
    run_script("torch_.py", by_onnx + by_torch + compare)
    assert list(folder.parent.joinpath("home").rglob("*.py")) == []


@pytest.mark.slow
def test_the_page_about_the_library_with_the_installed_package(folder):
    run("python", "-m", "datamodules.pack", "imagefolder", "../data/imagenet", "shards")
    code = "".join(blocks("docs/library.md", "python"))
    assert re.search(r"^n0000000\d$", run_script("script.py", code), re.MULTILINE)
