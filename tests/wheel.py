"""The project as `pip install` leaves it, for tests that act as a user who has nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir"]
OWN = ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "WANDB_MODE", "BAGNET_RUNS")


def build(folder: Path) -> Path:
    """Build the wheel without a network, and without leaving anything in the repository."""
    sources = folder / "sources"
    for name in ("bagnet", "datamodules"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, sources / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources / name)
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    command = [*PIP, "wheel", *offline, "--wheel-dir", folder, sources]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs; all else comes from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    command = [*PIP, "install", "--no-deps", "--no-index", "--target", folder / "site"]
    subprocess.run([*command, build(folder)], check=True, capture_output=True)
    return folder / "site"


def live_with(site: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the processes of a test the installed project, and an empty home."""
    home.mkdir()
    paths = [site / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    monkeypatch.setenv("PATH", ":".join(map(str, paths)))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("HOME", str(home))
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
