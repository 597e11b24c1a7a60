"""Whole commands of train.py as a user types them, on tiny data."""

from __future__ import annotations

import math
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from bagnet.model.weights import load_model
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.training.command_line.command import main
from datamodules.audit.__main__ import main as audit
from datamodules.shards.manifest import Manifest
from tests.trainings import TINY, spawn, table, train


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_learns_and_leaves_checkpoints_table_and_configuration(shards, capsys):
    flags = ("--trainer.max_epochs", "5", "--model.learning_rate", "0.5", "--evidence_images", "1")
    flags += ("--data.batch_size", "12", "--trainer.log_every_n_steps", "3", "--runs_dir", "mine")
    assert train(shards, *flags) == 0
    rows = table("bagnet9", "mine")
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] == 5 * (150 // 12) - 1
    epochs = [row for row in rows if row["val/top1"]]
    assert len(epochs) == 5
    best = max(float(row["val/top1"]) for row in epochs)
    assert best > 0.4  # chance is 1 in 6
    for column in (
        *("train/loss", "train/top1", "train/top5", "val/loss", "val/top5"),
        *("throughput/samples_per_sec", "throughput/device/samples_per_sec"),
        *("throughput/data_wait", "memory/peak_gib"),
    ):
        assert all(float(row[column]) >= 0 for row in epochs), column
    assert all(0 <= float(row["throughput/data_wait"]) <= 1 for row in epochs)
    assert any(row["train/loss_step"] and row["learning_rate"] for row in rows)
    config = yaml.safe_load(Path("mine/bagnet9/config.yaml").read_text())
    assert config["model"]["name"] == "bagnet9"
    assert config["model"]["width"] == 4
    assert config["trainer"]["precision"] == "32-true"  # resolved
    assert Path("mine/bagnet9/evidence.png").exists()
    # A checkpoint has only tensors and plain values, so it never needs to be unpickled.
    last = torch.load("mine/bagnet9/checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 4
    assert last["hyper_parameters"]["num_classes"] == 6
    out = capsys.readouterr().out
    assert "learning rate 0.0234375 = 0.5 x global batch 12 / 256" in out
    assert f"top-1 {float(epochs[-1]['val/top1']):.2%}" in out

    # The name alone is enough to find the run's own settings and best weights.
    assert main(["validate", "--name", "bagnet9", "--runs_dir", "mine"]) == 0
    assert f"top-1 {best:.2%}" in capsys.readouterr().out


@pytest.mark.parametrize("name", [pytest.param("vgg11", marks=pytest.mark.slow), "resnet50"])
def test_a_narrow_torchvision_network_trains_and_its_checkpoint_can_be_loaded(shards, name):
    flags = [*TINY[2:], "--model.name", name, "--name", name, "--model.learning_rate", "0.3"]
    assert main([*flags, "--data.root", str(shards), "--trainer.max_epochs", "3"]) == 0
    losses = [float(row["train/loss"]) for row in table(name) if row["train/loss"]]
    assert losses[-1] < losses[0]
    model = load_model(f"runs/{name}/checkpoints/best.ckpt")
    first = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    assert first.out_channels == 4


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_of_another_precision_train_and_show_their_evidence(shards, precision):
    flags = ("--trainer.precision", precision, "--evidence_images", "1")
    flags += ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")
    assert train(shards, "--name", "other", *flags) == 0
    assert Path("runs/other/evidence.png").exists()
    assert math.isfinite(float(table("other")[-1]["val/loss"]))


def test_resume_auto_equals_the_run_that_was_never_stopped(shards, capsys):
    for name, epochs in (("whole", "2"), ("parts", "1"), ("parts", "2")):
        flags = ("--name", name, "--trainer.max_epochs", epochs, "--resume", "auto")
        assert train(shards, *flags) == 0
    whole, parts = (
        torch.load(f"runs/{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    figures = ("step", "train/loss", "val/loss", "val/top1")
    assert [[row[f] for f in figures] for row in table("whole")] == [
        [row[f] for f in figures] for row in table("parts")
    ]
    # A complete run is left alone.
    before = Path("runs/whole/checkpoints/last.ckpt").stat()
    capsys.readouterr()
    assert train(shards, "--name", "whole", "--trainer.max_epochs", "2", "--resume", "auto") == 0
    assert "runs/whole is complete: 2 of 2 epochs" in capsys.readouterr().out
    assert Path("runs/whole/checkpoints/last.ckpt").stat() == before


def test_between_two_epochs_too_a_run_resumes_only_as_what_it_was(shards, capsys):
    assert train(shards, "--name", "a", "--trainer.max_epochs", "1") == 0
    for flags, name in (
        (["--data.window", "3"], "window 2"),
        (["--trainer.accumulate_grad_batches", "2"], "accumulate 1"),
        (["--data.streams", "8"], "streams 64"),
    ):
        more = ("--name", "a", "--trainer.max_epochs", "2", "--resume", "auto")
        assert train(shards, *more, *flags) == 2
        assert f"cannot resume: the checkpoint was made with {name}" in capsys.readouterr().err


def test_flags_win_over_configs_and_a_second_run_never_overwrites_the_first(shards, capsys):
    Path("a.yaml").write_text("model: {width: 8, momentum: 0.5}\ntrainer: {max_epochs: 7}\n")
    Path("b.yaml").write_text("trainer: {max_epochs: 1, limit_train_batches: 1}\n")
    assert train(shards, "--config", "a.yaml", "--config", "b.yaml") == 0
    config = yaml.safe_load(Path("runs/b/config.yaml").read_text())
    assert config["model"]["width"] == 4  # TINY's flag
    assert config["model"]["momentum"] == 0.5
    assert config["trainer"]["max_epochs"] == 1  # the later config's
    before = Path("runs/b/checkpoints/last.ckpt").stat()
    assert train(shards, "--name", "b", "--trainer.max_epochs", "1") == 2
    assert "--resume auto" in capsys.readouterr().err
    assert Path("runs/b/checkpoints/last.ckpt").stat() == before


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file can grow beyond 100 kB; a checkpoint has 500 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_one_message_and_leaves_no_half_checkpoint(shards, capsys):
    assert train(shards, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1") == 2
    (line,) = re.findall("^error: .*", capsys.readouterr().err, re.MULTILINE)
    assert "File too large" in line
    assert not [file for file in Path("runs").rglob("*") if file.suffix in (".ckpt", ".tmp")]


def test_settings_that_cannot_be_written_are_one_line(shards, capsys):
    Path("runs/bagnet9/config.yaml").mkdir(parents=True)
    assert train(shards, "--trainer.max_epochs", "1") == 2
    assert "runs/bagnet9/config.yaml: Is a directory; give a file" in capsys.readouterr().err


def test_a_run_folder_that_vanishes_is_one_line(shards, capsys, monkeypatch):
    def remove_and_write(table: CSVTable) -> None:
        shutil.rmtree("runs")
        write(table)

    write = CSVTable._write_row
    monkeypatch.setattr(CSVTable, "_write_row", remove_and_write)
    assert train(shards, "--trainer.max_epochs", "1") == 2
    (line,) = re.findall("^error: .*", capsys.readouterr().err, re.MULTILINE)
    assert "metrics.csv: No such file or directory; see whether it was removed" in line


@pytest.mark.slow
def test_a_full_disk_ends_all_ranks_with_one_message(shards):
    def allow_small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    flags = ("--data.root", str(shards), "--trainer.devices", "2", "--trainer.max_epochs", "50")
    run = spawn(*TINY, *flags, preexec_fn=allow_small_files_only)
    assert run.returncode == 2, run.stderr
    (line,) = re.findall("^error: .*File too large.*", run.stderr, re.MULTILINE)
    assert "last.ckpt" in line
    assert "Traceback" not in run.stderr
    assert int(table("bagnet9")[-1]["step"]) < 50 * 6 - 1


@pytest.mark.slow
def test_two_processes_train_together_and_validate_like_one(shards, capsys, monkeypatch):
    flags = [*TINY, "--data.root", str(shards), "--trainer.max_epochs", "2"]
    monkeypatch.delenv("WANDB_MODE")  # like a user without an account
    done = spawn(*flags, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    # Rank 0 only, at the start and at the end.
    assert done.stdout.count("W&B") == 2
    assert done.stdout.count("wandb sync runs/bagnet9/wandb/offline-run-*") == 2
    assert len(list(Path("runs/bagnet9/wandb").glob("offline-run-*/*.wandb"))) == 1
    assert "MEMBER: 2/2" in done.stderr  # there were two
    two = table("bagnet9")
    assert [int(row["step"]) for row in two] == [150 // 24 - 1, 2 * (150 // 24) - 1]
    best = max((row for row in two), key=lambda row: float(row["val/top1"]))

    # The same weights in one process. Two processes cannot share the 53 images equally.
    assert main(["validate", "--name", "bagnet9", "--trainer.devices", "1", *TINY[-2:]]) == 0
    pattern = r"^validation +top-1 (\S+), top-5 (\S+), loss ([\d.]+), (.*)$"
    ((top1, top5, loss, more),) = re.findall(pattern, capsys.readouterr().out, re.MULTILINE)
    assert (top1, top5) == tuple(f"{float(best[f'val/{name}']):.2%}" for name in ("top1", "top5"))
    balanced, auroc = (float(best[f"val/{name}"]) for name in ("balanced_accuracy", "auroc"))
    assert more == f"balanced accuracy {balanced:.2%}, AUROC {auroc:.4f}"
    assert float(loss) == pytest.approx(float(best["val/loss"]), rel=1e-5)


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> Path:
    """The data with one wrong bit in the first image of the second shard."""
    copy = tmp_path / "damaged"
    shutil.copytree(shards, copy)
    sample = Manifest.load(copy / "train").sample(50)
    with (copy / "train" / sample.shard.name).open("r+b") as file:
        file.seek(sample.offset + 300)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return copy


def test_a_bad_sample_is_named_counted_and_left_out(damaged, capsys, caplog):
    flags = ("--trainer.max_epochs", "2", "--data.max_unreadable", "0.01")
    assert train(damaged, "--data.batch_size", "10", *flags) == 0
    epochs = [row for row in table("bagnet9") if row["val/top1"]]
    assert [(row["train/unreadable"], row["val/unreadable"]) for row in epochs] == [("1", "0")] * 2
    assert "cannot read sample 'train1_0' of" in caplog.text


@pytest.mark.slow
def test_too_many_bad_samples_stop_all_ranks_with_one_clear_error(damaged):
    """No rank keeps waiting for the other."""
    (damaged / "train" / "shard-000000.tar").unlink()
    flags = ("--trainer.devices", "2", "--trainer.log_every_n_steps", "2")
    run = spawn(*TINY, "--data.root", str(damaged), *flags)
    assert run.returncode == 2
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    # One from each rank, unless the launcher kills the second before it has printed.
    assert len(set(errors)) == 1
    assert re.search(r"error: \d+ of the 150 train samples could not be read so far", errors[0])
    assert "Traceback" not in run.stderr


def test_an_audit_of_a_run(shards, capsys):
    flags = ("--trainer.max_epochs", "2", "--data.audit_dir", "audit")
    assert train(shards, *flags) == 0
    assert audit(["audit"]) == 0
    (file,) = Path("audit").iterdir()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3] + lines[4:]))  # one step is missing
    assert audit(["audit"]) == 1
    assert "epoch 0, step 2: no records" in capsys.readouterr().out
