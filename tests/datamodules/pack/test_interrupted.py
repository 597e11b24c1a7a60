"""A pack that is killed goes on where it stopped, and ends with the bytes of one that never was."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from datamodules.pack.__main__ import main

REPOSITORY = Path(__file__).parents[3]


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A tree whose images take long to check, and what comes of it without an interruption."""
    root = tmp_path_factory.mktemp("slow")
    file = io.BytesIO()
    Image.radial_gradient("L").resize((1800, 1800)).convert("RGB").save(file, "PNG")
    big = file.getvalue()  # to be decoded and encoded again
    for split, count in (("train", 28), ("val", 2)):
        for number in range(count):
            image = root / "tree" / split / f"n{number % 2}" / f"{number}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(big)
    words = ["imagefolder", str(root / "tree"), str(root / "fresh"), "--samples-per-shard", "2"]
    assert main([*words, "--workers", "1"]) == 0
    return root


def hear_ctrl_c():
    """A shell's background jobs ignore Ctrl-C, and CI may be one of them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("how", "send"),
    [
        (signal.SIGKILL, os.kill),
        (signal.SIGTERM, os.kill),
        (signal.SIGTERM, os.killpg),  # all processes get it: from SLURM, or from the keyboard
        (signal.SIGUSR1, os.killpg),
        (signal.SIGINT, os.killpg),
    ],
)
def test_a_killed_run_goes_on_where_it_stopped(slow, tmp_path, capsys, how, send):
    words = ["imagefolder", str(slow / "tree"), str(tmp_path), "--samples-per-shard", "2"]
    command = [sys.executable, "-m", "datamodules.pack", *words, "--workers", "1"]
    run = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
        start_new_session=True,
    )
    states = tmp_path / "train" / ".partial"
    while run.poll() is None and len(list(states.glob("*.json"))) < 3:
        time.sleep(0.002)
    send(run.pid, how)
    _, stderr = run.communicate(timeout=30)
    assert run.returncode == (-9 if how == signal.SIGKILL else 128 + how)
    if how != signal.SIGKILL:
        assert stderr.strip() == "interrupted; the same command goes on where it stopped"
        assert not list(tmp_path.rglob(".*.tmp"))
    assert not list(tmp_path.rglob("manifest.json"))

    finished = sorted(states.glob("*.json"))
    assert len(finished) >= 3
    with open(tmp_path / "train" / f"{finished[0].stem}.tar", "r+b") as shard:
        shard.write(b"x")  # what was done is checked, not trusted
    assert main([*words, "--workers", "1"]) == 0
    assert f"{len(finished) - 1} shards were done before" in capsys.readouterr().out
    assert content(tmp_path) == content(slow / "fresh")
