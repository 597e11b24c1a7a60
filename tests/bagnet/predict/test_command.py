"""`train.py predict` as a command: its files, its messages, and a real run."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from bagnet.training.command_line.command import main
from tests.bagnet.evidence.report.test_command import save_network
from tests.trainings import spawn, table, train

REPOSITORY = Path(__file__).parents[3]


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main(["predict", *map(str, words)]) == 2
    assert not list(Path().glob("predictions.*"))
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    return said


def test_a_run_goes_by_its_name_in_the_folder_of_all_runs(predict, images, tmp_path, monkeypatch):
    folder = tmp_path / "all" / "mine" / "checkpoints"
    folder.mkdir(parents=True)
    (tmp_path / "tiny.ckpt").rename(folder / "best.ckpt")
    table = predict(images, network=("--name", "mine", "--runs_dir", tmp_path / "all"))
    monkeypatch.setenv("BAGNET_RUNS", str(tmp_path / "all"))
    assert predict(images, network=("--name", "mine")).equals(table)
    predict(images, "--out", "new/mine.v2", network=("--name", "mine"))
    assert pq.read_table("new/mine.v2.parquet").equals(table)
    assert Path("new/mine.v2.csv").read_bytes() == Path("predictions.csv").read_bytes()


def test_files_that_cannot_be_read_are_named_and_counted_and_the_others_go_on(
    predict, images, capsys
):
    cut = images / "img9.png"
    cut.write_bytes(cut.read_bytes()[:900])
    (images / "notes.txt").write_text("text")
    table = predict("missing.jpg", images, images / "notes.txt")
    assert table["file"].to_pylist() == [
        str(images / "img10.png"),
        str(images / "inner/deep/c.jpg"),
    ]
    said = capsys.readouterr().err
    assert f"note: left out {images}/notes.txt (not an image in a format that is read" in said
    assert "note: missing.jpg cannot be read (No such file or directory)\n" in said
    assert f"note: {cut} cannot be read as an image (" in said
    assert f"note: {images}/notes.txt cannot be read as an image (" in said
    last = said.splitlines()[-1]
    assert last == "2 images, and 3 that cannot be read: predictions.csv and predictions.parquet"


def test_what_cannot_be_done_is_one_line(tmp_path, weights, images, monkeypatch, capsys):
    (tmp_path / "here" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    network = ("--model.weights", weights, "--device", "cpu")
    wanted = "give the network: either --name RUN, or --model.weights FILE"
    assert wanted in refused(capsys, images)
    assert wanted in refused(capsys, images, "--name", "x", *network)
    assert "there is no run runs/x: give" in refused(capsys, images, "--name", "x")
    assert "there is neither a file x nor" in refused(capsys, images, "--model.weights", "x")
    assert "--out is the folder empty" in refused(capsys, images, *network, "--out", "empty")
    assert "empty has no images" in refused(capsys, "empty", *network)
    device = ("--model.weights", weights, "--device")
    for name in ("nothing", "cuda:99", "meta"):
        assert f"--device {name}: torch has no such" in refused(capsys, images, *device, name)
    small = ("--data.image_size", "8", "--data.resize_size", "8")
    assert "smaller than the patch" in refused(capsys, images, *network, *small)
    alexnet = ("--model.weights", save_network(tmp_path / "alexnet.pth", "alexnet", 3))
    said = refused(capsys, images, *alexnet, *small)
    assert "8x8 pixels are too small for this network: give a larger --data.image_size" in said
    said = refused(capsys, "a.jpg", *network)
    assert said == "error: no image can be read; the lines above say why"
    saved = torch.load(weights)
    saved["state_dict"]["fc.bias"].fill_(float("nan"))
    torch.save(saved, weights)
    assert "NaN or infinite (fc.bias)" in refused(capsys, images, *network)


def test_too_large_a_batch_for_the_gpu_says_so(weights, images, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("pages of advice")

    monkeypatch.chdir(images.parent)
    monkeypatch.setattr("bagnet.predict.command.predict", fail)
    said = refused(capsys, images, "--model.weights", weights, "--device", "cpu")
    assert "too little memory for 3 images at once: give a smaller --batch_size" in said


def test_help_is_instant_and_fits_80_columns():
    code = (
        "import sys, train\n"
        "try: train.main(['predict', '--help'])\n"
        "finally: assert not {'torch', 'numpy', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "usage: python train.py predict [OPTIONS] IMAGES [IMAGES ...]"
    assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_predictions_of_the_validation_images_are_as_often_right_as_the_run_says(shards, tmp_path):
    """In a process of its own, as a user starts it, on the files that the shards are made of."""
    labels = {}
    for shard in sorted((shards / "val").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, suffix = member.name.split(".")
                content = tar.extractfile(member).read()
                if suffix == "cls":
                    labels[key] = f"class{int(content)}"
                else:
                    (tmp_path / f"{key}.jpg").write_bytes(content)
    runs = tmp_path / "runs"
    flags = ("--runs_dir", str(runs), "--trainer.max_epochs", "3", "--model.learning_rate", "0.5")
    assert train(shards, *flags) == 0
    best = max(float(row["val/top1"]) for row in table("bagnet9", str(runs)) if row["val/top1"])
    named = ("--name", "bagnet9", "--runs_dir", "runs")
    done = spawn("predict", *named, *sorted(labels), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    done = spawn("predict", *named, *(f"{key}.jpg" for key in labels), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "runs/bagnet9/checkpoints/best.ckpt: 32 px, cut from 32 px, on cpu",
        "53 images: predictions.csv and predictions.parquet",
    ]
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    right = sum(row["class_1"] == labels[row["file"].split(".")[0]] for row in rows)
    assert right / 53 == pytest.approx(best, abs=1e-6)
