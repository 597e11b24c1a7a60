"""Trainings that must come to the same: in other precisions, in parts, on two ranks, compiled.

All train the same narrow BagNet-9 on the same batches of the demo's images (steps.py):

* bf16 and fp16 follow float32, whose loss must fall below `LEARNED` of what it was. Trainings are
  chaotic: float32 itself ends elsewhere if it begins with weights rounded to bfloat16, which is the
  least that any training in bfloat16 does. How far apart these two are is measured, and others may
  be `SPREAD` times as far: one such pair tells the spread only to about a factor of two, and
  rounding in each step adds to that of the beginning. How far: the mean over all tens of steps, of
  the part by which their mean losses differ. Losses alone do not tell that weights are kept in
  bfloat16 (0.18 apart, where 0.31 was allowed), so their type must be float32's as well. fp16 is
  torch's autocast with a scaler of gradients, on a CPU; Lightning refuses its 16-mixed there.
* Four batches of four images, accumulated, are one batch of sixteen: all weights are equal to
  rounding in float64. This holds with BatchNorm's statistics frozen, as they are those of a batch.
* Two real ranks with eight images each, which communicate through gloo, are one rank with sixteen:
  all weights and statistics are equal to rounding in float64, after three steps: rounding grows
  about a hundredfold in each, as the network has just begun. torch's SyncBatchNorm refuses CPUs,
  so BatchNorm on the two ranks is written out, with sums over the ranks.
* The compiled network has the losses of the plain one. The compiler's code generator is left out.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.soak import commands
from tests.soak.outcomes import CRASH, LOST, Row
from tests.soak.steps import FAULTS, SETTINGS, train
from tests.trainings import REPOSITORY

SPREAD = 3.0
"""How many times as far from float32 as float32 with another beginning a training may be."""
LEARNED = 0.5
"""What the mean loss of the last ten steps may be, as a part of that of the first ten."""
ROUNDING = 1e-9
"""The most that weights may differ in float64, as a part of the largest of their tensor."""
COMPILED = 1e-5
"""The most that losses may differ in float32."""
SECONDS = 600.0

Trained = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Two trainings that must come to the same.

    Args:
        what: What is compared, for people.
        names: The two of `SETTINGS`.
        difference: Tells how far they are apart.
        bound: The most that may be, in units of `unit`.
        unit: A training that is compared with the first one in the same way, whose difference is
            the unit; None for 1.
    """

    what: str
    names: tuple[str, str]
    difference: Callable[[Trained, Trained], float]
    bound: float
    unit: str | None = None


def curve_difference(expected: Trained, found: Trained) -> float:
    """The mean part by which the mean losses of ten steps differ; weights must be of one type."""
    types = [{name: each.dtype for name, each in t["weights"].items()} for t in (expected, found)]
    if types[0] != types[1]:
        return math.inf
    curves = [tens(each) for each in (expected, found)]
    return float(((curves[1] - curves[0]).abs() / curves[0]).nan_to_num(torch.inf).mean())


def tens(trained: Trained) -> torch.Tensor:
    """The mean losses of each ten steps."""
    return trained["losses"].unfold(0, 10, 10).mean(1)


def loss_difference(expected: Trained, found: Trained) -> float:
    """The largest difference of two losses of the same batch."""
    count = min(len(each["losses"]) for each in (expected, found))
    difference = found["losses"][:count] - expected["losses"][:count]
    return float(difference.abs().nan_to_num(torch.inf).max())


def weight_difference(expected: Trained, found: Trained) -> float:
    """The largest difference of weights and statistics, as a part of their tensor's largest."""
    worst = 0.0
    for name, weights in expected["weights"].items():
        difference = (found["weights"][name] - weights).double().abs().nan_to_num(torch.inf).max()
        worst = max(worst, float(difference / weights.double().abs().max().clamp(min=1e-6)))
    return worst


COMPARISONS = (
    Comparison("bf16 against fp32", ("fp32", "bf16"), curve_difference, SPREAD, "rounded"),
    Comparison("fp16 against fp32", ("fp32", "fp16"), curve_difference, SPREAD, "rounded"),
    Comparison("compiled against plain", ("fp32", "compiled"), loss_difference, COMPILED),
    Comparison("4 x 4 images against 16", ("whole", "accumulated"), weight_difference, ROUNDING),
    Comparison("two ranks against one", ("one", "two"), weight_difference, ROUNDING),
)


def run(folder: Path, share: float, seed: int) -> list[Row]:
    prepare(folder)
    chosen = COMPARISONS[: max(1, round(share * len(COMPARISONS)))]
    return [compared(each, partial(trained, folder)) for each in chosen]


def prepare(folder: Path) -> None:
    """Make the images that all trainings take."""
    for name in ("work", "out"):
        (folder / name).mkdir()
    made = commands.run(("demo", str(folder / "data"), "--train=96", "--val=9"), folder / "work")
    assert made.code == 0, made.said


def compared(comparison: Comparison, result: Callable[[str], Trained | commands.Ended]) -> Row:
    """A row for the comparison of two trainings.

    Args:
        comparison: What is compared.
        result: Gives the result of a training by its name, or how it has failed.
    """
    names = [*comparison.names, *[comparison.unit] * (comparison.unit is not None)]
    results = [result(name) for name in names]
    row = Row(comparison.what, tried=1)
    for each in results:
        if isinstance(each, commands.Ended):
            row.add(CRASH, each.last)
            return row
    difference, bound = comparison.difference(*results[:2]), comparison.bound
    if comparison.unit is not None:
        bound *= comparison.difference(results[0], results[2])
    row.measured = f"{difference:.1e} apart, at most {bound:.1e}"
    if comparison.difference is curve_difference:
        curve = tens(results[0])
        row.measured += f"; the loss falls from {curve[0]:.2f} to {curve[-1]:.2f}"
        if not curve[-1] <= LEARNED * curve[0]:
            row.add(LOST, f"nothing is learned: {row.measured}")
    if not difference <= bound:
        row.add(LOST, row.measured)
    return row


def trained(folder: Path, name: str) -> Trained | commands.Ended:
    """The result of a training, which runs when it is first needed."""
    file = folder / "out" / f"{name}-0.pt"
    frozen = {**SETTINGS, **FAULTS}[name].frozen
    for needed in ("fp32", name) if frozen else (name,):
        place = file.with_name(f"{needed}-0.pt")
        if not place.exists() and (ended := _train(folder, needed)).code != 0:
            return ended
    return torch.load(file, weights_only=True)


def _train(folder: Path, name: str) -> commands.Ended:
    arguments = (folder / "data", folder / "out", name)
    if {**SETTINGS, **FAULTS}[name].ranks == 1:
        return commands.call(partial(train, *arguments), folder / "work", SECONDS)
    # Lightning starts the second rank with the words that have started the first.
    return commands.call(partial(_start, *map(str, arguments)), folder / "work", SECONDS)


def _start(*arguments: str) -> int:
    command = [sys.executable, "-m", "tests.soak.steps", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, stdout=1, stderr=2).returncode
