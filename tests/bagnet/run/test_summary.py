"""The last lines of a training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.loggers.wandb import ResumableWandbLogger
from bagnet.run.summary import Summary, describe


def test_the_last_lines_have_the_last_and_the_best_result_and_all_places(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = Run("bagnet33")
    lease = Lease(run.starts)
    table = CSVTable(run.metrics, lease)
    run.checkpoints.mkdir(parents=True)
    run.evidence.touch()
    for epoch, top1 in enumerate([0.5, 0.625, 0.6]):
        table.log_metrics({"train/loss_step": 1.0, "epoch": epoch}, step=10 * epoch)
        table.log_metrics({"val/top1": top1, "epoch": epoch}, step=10 * epoch + 9)
    metrics = {"val/top1": torch.tensor(0.6), "val/top5": 0.9, "val/loss": 1.25}
    wandb_logger = ResumableWandbLogger(run, False, table, lease)
    trainer = SimpleNamespace(
        callback_metrics=metrics, loggers=[table, wandb_logger], fast_dev_run=False, callbacks=[]
    )
    Summary(run).on_fit_end(trainer, SimpleNamespace(hparams={"ema": 0.9}))
    assert capsys.readouterr().out.splitlines() == [
        "",
        "validation   top-1 60.00%, top-5 90.00%, loss 1.250000",
        "best         top-1 62.50% after epoch 2",
        "checkpoints  runs/bagnet33/checkpoints (the average of the weights)",
        "metrics      runs/bagnet33/metrics.csv",
        "evidence     runs/bagnet33/evidence.png",
        "W&B          offline; view: wandb leet runs/bagnet33/wandb",
        "             upload: wandb sync runs/bagnet33/wandb/offline-run-*",
    ]


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ({"top1": 0.625, "loss": 0.5}, "top-1 62.50%, loss 0.500000"),
        (
            {"loss": 0.5, "top1": 0.625, "balanced_accuracy": 0.6, "auroc": 0.71},
            "top-1 62.50%, loss 0.500000, balanced accuracy 60.00%, AUROC 0.7100",
        ),
    ],
)
def test_a_line_has_the_figures_that_there_are(figures, line):
    metrics = {f"test/{name}": torch.tensor(value) for name, value in figures.items()}
    assert describe({**metrics, "val/top5": 1.0}, "test") == line
