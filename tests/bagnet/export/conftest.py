"""Small networks in files, and the command in an empty folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bagnet.model.card import Card, set_card
from bagnet.model.registry import build_model
from bagnet.model.weights import save_weights
from bagnet.training.command_line.command import main

CARD = Card("bagnet9", tuple("abcde"), ("a cat", "ein Hündchen", *"CDE"), 40, 46)


def save_network(path: Path, name: str, classes: int = 5, width: int = 4) -> Path:
    """A network whose outputs depend on its images, also deep ones without BatchNorm."""
    torch.manual_seed(0)
    model = build_model(name, classes, width)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.kaiming_normal_(weight)
    set_card(model, CARD if name == CARD.name else Card(name))
    save_weights(model, path)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_network(tmp_path / "tiny.safetensors", CARD.name)


@pytest.fixture
def export(weights, tmp_path, monkeypatch) -> Callable[..., Path]:
    """Writes a network into an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(form: str, out: str, *more: str | Path, network: Path = weights) -> Path:
        words = ("--format", form, "--model.weights", network, *more, out)
        assert main(["export", *map(str, words)]) == 0
        assert [path.name for path in Path().iterdir()] == [out]
        return Path(out).absolute()

    return run
