"""The fused kernels under Triton's interpreter, on the CPU; what they promise stands in ``checks/``.

Triton decides when it is first imported, so they run in processes of their own. On a machine with a GPU, the same checks
run on it: ``python -m pytest -n 8 tests/bagnet/kernels/checks/{kernels,blocks}.py``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
CHECKS = Path(__file__).parent / "checks"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton here")


def start(*words: str, interpreted: bool = True) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment["TRITON_INTERPRET"] = "1" if interpreted else "0"
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("checks", ["kernels", "blocks"])
def test_they_agree_with_autograd_in_float64(checks):
    process = start("-m", "pytest", "-n", "0", str(CHECKS / f"{checks}.py"))
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output


def test_a_training_of_200_steps_goes_as_with_the_plain_network():
    output, _ = start(str(CHECKS / "curves.py")).communicate(timeout=2400)
    assert output.strip().splitlines()[-1] == "within the spread", output


def test_two_ranks_with_synchronised_normalisation_are_one_network_with_both_batches(tmp_path):
    ranks = [start(str(CHECKS / "rank.py"), str(rank), str(tmp_path / "m")) for rank in range(2)]
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [output.strip().splitlines()[-1] for output in outputs] == ["like one"] * 2, outputs


def test_every_kernel_compiles_for_an_h200():
    process = start(str(CHECKS / "compiled.py"), interpreted=False)
    output, _ = process.communicate(timeout=300)
    assert output.strip().splitlines()[-1] == "10 kernels", output
