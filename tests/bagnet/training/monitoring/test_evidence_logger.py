"""Pictures of the evidence in the same images after each validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bagnet.run.folder import Run
from bagnet.training.classifier import BagNetClassifier
from bagnet.training.monitoring.evidence_logger import EvidenceLogger
from tests.bagnet.training.pictured import Data, Recorder
from tests.bagnet.training.quiet import quiet_trainer


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


def fit(run: Run, images: int, name: str = "bagnet9", side: int = 24) -> Recorder:
    torch.manual_seed(0)
    logger = Recorder(run)
    callbacks = [EvidenceLogger(run, images)]
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=1, logger=logger, callbacks=callbacks)
    trainer.fit(BagNetClassifier(name, num_classes=3, width=4), datamodule=Data(side))
    return logger


def test_wandb_gets_a_picture_each_epoch_and_the_folder_has_the_latest(run):
    first, second = fit(run, images=5).logged
    assert [(key, step) for key, step, _ in (first, second)] == [
        ("val/evidence", 0),
        ("val/evidence", 1),
    ]
    (before,), (after,) = first[2], second[2]
    assert before.shape == after.shape  # of the same images
    assert not np.array_equal(before, after)
    with Image.open(run.folder / "evidence.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), after)


def test_nothing_is_drawn_for_no_images_or_for_other_networks(run):
    assert fit(run, images=0).logged == []
    assert fit(run, images=2, name="resnet50", side=32).logged == []
    assert not (run.folder / "evidence.png").exists()
