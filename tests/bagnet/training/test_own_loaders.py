"""The classifier under a Trainer and with loaders of the user's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader, IterableDataset

from bagnet.model.card import Card, card_of
from bagnet.model.registry import normalize
from bagnet.training.classifier import BagNetClassifier
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.training.quiet import CLASSES, batches, classifier, loader, quiet_trainer
from tests.bagnet.training.test_classifier import Rates

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Pairs(IterableDataset):
    """Batches (float images, labels) from a source without a length."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, labels, _ in batches(4, 4, 4):
            yield normalize(images), labels


def final(data: object) -> dict[str, torch.Tensor]:
    module = classifier(learning_rate=1.0)
    quiet_trainer(max_epochs=2).fit(module, data)
    return module.state_dict()


def test_pairs_of_floats_and_labels_without_a_length_train_as_our_batches_do():
    ours, others = final(loader(4, 4, 4)), final(DataLoader(Pairs(), batch_size=None))
    torch.testing.assert_close(others, ours)


@pytest.mark.parametrize("settings", [{"schedule": "cosine"}, {"warmup_epochs": 0.5}])
def test_a_schedule_that_needs_the_length_of_an_epoch_says_so(settings):
    data = DataLoader(Pairs(), batch_size=None)
    with pytest.raises(ValueError, match="needs the length of an epoch.*limit_train_batches"):
        quiet_trainer(max_epochs=2).fit(classifier(**settings), data)
    quiet_trainer(max_epochs=2, limit_train_batches=2).fit(classifier(**settings), data)


def test_steps_of_the_learning_rate_need_no_length():
    rates = Rates()
    module = classifier(learning_rate=64.0, decay_every=1)
    trainer = quiet_trainer(max_epochs=2, callbacks=[rates])
    trainer.fit(module, DataLoader(Pairs(), batch_size=None))
    assert rates.seen == pytest.approx([1.0] * 3 + [0.1] * 3)


def test_the_learning_rate_is_that_of_the_first_batch_unless_another_is_given(capsys):
    for settings, batch in (({}, 6 * 2), ({"batch_size": 128}, 256)):
        rates = Rates()
        trainer = quiet_trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[rates])
        trainer.fit(classifier(learning_rate=0.1, **settings), loader(6, 6))
        assert rates.seen == pytest.approx([0.1 * batch / 256])
        said = capsys.readouterr().out
        assert said.count("learning rate") == 1
        assert f"= 0.1 x global batch {batch} / 256" in said


@pytest.mark.parametrize("wrong", [CLASSES, -2])
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_label_without_an_output_is_one_line(stage, wrong):
    data = batches(4, 4)
    data[1][1][2] = wrong  # not in the first batch
    run = getattr(quiet_trainer(max_epochs=1), stage)
    with pytest.raises(ValueError, match=f"a label is {wrong}, but the network has 7 classes") as e:
        run(classifier(), DataLoader(data, batch_size=None))
    assert "\n" not in str(e.value)


def test_too_many_outputs_are_doubted():
    module = BagNetClassifier("bagnet9", num_classes=1000, width=4)
    with pytest.warns(
        UserWarning, match=r"1,000 classes, but .* first 16 images is [0-6]: is num_cla"
    ):
        quiet_trainer(max_epochs=1).fit(module, loader(16))


@pytest.mark.filterwarnings("error:the network has")
def test_few_labels_or_high_ones_are_not_doubted():
    quiet_trainer(max_epochs=1).fit(BagNetClassifier("bagnet9", 1000, 4), loader(8))
    quiet_trainer(max_epochs=1).fit(classifier(), loader(32))


@pytest.fixture
def data(shards) -> ImageNetDataModule:
    return ImageNetDataModule(str(shards), batch_size=50, workers=0, image_size=24, resize_size=28)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 9}, "6 classes here, 9 in the network: give .* num_classes=6 and"),
        ({"num_classes": 1000}, "6 classes here, 1,000 in the network"),
        (
            {"num_classes": 6, "classes": [f"class{n}" for n in range(5, -1, -1)]},
            "in another order than the data: give .*classes=data.classes",
        ),
        ({"num_classes": 6, "classes": list("abcdef")}, "does not know 'class0'"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_classes_are_compared_with_those_of_the_data_module(data, settings, message, stage):
    module = BagNetClassifier("bagnet9", width=4, **settings)
    with pytest.raises(ValueError, match=message) as error:
        getattr(quiet_trainer(max_epochs=1), stage)(module, datamodule=data)
    assert "\n" not in str(error.value)


def test_a_checkpoint_names_its_classes_and_sizes_and_gives_them_back(data, tmp_path):
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(BagNetClassifier("bagnet9", num_classes=6, width=4), datamodule=data)
    trainer.save_checkpoint(path := tmp_path / "a.ckpt")
    names = tuple(f"class{n}" for n in range(6))
    card = Card("bagnet9", names, names, 24, 28)
    assert Card.of(torch.load(path, weights_only=True)["card"]) == card
    loaded = BagNetClassifier.load_from_checkpoint(path, weights_only=True)
    assert card_of(loaded.model) == card


def test_predictions_are_probabilities_of_batches_with_and_without_labels():
    module, (batch,) = classifier().eval(), batches(5)
    images = [DataLoader([each], batch_size=None) for each in (batch[0], batch, batch[:2])]
    expected = module(batch[0]).softmax(1)
    for each in images:
        (found,) = quiet_trainer().predict(module, each)
        torch.testing.assert_close(found, expected)


def test_lightnings_finder_of_learning_rates_reads_and_sets_the_rate_of_a_step(tmp_path):
    module = classifier(learning_rate=0.5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = quiet_trainer(max_epochs=2, default_root_dir=tmp_path)
    data = loader(*[8] * 20)
    rates = Tuner(trainer).lr_find(module, data, num_training=15, early_stop_threshold=None)
    tried, losses = rates.results["lr"], rates.results["loss"]
    assert tried == sorted(tried)
    assert tried[0] == pytest.approx(1e-8)
    assert tried[-1] > 0.1
    assert len(set(losses)) == len(losses) == 15
    torch.testing.assert_close(module.state_dict(), before)
    # For 256 images, of which a step has 8.
    assert module.hparams["learning_rate"] == pytest.approx(rates.suggestion() * 256 / 8)
    watch = Rates()
    trainer = quiet_trainer(max_epochs=1, callbacks=[watch])
    trainer.fit(module, data)
    assert watch.seen == pytest.approx([rates.suggestion()] * 20)


def test_lightnings_finder_of_batch_sizes_is_refused_by_the_data(shards):
    data = ImageNetDataModule(str(shards), batch_size=24, workers=0, image_size=32, resize_size=32)
    with pytest.raises(ValueError, match="BatchSizeFinder: the order of the samples depends"):
        Tuner(quiet_trainer(max_epochs=1)).scale_batch_size(classifier(), datamodule=data)
