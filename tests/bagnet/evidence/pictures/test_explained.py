"""`bagnet.evidence_picture`: the same sheet as a training's, with the classes' names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bagnet
from bagnet.evidence.pictures import explained
from bagnet.evidence.pictures.plots import contact_sheet
from bagnet.model.card import Card, set_card
from bagnet.model.network import BagNet

IMAGES = torch.randint(0, 256, (2, 3, 41, 41), dtype=torch.uint8)
NAMES = ("cat", "dog", "owl")


@pytest.fixture
def model() -> BagNet:
    network = BagNet(9, num_classes=3, width=4)
    set_card(network, Card(classes=("n1", "n2", "n3"), class_names=NAMES))
    return network.train()


def sheet(monkeypatch, model, **options):
    """What is drawn, and the words about the class."""
    seen = {}

    def record(examples, box, of):
        seen.update(examples=examples, of=of)
        return contact_sheet(examples, box, of=of)

    monkeypatch.setattr(explained, "contact_sheet", record)
    picture = bagnet.evidence_picture(model, IMAGES, **options)
    assert np.asarray(picture).std() > 0
    return seen["examples"], seen["of"]


def test_the_picture_shows_the_predicted_class_of_each_image(model, monkeypatch):
    examples, of = sheet(monkeypatch, model)
    assert model.training  # as it was
    logits = model.eval()(bagnet.normalize(IMAGES))
    assert of == "the predicted class"
    for n, example in enumerate(examples):
        assert example.predicted == example.true == NAMES[logits[n].argmax()]
        assert example.logit == pytest.approx(float(logits[n].max().detach()), abs=1e-6)
        assert example.evidence.mean() == pytest.approx(example.logit, abs=1e-5)
        assert (example.image == IMAGES[n].permute(1, 2, 0).numpy()).all()


def test_the_picture_shows_another_class_if_one_is_given(model, monkeypatch):
    examples, of = sheet(monkeypatch, model, target=2)
    assert of == "owl"
    expected = bagnet.evidence_map(model, bagnet.normalize(IMAGES))[:, 2]
    for n, example in enumerate(examples):
        assert example.predicted == "owl"
        assert (example.evidence == expected[n].numpy()).all()


@pytest.mark.parametrize(
    ("images", "target", "said"),
    [
        (IMAGES[:0], None, "no images"),
        (IMAGES[0], None, "pass the pixels as they were read, also of one image as a batch"),
        (IMAGES.float(), None, "uint8"),
        (IMAGES, 3, "there is no class 3: the network has 3 classes"),
    ],
)
def test_what_cannot_be_drawn_is_refused(model, images, target, said):
    with pytest.raises(ValueError, match=said):
        bagnet.evidence_picture(model, images, target)


def test_other_networks_have_no_evidence():
    with pytest.raises(ValueError, match="is not a BagNet"):
        bagnet.evidence_picture(torch.nn.Linear(1, 1), IMAGES)
