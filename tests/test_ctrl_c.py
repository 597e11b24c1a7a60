"""Ctrl-C at any moment of any command: one line at once, exit code 130, and nothing is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bagnet.model.registry import build_model
from bagnet.model.weights import save_weights
from tests import pressing
from tests.slurm.cluster import PATIENCE, until
from tests.starts import FLAGS, REPOSITORY, group

SOON = "SIGINT: stopping after this batch; a second signal ends at once, without saving"
UNSAVED = [SOON, "stopped by SIGINT, nothing to save yet; resume with: .*"]
SAVED = [SOON, "stopped by SIGINT, saved; resume with: .*"]
EVALUATION = ["stopped by SIGINT"]
PACK = ["interrupted; the same command resumes .*"]
MEASURED = ["stopped; the same command resumes with what is left"]
STOPPED = ["stopped"]

START = "after=multiprocessing.process.BaseProcess.start"
STEP = "before=bagnet.training.classifier.BagNetClassifier.training_step"
CHECK = "before=bagnet.training.classifier.BagNetClassifier.validation_step"
TRAIN = ["train.py", *FLAGS, "--data.root", "{shards}", "--data.workers"]
VALIDATE = ["train.py", "validate", *FLAGS[2:], "--data.root", "{shards}", "--data.workers", "1"]
VALIDATE += ["--model.weights", "{weights}"]
IMAGES = ["datamodules.pack", "imagefolder", "{tree}", "out", "--workers", "2"]
ACCURACY = ["bagnet.experiments", "accuracy", "--models", "bagnet9={weights}", "--out", "out"]
ACCURACY += ["--data.root", "{shards}", "--data.image_size", "24", "--data.resize_size", "28"]
ACCURACY += ["--data.workers", "1"]
ON_TWO = [*ACCURACY, "--processes", "2"]
REPORT = ["bagnet.evidence", "report", "{tree}/train", "--checkpoint", "{weights}"]
REPORT += ["--model.name", "bagnet9", "--data.image_size", "24", "--data.resize_size", "28"]
DEMO = ["datamodules.demo", "out"]
MIXING = ["datamodules.mixing", "{shards}"]
DATA = ["bagnet.bench", "data", "{shards}", "--variants", "ours"]

QUICK = [
    ("import=numpy", IMAGES, PACK),
    (START, IMAGES, PACK),
    ("before=datamodules.processes.pool.wait", IMAGES, PACK),
    ("import=numpy", ["datamodules.pack", "verify", "{shards}"], PACK),
    ("import=numpy", DEMO, ["interrupted; .*"]),
    ("import=numpy", ["datamodules.audit", "audit"], STOPPED),
    ("before=datamodules.shards.manifest.Manifest.load", MIXING, STOPPED),
    ("import=torch", REPORT, STOPPED),
    ("import=torch", ACCURACY, MEASURED),
    ("import=numpy", ["bagnet.bench", "plan"], STOPPED),
]
SLOW = [
    ("import=torch._dynamo", [*TRAIN, "1"], UNSAVED),
    (START, [*TRAIN, "2"], UNSAVED),
    (CHECK, [*TRAIN, "0"], UNSAVED),
    (STEP, [*TRAIN, "0"], SAVED),
    (STEP, [*TRAIN, "2"], SAVED),
    (STEP, [*TRAIN, "1", "--trainer.devices", "2"], SAVED),
    (CHECK, [*TRAIN, "0", "--trainer.num_sanity_val_steps", "0"], SAVED),
    ("before=torch.save", [*TRAIN, "1"], SAVED),
    ("import=torch._dynamo", VALIDATE, EVALUATION),
    (START, VALIDATE, EVALUATION),
    (CHECK, VALIDATE, EVALUATION),
    ("before=datamodules.shards.writer.write_shard", DEMO, ["interrupted; .*"]),
    ("import=torch._dynamo", ACCURACY, MEASURED),
    (START, ACCURACY, MEASURED),
    ("before=bagnet.experiments.measuring.processes._rows", ACCURACY, MEASURED),
    (START, ON_TWO, MEASURED),
    ("before=multiprocessing.connection.Connection.recv", ON_TWO, MEASURED),
    ("before=matplotlib.figure.Figure.savefig", ACCURACY, MEASURED),
    ("before=bagnet.evidence.report.votes.compute_votes", REPORT, STOPPED),
    ("before=bagnet.evidence.report.html_file.write_report", REPORT, STOPPED),
    ("before=subprocess.Popen.communicate", ["bagnet.bench", "startup", "{shards}"], STOPPED),
    (START, ["bagnet.bench", "plan"], STOPPED),
    ("after=subprocess.Popen.__init__", DATA, STOPPED),
]
TABLE = [*QUICK, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW)]


@pytest.fixture(scope="module")
def places(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Inputs of the commands."""
    folder = tmp_path_factory.mktemp("inputs")
    weights, tree = folder / "weights.safetensors", folder / "tree"
    save_weights(build_model("bagnet9", num_classes=6, width=4), weights)
    for split in ("train", "val"):
        for label in range(6):
            path = tree / split / str(label) / "image.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (32, 32), (40 * label, 0, 0)).save(path)
    return {"shards": shards, "weights": weights, "tree": tree}


def press(
    folder: Path, places: dict[str, Path], moment: str, words: list[str], times: int = 1
) -> tuple[int, list[str]]:
    """Run a command, press Ctrl-C, and return its exit code and what it said from then on."""
    program, *arguments = (word.format(**places) for word in words)
    if program == "train.py":
        program = str(REPOSITORY / program)
    process = subprocess.Popen(
        [sys.executable, pressing.__file__, moment, str(times), program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    out, _ = process.communicate(timeout=PATIENCE)
    assert pressing.PRESSED in out, out
    until(lambda: not group(process.pid), "the end of all processes", lambda: out)
    lines = out.split(f"{pressing.PRESSED}\n")[1].splitlines()
    return process.returncode, [line for line in lines if line.strip()]


@pytest.mark.parametrize(("moment", "words", "expected"), TABLE)
def test_ctrl_c_ends_a_command_in_one_line(tmp_path, places, moment, words, expected):
    code, lines = press(tmp_path, places, moment, words)
    assert code == 128 + signal.SIGINT, lines
    said = [line for line in lines if not line.startswith(USUAL)]
    assert len(said) == len(expected), lines
    assert all(map(re.fullmatch, expected, said)), lines
    assert not list(tmp_path.rglob("*.tmp*"))


USUAL = ("Seed set to", "bagnet9, ", "learning rate")
"""Beginnings of lines that a training prints until it looks whether to stop."""


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_training_at_once(tmp_path, places):
    code, lines = press(tmp_path, places, STEP, [*TRAIN, "0"], times=2)
    assert (code, lines) == (-signal.SIGINT, [SOON])


@pytest.mark.slow
def test_ctrl_c_after_the_last_batch_does_not_undo_the_training(tmp_path, places):
    moment = "before=bagnet.run.summary.Summary.on_train_end"
    code, lines = press(tmp_path, places, moment, [*TRAIN, "0"])
    assert (code, lines[0]) == (0, SOON)
