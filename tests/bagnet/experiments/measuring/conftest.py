"""What the tests of measuring share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def command(command: list[str], tmp_path: Path) -> list[str]:
    """Flags of `NotedOptions`; the notes are written to `tmp_path`."""
    return [*command, "--notes", str(tmp_path)]
