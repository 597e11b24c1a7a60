"""Output that must fit a terminal, and networks that need not be compiled to be tested."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bagnet.bench.__main__ import main


@pytest.fixture
def output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], str]:
    """What was printed since the last call; nothing is cut or wider than 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def read() -> str:
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        return text

    return read


@pytest.fixture
def figures(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a benchmark, which must succeed; returns the JSON file that it writes."""

    def run(*words: str) -> dict[str, Any]:
        out = tmp_path / "figures.json"
        assert main([*words, "--out", str(out)]) == 0
        return json.loads(out.read_text())

    return run


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a benchmark, which must refuse; returns its only line of error."""

    def run(*words: str) -> str:
        try:
            code = main(words)
        except SystemExit as exit_:
            code = exit_.code
        assert code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.fixture
def not_compiled() -> Iterator[None]:
    """Runs compiled networks as they are, because compiling takes a minute at any size."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")
