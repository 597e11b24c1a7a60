"""What benchmarks say must fit a terminal; and networks that are compiled in a benchmark run as they are in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What was printed since the last time, none of it cut or wider than 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def read() -> str:
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        return text

    return read


@pytest.fixture
def not_compiled() -> Iterator[None]:
    """Compiling takes a minute, whatever the network's size."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")
