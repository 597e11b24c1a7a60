"""The command line: every benchmark has quick help, and mistakes are one line."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args, get_type_hints

import pytest
import torch

from bagnet.bench.__main__ import BENCHMARKS, main
from bagnet.bench.options import StepOptions
from bagnet.model.registry import BAGNETS

ON_CPU = ["--device", "cpu", "--width", "2"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_help_with_defaults(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"usage: python -m bagnet.bench {name}" in text
    assert ("--out PATH JSON file for all figures" in text) == (name != "gpu")
    if name == "scale":
        assert "--network_gbs X Network between nodes, in GB/s of each GPU." in text
        assert "(default: 40.0)" in text


def test_help_imports_no_torch():
    code = (
        "import sys; from bagnet.bench.__main__ import main; main(['--help']);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "  data      Measures how fast the data pipeline prepares images" in done.stdout


def test_every_bagnet_can_be_measured():
    assert set(get_args(get_type_hints(StepOptions)["model"])) == set(BAGNETS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speed"], "no command 'speed': choose from data, train"),
        (["train", "--batch_size", "0"], "--batch_size 0: it must be more than 0"),
        (["train", "--image_size", "20", *ON_CPU], "smaller than the patch of 33x33"),
        (["train", "--device", "gpu"], "--device gpu: benchmarks run on cpu or cuda"),
        (["train", "--variants", "graph", *ON_CPU], "--variants graph: CUDA graphs need a GPU"),
        (["infer", "--variants", "graph", *ON_CPU], "--variants graph: CUDA graphs need a GPU"),
        (["infer", "--variants", "best", *ON_CPU], "--variants best: choose from fp32, bf16"),
        (["evidence", "--model", "bagnet12"], "choose from bagnet9, bagnet17, bagnet25"),
        (["scale", "--network_gbs", "0"], "--network_gbs 0: it must be more than 0"),
        (["gpu", "stop", "speed"], "there is no piece speed: choose from steps-128, steps-32"),
        (["plan", "--samples", "1000", "--ranks", "512"], "512 ranks take 16384 in their first"),
    ],
)
def test_mistakes_are_one_line(words, message, error):
    assert message in error(*words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line(error):
    assert "there is no GPU here; choose --device cpu" in error("train", "--device", "cuda")
    assert "there is no GPU here; --rehearse runs every piece" in error("gpu")
