"""docs/notebooks/explain.ipynb runs, uses the public API alone, and is small enough to show."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bagnet
import datamodules

REPOSITORY = Path(__file__).parent.parent
NOTEBOOK = REPOSITORY / "docs" / "notebooks" / "explain.ipynb"


def cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def shown(path: Path) -> list[list[str]]:
    """What each cell prints or shows: "stdout", "image/png" or "text/plain"."""
    return [
        [output.get("name") or next(iter(output["data"])) for output in cell["outputs"]]
        for cell in cells(path)
    ]


def test_it_was_run_from_top_to_bottom_and_fits_a_page():
    numbers = [cell["execution_count"] for cell in cells(NOTEBOOK)]
    assert numbers == list(range(1, len(numbers) + 1)), "make notebook"
    assert [kinds for kinds in shown(NOTEBOOK) if "image/png" in kinds] == [["image/png"]] * 3 + [
        ["stdout", "image/png"]
    ]
    assert NOTEBOOK.stat().st_size < 500_000


def test_it_uses_the_public_api_alone():
    code = "\n".join("".join(cell["source"]) for cell in cells(NOTEBOOK))
    assert set(re.findall(r"\bbagnet\.(\w+)\(", code)) <= set(bagnet.__all__)
    imports = re.findall(r"^(?:from|import) (?:bagnet|datamodules).*", code, re.MULTILINE)
    assert imports == ["import bagnet", "from datamodules import ImageNetDataModule"]
    assert "ImageNetDataModule" in datamodules.__all__


@pytest.mark.slow
def test_it_runs(tmp_path):
    """In a process of its own, by `.ci/notebook.py` and not by Jupyter with its thirty packages."""
    copy = shutil.copy(NOTEBOOK, tmp_path)
    command = [sys.executable, REPOSITORY / ".ci" / "notebook.py", copy]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert shown(Path(copy)) == shown(NOTEBOOK)
