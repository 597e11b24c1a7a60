"""Passwords in the URL of the data stay out of all that a run keeps."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from pytorch_lightning.cli import LightningArgumentParser

from bagnet.run.folder import Run
from bagnet.run.loggers.wandb_start import start_run
from bagnet.run.signals import Stopped
from bagnet.training.command_line import command
from bagnet.training.command_line.parser import SaveConfig

URL = "https://alice:pa55word@host/shards?token=pa55word"


class Heard:
    """A logger that keeps what it is told."""

    def log_hyperparams(self, params: Any) -> None:
        self.params = params


def test_the_configuration_has_the_url_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = LightningArgumentParser()
    parser.add_argument("--data.root", type=str)
    config, run, logger = parser.parse_args(["--data.root", URL]), Run("mine"), Heard()
    trainer: Any = SimpleNamespace(loggers=[logger])
    module: Any = None
    SaveConfig(parser, config, run).save_config(trainer, module, "fit")
    assert run.config.read_text() == "data:\n  root: https://host/shards\n"
    assert logger.params["data"]["root"] == "https://host/shards"
    assert config.data.root == URL  # which the training reads


def test_wandb_gets_the_command_line_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ["train.py", "--data.root", URL, f"--data.root={URL}"]
    monkeypatch.setattr(sys, "argv", words)
    with start_run(tmp_path):
        pass
    wandb.teardown()  # only then is its file whole
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert any(b"https://host/shards" in content for content in kept)
    assert not any(b"pa55word" in content for content in kept)
    assert sys.argv == words


@pytest.mark.parametrize("words", [["--data.root", URL], [f"--data.root={URL}"]])
def test_the_hint_how_to_resume_has_no_password_and_says_that_something_is_missing(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(given: object) -> None:
        raise Stopped(signal.SIGINT, Path("last.ckpt"))

    monkeypatch.setattr(command, "_run", stop)
    assert command.main([*words, "--patch", "33"]) == 130
    out = capsys.readouterr().out
    assert "pa55word" not in out
    assert "https://host/shards --patch 33 --resume auto" in out
    assert "left out of its URLs" in out
