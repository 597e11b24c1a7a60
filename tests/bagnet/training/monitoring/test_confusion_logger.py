"""Pictures of the confusion matrix after each validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bagnet.evidence.pictures.plots import rgb
from bagnet.run.folder import Run
from bagnet.training.classifier import BagNetClassifier
from bagnet.training.metrics import FEW_CLASSES
from bagnet.training.monitoring.confusion_logger import ConfusionLogger, confusion_picture
from tests.bagnet.training.pictured import Data, Recorder
from tests.bagnet.training.quiet import quiet_trainer


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("mine")


def fit(run: Run, classes: int) -> tuple[Recorder, BagNetClassifier]:
    torch.manual_seed(0)
    logger, module = Recorder(run), BagNetClassifier("bagnet9", num_classes=classes, width=4)
    trainer = quiet_trainer(max_epochs=2, logger=logger, callbacks=[ConfusionLogger(run)])
    data = Data(24)
    data.class_names = tuple("abc") + ("",) * (classes - 3)
    trainer.fit(module, datamodule=data)
    return logger, module


def test_wandb_gets_a_picture_each_epoch_and_the_folder_has_the_latest(run):
    logger, module = fit(run, 3)
    assert [(key, step) for key, step, _ in logger.logged] == [
        ("val/confusion", 2),
        ("val/confusion", 5),
    ]
    ((picture,),) = [images for *_, images in logger.logged[-1:]]
    # Three batches with one image of each class; the fourth of each batch is unreadable.
    assert module.val_metrics.confusion.sum(1).tolist() == [3, 3, 3]
    expected = rgb(confusion_picture(module.val_metrics.confusion.numpy(), "abc"))
    assert np.array_equal(picture, expected)
    with Image.open(run.folder / "confusion.png") as file:
        assert np.array_equal(np.asarray(file.convert("RGB")), picture)


def test_nothing_is_drawn_for_many_classes(run):
    logger, _ = fit(run, FEW_CLASSES + 1)
    assert logger.logged == []
    assert not run.confusion.exists()


@pytest.mark.parametrize("classes", [1, 2, 20])
def test_names_and_numbers_do_not_overlap(classes):
    names = [f"a class with a very long name, number {number}" for number in range(classes)]
    matrix = np.full((classes, classes), 12_345)
    figure = confusion_picture(matrix, names)
    renderer = figure.canvas.get_renderer()
    (axes,) = figure.axes
    ticks = axes.get_yticklabels()
    assert len({tick.get_text() for tick in ticks}) == classes
    for texts in (axes.texts, ticks):
        boxes = [text.get_window_extent(renderer) for text in texts]
        for number, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert not any(box.overlaps(other) for other in boxes[:number])
    assert min(label.get_window_extent(renderer).y0 for label in axes.get_xticklabels()) >= 0
