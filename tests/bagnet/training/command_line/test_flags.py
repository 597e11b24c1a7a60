from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from bagnet.training.command_line.flags import expand, short_help, wants_short_help

REPOSITORY = Path(__file__).parents[4]


def test_short_flags_are_spelled_out_and_come_before_the_long_ones():
    command = expand(
        ["--patch", "17", "--gpus", "8", "--nodes", "4", "--data.root", "x", "--compile"]
    )
    assert command.arguments == [
        *("fit", "--model.name", "bagnet17", "--trainer.accelerator", "gpu"),
        *("--trainer.devices", "8", "--trainer.num_nodes", "4"),
        *("--model.compile", "true", "--data.root", "x"),
    ]
    assert command.run.name == "bagnet17"
    assert command.resume is None


def test_configs_come_first_so_that_flags_win():
    arguments = ["--model.width", "8", "--config", "a/one.yaml", "--patch", "9", "-c", "two.yaml"]
    command = expand(arguments)
    assert command.arguments == [
        *("fit", "--config", "a/one.yaml", "--config", "two.yaml"),
        *("--model.name", "bagnet9", "--model.width", "8"),
    ]
    assert command.run.name == "two"


def test_no_gpus_means_the_cpu():
    expected = ["fit", "--trainer.accelerator", "cpu", "--trainer.devices", "auto"]
    assert expand(["--gpus", "0"]).arguments == expected


def test_the_folder_of_runs_is_set_by_flag_or_variable_and_the_flag_wins(monkeypatch):
    assert expand(["--name", "x"]).run.folder == Path("runs/x")
    monkeypatch.setenv("BAGNET_RUNS", "/scratch/mine")
    assert expand(["--name", "x"]).run.folder == Path("/scratch/mine/x")
    command = expand(["--name", "x", "--runs_dir", "here"])
    assert command.run.folder == Path("here/x")
    assert command.arguments == ["fit"]


def test_the_folder_of_runs_may_have_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand(["--runs_dir=~/runs"]).run.runs_dir == Path("/home/me/runs")


def test_lightnings_name_of_resume_is_taken_too(tmp_path, monkeypatch):
    assert expand(["--ckpt_path", "last.ckpt"]).resume == "last.ckpt"
    command = expand(["validate", "--patch", "9", "--ckpt_path=last.ckpt"])
    assert command.arguments[-2:] == ["--model.weights", "last.ckpt"]
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").touch()
    command = expand(["validate", "--name", "mine", "--ckpt_path", "last.ckpt"])
    assert command.arguments[-2:] == ["--model.weights", "last.ckpt"]


def test_a_trial_of_a_sweep_is_named_after_its_id(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "5x1trial")
    assert expand(["--config", "fast.yaml"]).run.name == "fast"
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert expand(["--config", "fast.yaml"]).run.name == "5x1trial"
    assert expand(["--config", "fast.yaml", "--name", "mine"]).run.name == "mine"


def test_torchrun_passes_every_short_flag_on():
    """Its parser reads them too, and refuses what could abbreviate two of its own."""
    flags = ["--name", "x", "--runs_dir", "y", "--patch", "9", "--gpus", "0", "--nodes", "1"]
    flags += ["--compile", "--resume", "auto", "--config", "z.yaml", "--ckpt_path", "a"]
    assert get_args_parser().parse_args(["train.py", *flags]).training_script_args == flags


def test_validating_a_run_uses_its_settings_and_best_weights_and_all_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--name mine: there is no runs/mine/config.yaml"):
        expand(["validate", "--name", "mine"])
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").touch()
    command = expand(["validate", "--name", "mine", "--data.root", "elsewhere"])
    assert command.arguments == [
        *("validate", "--config", "runs/mine/config.yaml"),
        *("--trainer.limit_val_batches", "null", "--trainer.limit_test_batches", "null"),
        *("--model.weights", "runs/mine/checkpoints/best.ckpt", "--data.root", "elsewhere"),
    ]


def test_an_evaluation_needs_weights_unless_help_is_wanted():
    with pytest.raises(ValueError, match="validate needs weights.*--name NAME.*--model.weights"):
        expand(["validate", "--patch", "9"])
    assert expand(["test", "--help"]).arguments == ["test", "--help"]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--patch", "9", "--help"]])
def test_help_without_a_subcommand_is_the_short_one(arguments):
    assert wants_short_help(arguments)
    assert not wants_short_help(["fit", *arguments])


@pytest.mark.parametrize(
    ("path", "program"), [("a/train.py", "python train.py"), ("/venv/bin/bagnet", "bagnet")]
)
def test_short_help_names_the_program_and_fits_the_screen(monkeypatch, path, program):
    monkeypatch.setattr("sys.argv", [path])
    lines = short_help().splitlines()
    assert lines[2] == f"train:     {program} --patch 33 --gpus 8 --data.root SHARDS"
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    with pytest.raises(ValueError, match=f"see {program} --help"):
        expand(["--patch", "nine"])


def test_help_imports_nothing_heavy():
    code = (
        "import sys, train; assert train.main(['--help']) == 0; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'pytorch_lightning', 'numpy')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--patch" in done.stdout


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"model: [1, 2\n", "while parsing a flow sequence .* expected ',' or ']'"),
        (b"a: &a [1]\nb: &b [" + b", ".join([b"*a"] * 400) + b"]\nc: [" + b"*b, " * 400 + b"1]\n",
         "its aliases stand for more than 100,000 values"),
        (b"model: \xff\n", "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_read_is_named(text, reason, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("model: {width: 8}\n")
    bad.write_bytes(text)
    with pytest.raises(ValueError, match=f"^--config {bad} .*{reason}"):
        expand(["--config", str(good), "--config", str(bad)])


def test_a_config_without_end_is_refused_before_it_is_read(tmp_path):
    config = tmp_path / "config.yaml"
    config.touch()
    os.truncate(config, 1 << 42)  # a hole, which takes no space
    with pytest.raises(ValueError, match=r"config\.yaml has more than 4,000,000 bytes"):
        expand(["--config", str(config)])


def test_a_config_can_come_through_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert expand(["--config", str(pipe)]).arguments == ["fit", "--config", str(pipe)]
