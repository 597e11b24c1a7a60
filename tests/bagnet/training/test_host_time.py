"""A step asks little of the host: few operations, few figures, and hooks that cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.profilers import Profiler, SimpleProfiler
from torch.utils._python_dispatch import TorchDispatchMode

from bagnet.training.command_line.cli import BagNetCLI
from bagnet.training.command_line.command import main
from bagnet.training.metrics import ClassificationMetrics
from bagnet.training.monitoring.profiling import Unprofiled
from bagnet.training.monitoring.progress import Bar
from tests.bagnet.training.host_time import measure
from tests.bagnet.training.quiet import Rows, classifier, loader, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


class Operations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_metrics_need_few_operations():
    metrics = ClassificationMetrics(3)
    with Operations() as operations:
        metrics.update(torch.randn(8, 7), torch.arange(8) % 7)
    assert operations.count <= 25


@pytest.mark.parametrize("accumulated", [1, 2])
def test_figures_of_a_step_are_logged_only_if_the_loggers_will_see_it(accumulated):
    module, logger, logged = classifier(), Rows(), []
    log = module.log

    def watched(name: str, *args: Any, **kwargs: Any) -> None:
        logged.append(name)
        log(name, *args, **kwargs)

    module.log = watched
    trainer = quiet_trainer(
        max_epochs=1,
        logger=logger,
        log_every_n_steps=3,
        accumulate_grad_batches=accumulated,
    )
    trainer.fit(module, loader(*[4] * 7 * accumulated))
    steps = [(step, row) for step, row in logger.rows if "train/loss_step" in row]
    assert [step for step, _ in steps] == [2, 5]
    assert all(row["learning_rate"] > 0 for _, row in steps)
    assert logged.count("train/loss_step") == logged.count("learning_rate") == 2


def test_the_bar_shows_the_loss_of_the_latest_step(capsys):
    bar = Bar()
    module = classifier()
    trainer = quiet_trainer(max_epochs=1, callbacks=[bar], enable_progress_bar=True)
    assert bar.get_metrics(trainer, module) == {}
    trainer.fit(module, loader(4, 4, 4))
    assert bar.get_metrics(trainer, module) == {"loss": float(module.latest_loss)}
    assert f"loss={float(module.latest_loss):.3f}"[:8] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "kind"), [([], Unprofiled), (["--trainer.profiler", "simple"], SimpleProfiler)]
)
def test_hooks_are_not_profiled_unless_the_user_wants_it(
    flags: list[str], kind: type[Profiler], shards: Path, tmp_path: Path, monkeypatch
):
    found = []
    monkeypatch.setattr(BagNetCLI, "fit", lambda self, **_: found.append(self.trainer.profiler))
    words = ["--gpus", "0", "--runs_dir", str(tmp_path), "--model.width", "4"]
    words += ["--data.root", str(shards), "--data.workers", "0"]
    assert main([*words, *flags]) == 0
    assert [type(profiler) for profiler in found] == [kind]


@pytest.mark.slow
def test_a_step_takes_little_longer_than_a_bare_one(shards, monkeypatch):
    """By about 0.3 ms; the bound is generous, because other load on the machine disturbs it."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    figures = measure(str(shards))
    print(figures)
    assert figures["complete"][1] < 2 * figures["bare"][1]
