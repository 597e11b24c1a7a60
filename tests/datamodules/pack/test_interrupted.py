"""A pack that is killed resumes, and its result is the same bytes as without an interruption."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.datamodules.pack.builders import REPOSITORY, content, image, pack, write


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A tree whose images take long to pack, and its packed data."""
    root = tmp_path_factory.mktemp("slow")
    file = io.BytesIO()
    Image.radial_gradient("L").resize((1200, 1200)).convert("RGB").save(file, "PNG")
    big = file.getvalue()  # must be decoded and encoded again
    for split, count in (("train", 28), ("val", 2)):
        for number in range(count):
            image = root / "tree" / split / f"n{number % 2}" / f"{number}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(big)
    assert pack("imagefolder", root / "tree", root / "fresh", "--samples_per_shard", 2) == 0
    return root


def hear_ctrl_c():
    """A shell's background jobs ignore Ctrl-C, and CI may be one of them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("how", "send"),
    [
        (signal.SIGKILL, os.kill),
        pytest.param(signal.SIGTERM, os.kill, marks=pytest.mark.slow),
        # SLURM and the keyboard signal all processes.
        pytest.param(signal.SIGTERM, os.killpg, marks=pytest.mark.slow),
        (signal.SIGUSR1, os.killpg),
        pytest.param(signal.SIGINT, os.killpg, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes(slow, tmp_path, capsys, how, send):
    words = ["imagefolder", str(slow / "tree"), str(tmp_path), "--samples_per_shard", "2"]
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
    while run.poll() is None and len(list(states.glob("[!.]*.json"))) < 3:
        time.sleep(0.002)
    send(run.pid, how)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == (-9 if how == signal.SIGKILL else 128 + how)
    if how != signal.SIGKILL:
        assert stderr.startswith("interrupted; the same command resumes")
        assert not list(tmp_path.rglob(".*.tmp*"))
    assert not list(tmp_path.rglob("manifest.json"))

    finished = sorted(states.glob("[!.]*.json"))
    assert len(finished) >= 3
    with open(tmp_path / "train" / f"{finished[0].stem}.tar", "r+b") as shard:
        shard.write(b"x")  # what was done is checked, not trusted
    assert pack(*words) == 0
    assert f"{len(finished) - 1} shards were done before" in capsys.readouterr().out
    assert content(tmp_path) == content(slow / "fresh")


def test_killed_right_after_the_manifest_a_pack_is_tidied_by_the_next_one(tmp_path):
    write(tmp_path / "tree/train/a/1.jpg", image(1))
    words = ["imagefolder", tmp_path / "tree", tmp_path / "out"]
    assert pack(*words) == 0
    left = [tmp_path / "out/train/.partial/shard-000000.json", tmp_path / "out/train/.x.tmp.tar"]
    for path in left:
        write(path, b"")
    assert pack(*words) == 0
    assert not any(path.exists() for path in (*left, left[0].parent))
