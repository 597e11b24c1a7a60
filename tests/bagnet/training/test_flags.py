from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bagnet.training.flags import SHORT_HELP, expand, wants_short_help

REPOSITORY = Path(__file__).parents[3]


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
    expected = ["fit", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    assert expand(["--gpus", "0"]).arguments == expected


def test_validate_a_run_takes_its_settings_and_its_best_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--name mine: there is no runs/mine/config.yaml"):
        expand(["validate", "--name", "mine"])
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").touch()
    command = expand(["validate", "--name", "mine", "--data.root", "elsewhere"])
    assert command.arguments == [
        *("validate", "--config", "runs/mine/config.yaml"),
        *("--model.weights", "runs/mine/checkpoints/best.ckpt", "--data.root", "elsewhere"),
    ]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--patch", "9", "--help"]])
def test_help_without_a_subcommand_is_the_short_one(arguments):
    assert wants_short_help(arguments)


def test_help_of_a_subcommand_is_lightnings():
    assert not wants_short_help(["fit", "--help"])


def test_short_help_shows_first_what_a_newcomer_needs_and_fits_the_screen():
    lines = SHORT_HELP.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    positions = [SHORT_HELP.index(word) for word in ("--patch", "--gpus", "--data.root")]
    assert max(positions) < SHORT_HELP.index("--trainer")


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
