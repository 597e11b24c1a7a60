"""A start of train.py loses no time before its imports, nor with collecting garbage in them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from bagnet.training.command_line import command
from bagnet.training.command_line.cli import BagNetCLI
from datamodules.common.errors import ReadingEnded

START = """
import gc, sys
from bagnet.training.command_line import command

whole = []
gc.callbacks.append(lambda phase, info: whole.append(info) if info["generation"] == 2 else None)
command.forkserver_context = lambda: print("workers before torch:", "torch" not in sys.modules)
command.main(["--gpus", "0", "--data.root", "missing", "--resume", "nowhere"])
print("whole collections:", len(whole), "frozen:", gc.get_freeze_count() > 0, gc.isenabled())
"""


@pytest.mark.slow
def test_a_start_prepares_workers_before_it_imports_and_imports_without_collections():
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("error: --resume nowhere: no such file")
    assert done.stdout.splitlines() == [
        "workers before torch: True",
        "whole collections: 0 frozen: True True",
    ]


@pytest.mark.parametrize(
    ("words", "prepared"),
    [
        (["--data.workers", "2"], True),
        (["--data.batch_size", "8"], True),
        (["--data.workers", "0"], False),
        (["--data.workers=0", "--data.batch_size", "8"], False),
        (["fit", "--help"], False),
    ],
)
def test_workers_are_prepared_only_if_the_flags_allow_any(words, prepared, monkeypatch):
    started = []
    monkeypatch.setattr(command, "forkserver_context", lambda: started.append(True))
    monkeypatch.setattr(BagNetCLI, "__init__", lambda *_: None)
    assert command.main(words) == 0
    assert started == [True] * prepared


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_too_little_memory_is_one_line_with_a_remedy(monkeypatch, capsys, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(BagNetCLI, "__init__", fails)
    assert command.main(["--name", "x", "--data.workers", "0"]) == 2
    assert re.fullmatch(
        r"error: (this machine|the GPU) has too little memory; lower --data\.batch_size "
        r"\(docs/troubleshooting\.md has other ways\)\n",
        capsys.readouterr().err,
    )


def test_if_a_process_that_reads_has_ended_the_training_says_how_to_resume(monkeypatch, capsys):
    def ends(*_):
        raise ReadingEnded("a process that reads the data has ended")

    monkeypatch.setattr(BagNetCLI, "__init__", ends)
    assert command.main(["--name", "x", "--data.workers", "0"]) == 2
    assert capsys.readouterr().err == (
        "error: a process that reads the data has ended; resume with: "
        "python train.py --name x --data.workers 0 --resume auto\n"
    )
