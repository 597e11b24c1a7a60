"""The startup benchmark: real processes that reach their first step, timed from outside."""

from __future__ import annotations

import json

from bagnet.bench.__main__ import main

TINY = ["--image-size", "40", "--batch-size", "12", "--rounds", "1"]


def test_processes_are_timed_to_their_first_batch_and_step_or_to_their_end(shards, tmp_path, said):
    variants = ["--variants", "help", "import-torch", "minimal-0", "train-0"]
    out = tmp_path / "figures.json"
    assert main(["startup", str(shards), *TINY, *variants, "--out", str(out)]) == 0
    seconds = json.loads(out.read_text())["seconds"]
    ((answered,),), ((imported,),) = seconds["help"], seconds["import-torch"]
    assert 0 < answered < imported
    for name in ("minimal-0", "train-0"):
        ((batch, step),) = seconds[name]
        assert imported < batch < step < 600
    text = said()
    assert f"{seconds['train-0'][0][1]:.2f}" in text


def test_a_process_that_fails_is_one_line(tmp_path, capsys):
    assert main(["startup", str(tmp_path), *TINY, "--variants", "train-0"]) == 2
    assert "train-0 failed: error: the data folder" in capsys.readouterr().err
    assert main(["startup", str(tmp_path), *TINY, "--variants", "train-3"]) == 2
    assert "--variants train-3: there is import-torch" in capsys.readouterr().err
