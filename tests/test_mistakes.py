"""A mistake of the user's is one line; a bug keeps its traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from bagnet.training.command_line.command import main
from tests.trainings import train


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--patch", "11"], "--patch 11.*choose one of 9, 17, "),
        (["--gpus", "8"], f"--gpus 8: this machine has {torch.cuda.device_count()}"),
        (["--data.root", "nowhere"], "nowhere does not exist.*datamodules.pack"),
        (["--patch", "nine"], "invalid int value: 'nine'"),
        (["--config"], "expected one argument"),
        (["--resume", "nothing.ckpt"], "nothing.ckpt: no such file"),
        (["--name", "../elsewhere"], "cannot name a folder"),
        (
            ["--data.batch_size", "25", "--trainer.devices", "2"],
            "25 cannot be.*by 2 ranks.*24 or 26",
        ),
        (["--data.batch_size", "400"], "150 training samples"),
        (["--model.name", "bagnet10"], "no model 'bagnet10'.*bagnet33"),
        (["--model.weights", "nothing.pth"], "neither a file nothing.pth nor a run"),
        (["--seed_everything", "-1"], "seed_everything is -1, but must be from 0 to"),
        (["--checkpoint_minutes", "-1"], "checkpoint_minutes is -1"),
        (["--trainer.log_every_n_steps", "0"], "log_every_n_steps is 0"),
        (["--data.cache_gib", "-1"], "cache_gib is -1"),
        (["--trainer.barebones", "true"], "barebones"),
        (["--trainer.val_check_interval", "1000"], "val_check_interval"),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"],
            "val_loss.*not available",
        ),
        (["--model.learning_rate", "-1"], "learning_rate is -1, but must be at least 0"),
        (["--compile", "--trainer.sync_batchnorm", "true"], "--compile does not work with"),
        (["--trainer.strategy", "ddp_spawn"], "strategy ddp_spawn: .*; choose auto, ddp or ddp_f"),
    ],
)
def test_a_mistake_gets_one_message_and_no_traceback(shards, capsys, flags, message):
    assert train(shards, *flags) == 2
    err = capsys.readouterr().err
    assert err.count("error:") == 1
    assert re.search(message, err)
    assert "Traceback" not in err
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.widht", "8"], "widht"),
        (["--config", "typo.yaml"], "widht"),
        (["--trainer.max_epochs", "many"], "max_epochs"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_an_unknown_key_or_a_wrong_value_is_an_error(shards, capsys, flags, message):
    Path("typo.yaml").write_text("model: {widht: 8}\n")
    with pytest.raises(SystemExit) as exit_:
        train(shards, *flags)
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.endswith("; see python train.py fit --help\n")
    assert err.count("\n") == 1


def test_the_installed_program_takes_the_words_that_were_typed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/venv/bin/bagnet", "validate", "--patch", "x"])
    assert main() == 2
    assert capsys.readouterr().err.endswith("'x'; see bagnet --help\n")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("bagnet.training.command_line.command.expand", lambda arguments: [][0])
    with pytest.raises(IndexError):
        main([])
