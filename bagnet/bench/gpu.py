"""Runs all that shows how training does on a GPU: its steps, real runs, and checks of both.

`benchmarks/gpu.sh` starts it. Name the pieces to run only those; each takes less than ten minutes,
and all of them half an hour.

* steps-128, steps-32: variants of the training step at 128 and 32 images.
* graphs-128: CUDA graphs at 128 images, in a process of their own because they need the memory.
* train: `train.py` for 300 steps on JPEGs that it makes: plain, compiled, and compiled under DDP,
  each compared with its step in steps-128.
* mixed: 50 steps in float16; losses, weights and momentum must be finite.
* sync: 50 steps in which waiting for the GPU is an error (BAGNET_SYNC_DEBUG=error).
* stop: a run that SIGTERM stops and that is resumed must have every sample once, and to the bit the
  curve of a run that nothing stopped.
* infer, evidence: classification, and the evidence at every pixel.
* tuned-128: the step compiled in the mode max-autotune, which takes the longest.

The folder OUT gets `summary.md`, and the figures (JSON, CSV) and the log of each piece. A piece
that fails is reported there, and the next one starts.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from bagnet.bench.lib.piece import Failed, Piece
from bagnet.bench.lib.runs import curve, differences, not_finite, steady
from bagnet.bench.lib.setting import GRAPHS, network_of
from bagnet.bench.lib.summary import Outcome, machine, save
from bagnet.bench.options import GpuOptions
from datamodules.audit.epoch import EXACT
from datamodules.audit.verdict import audit

ALL_SECONDS = 1800  # of all pieces, at most
TOY_STEP = ["--batch_size", "3", "--steps", "1"]
STEPS = ["channels-last", "fused-sgd", "cudnn-benchmark", "ddp", "compiled", "compiled-benchmark"]
RESNET = ["resnet50", "resnet50-compiled"]
TRAININGS = {
    "plain": ("cudnn-benchmark", []),
    "compiled": ("compiled-benchmark", ["--compile"]),
    "compiled-ddp": ("compiled-benchmark", ["--compile", "--trainer.strategy", "ddp"]),
}
"""The runs of `train`: the variant of steps-128 that does the same, and the settings."""
STOP_AFTER = 40  # steps


class StopAfter(Callback):
    """Sends SIGTERM to the training process after a step.

    Args:
        step: Number of the step, from 1.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def run(options: GpuOptions) -> int:
    """Run the pieces; returns 1 if one of them fails.

    Raises:
        ValueError: There is no such piece, or no GPU.
    """
    for name in options.pieces:
        if name not in PIECES:
            raise ValueError(f"there is no piece {name}: choose from {', '.join(PIECES)}")
    if not options.rehearse and not torch.cuda.is_available():
        raise ValueError("there is no GPU here; --rehearse runs every piece at toy size on the CPU")
    place = "rehearsal" if options.rehearse else "gpu"
    out = (options.out or Path("results", place)).resolve()
    data = (options.data or Path("data", place)).resolve()
    out.mkdir(parents=True, exist_ok=True)
    here, end, all_ok = machine(on_gpu=not options.rehearse), time.monotonic() + ALL_SECONDS, True
    if options.rehearse:
        here = f"A rehearsal on a CPU, whose figures mean nothing: {here}"
    for name in options.pieces or PIECES:
        piece = Piece(name, out, data, options.rehearse, end - time.monotonic())
        print(f"{name}, at most {piece.limit:.0f} s", flush=True)
        outcome = _outcome(piece, here)
        save(out, name, outcome, list(PIECES))
        print(f"  {outcome.result} after {outcome.seconds:.0f} s: {outcome.found}", flush=True)
        all_ok &= outcome.ok
    print(f"summary: {out / 'summary.md'}")
    return 0 if all_ok else 1


def _outcome(piece: Piece, here: str) -> Outcome:
    """Run one piece, whatever goes wrong in it."""
    start, ok = time.monotonic(), True
    try:
        found = PIECES[piece.name](piece)
    except Exception as error:
        ok, found = False, str(error)
        if not isinstance(error, Failed):
            found = f"{type(error).__name__}: {error}"
            with piece.log.open("a") as log:
                traceback.print_exc(file=log)
    return Outcome(ok, time.monotonic() - start, found, here)


def _steps(piece: Piece, variants: list[str], batch: int = 128) -> str:
    variants = [name for name in variants if not (piece.rehearse and name in GRAPHS)]
    sizes = ["--batch_size", str(batch), "--steps", "20" if batch == 128 else "40"]
    rates = _rates(piece.bench("train", *sizes, "--variants", *variants, toy=TOY_STEP))
    bagnets = {name: rate for name, rate in rates.items() if network_of(name, "") != "resnet50"}
    fastest = max(bagnets, key=bagnets.__getitem__)
    return f"fastest: {fastest}, {rates[fastest]:,.0f} images/s"


def _rates(figures: dict[str, Any]) -> dict[str, float]:
    """Images/s of each variant of `bench train`."""
    batch = int(figures["settings"]["batch_size"])
    seconds: dict[str, list[list[float]]] = figures["seconds_per_step"]
    return {name: batch / statistics.median(chain(*rounds)) for name, rounds in seconds.items()}


def _train(piece: Piece) -> str:
    bench = piece.out / "steps-128.json"
    steps = _rates(json.loads(bench.read_text())) if bench.exists() else {}
    found = []
    for name, (step, words) in TRAININGS.items():
        rate, wait = steady(piece.train(name, *words))
        share = (
            f" ({rate / steps[step]:.0%} of the step's {steps[step]:,.0f})" if step in steps else ""
        )
        found.append(f"{name} {rate:,.0f} images/s{share}, {wait:.1%} waiting for data")
    return "; ".join(found)


def _mixed(piece: Piece) -> str:
    words = ["--trainer.precision", "16-mixed", "--trainer.max_steps", "50"]
    run = piece.train("mixed", *words)
    if wrong := not_finite(run):
        raise Failed(f"not finite: {', '.join(wrong)}")
    losses = [row["train/loss_step"] for row in curve(run, "train/loss_step").values()]
    return f"loss {losses[0]:.3g} to {losses[-1]:.3g}; losses, weights and momentum are finite"


def _sync(piece: Piece) -> str:
    # The last step is a logged one: a run may wait then, and before it saves.
    words = ["--trainer.max_steps", "50", "--trainer.log_every_n_steps", "25"]
    piece.train("sync", *words, variables={"BAGNET_SYNC_DEBUG": "error"})
    if piece.rehearse:
        return "50 steps; there was no GPU to wait for"
    return "no step that is not logged waited for the GPU"


def _stop(piece: Piece) -> str:
    exact = ["--trainer.deterministic", "true"]
    whole = curve(piece.train("whole", *exact), "train/", "val/")
    run = piece.data / "runs" / "stopped"
    exact += ["--data.audit_dir", str(run / "audit")]
    callback = f"--trainer.callbacks+={StopAfter.__module__}.{StopAfter.__name__}"
    stop = [callback, f"--trainer.callbacks.step={STOP_AFTER}"]
    piece.train("stopped", *exact, *stop, code=128 + signal.SIGTERM)
    piece.train("stopped", *exact, resume=True)
    report = audit(run / "audit")
    if (report.verdict, report.restarts) != (EXACT, 1):
        problems = "; ".join(report.problems)
        raise Failed(f"the audit says {report.verdict}, {report.restarts} restarts: {problems}")
    if wrong := differences(whole, curve(run, "train/", "val/")):
        raise Failed(f"the curve of the resumed run differs: {wrong[0]}")
    return f"exit code 143 after step {STOP_AFTER}; resumed with every sample once, the same curve"


def _infer(piece: Piece) -> str:
    figures = piece.bench("infer", "--rounds", "2", "--steps", "20", toy=TOY_STEP)
    compiled = statistics.median(figures["images_per_second"]["compiled"])
    maps = statistics.median(figures["dense_maps_per_second"])
    return f"compiled {compiled:,.0f} images/s; {maps:.3g} dense maps/s"


def _evidence(piece: Piece) -> str:
    rates = piece.bench("evidence", "--rounds", "1", toy=["--image_size", "10"])
    (single,), (dense,) = (rates["pixels_per_second"][name] for name in ("single", "dense"))
    return f"dense {dense:,.0f} pixels/s, {dense / single:,.0f} times as fast as patch by patch"


PIECES: dict[str, Callable[[Piece], str]] = {
    "steps-128": partial(_steps, variants=[*STEPS, "compiled-symbolic", *RESNET]),
    "steps-32": partial(_steps, variants=[*STEPS, "graph", "compiled-graph", *RESNET], batch=32),
    "graphs-128": partial(_steps, variants=["fused-sgd", "graph", "compiled", "compiled-graph"]),
    "train": _train,
    "mixed": _mixed,
    "sync": _sync,
    "stop": _stop,
    "infer": _infer,
    "evidence": _evidence,
    "tuned-128": partial(_steps, variants=["compiled", "compiled-tuned"]),
}
