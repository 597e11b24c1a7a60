from __future__ import annotations

import math

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn import functional as F

from bagnet.model.registry import normalize
from bagnet.model.weights import save_weights
from bagnet.training.classifier import BagNetClassifier
from bagnet.training.recipe.schedule import learning_rate_factor
from datamodules.common.batch import UNREADABLE
from tests.bagnet.training.quiet import CLASSES, batches, classifier, loader, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def test_logits_are_those_of_the_network_on_normalised_pixels():
    module = classifier().eval()
    images = batches(3)[0][0]
    torch.testing.assert_close(module(images), module.model(normalize(images)))


def test_an_evaluation_counts_every_sample_once():
    module = classifier()
    (uneven,) = quiet_trainer().validate(module, loader(5, 1, 8, 2), verbose=False)
    data = batches(5, 1, 8, 2)
    images, labels = (torch.cat([batch[i] for batch in data]) for i in range(2))
    module.eval()
    with torch.no_grad():
        logits = torch.cat([module(batch[0]) for batch in data])
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert uneven["val/top1"] == pytest.approx((ranks < 1).float().mean().item())
    assert uneven["val/top5"] == pytest.approx((ranks < 5).float().mean().item())
    assert uneven["val/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert 0 < uneven["val/top5"] < 1
    assert len(images) == 16


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        self.seen.append(rate)


def test_the_optimizer_gets_the_schedule_step_by_step_with_accumulation():
    settings = {"schedule": "cosine", "warmup_epochs": 1.0}
    module = classifier(learning_rate=0.1, batch_size=128, **settings)
    rates = Rates()
    trainer = quiet_trainer(max_epochs=3, accumulate_grad_batches=2, callbacks=[rates])
    trainer.fit(module, loader(4, 4, 4, 4))
    expected = [
        0.1 * learning_rate_factor(step / 2, epochs=3, decay_every=30, **settings)
        for step in range(6)
    ]  # 128 x 2 images a step: the rate for 256
    assert rates.seen == pytest.approx(expected)


@pytest.mark.parametrize(
    ("limits", "epochs"),
    [
        ({"max_epochs": 3}, 3),
        ({"max_epochs": -1, "max_steps": 5}, 2.5),
        ({"max_epochs": 3, "max_steps": 4}, 2),
        ({"max_epochs": 1, "max_steps": 4}, 1),
    ],
)
def test_the_cosine_ends_where_the_training_does(limits, epochs):
    rates = Rates()
    module = classifier(learning_rate=256.0, batch_size=1, schedule="cosine")
    quiet_trainer(callbacks=[rates], **limits).fit(module, loader(4, 4))
    steps = len(rates.seen)
    assert steps == 2 * epochs
    assert rates.seen == pytest.approx(
        [(1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    )


def test_a_cosine_without_an_end_is_refused():
    with pytest.raises(ValueError, match="has no limit; set --trainer.max_epochs"):
        quiet_trainer(max_epochs=-1).fit(classifier(schedule="cosine"), loader(4))


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("learning_rate", -1.0, "is -1, but must be at least 0"),
        ("learning_rate", math.inf, "is inf"),
        ("weight_decay", math.nan, "is nan"),
        ("momentum", 1.1, "from 0 to 1"),
        ("decay_every", 0, "at least 1"),
        ("width", 0, "at least 1"),
    ],
)
def test_an_impossible_number_is_refused(setting, value, wanted):
    with pytest.raises(ValueError, match=f"^{setting} .*{wanted}"):
        BagNetClassifier("bagnet9", **{setting: value})


def test_training_lowers_the_loss():
    module = classifier(learning_rate=1.0, batch_size=12)
    data = loader(12)
    images, labels, _ = batches(12)[0]
    before = F.cross_entropy(module.train()(images), labels)
    quiet_trainer(max_epochs=20).fit(module, data)
    assert F.cross_entropy(module.train()(images), labels) < 0.7 * before


def test_it_starts_from_a_file_of_weights(tmp_path):
    other = classifier().model
    for parameter in other.parameters():
        parameter.data.mul_(0.5)
    save_weights(other, tmp_path / "weights.safetensors")
    module = classifier(weights=str(tmp_path / "weights.safetensors"))
    assert module.model.training
    for name, tensor in module.model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert "weights" not in module.hparams  # a checkpoint does not depend on the file


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(classifier().model, tmp_path / "weights.pth")
    other = "as it is from a bagnet9 of width 4: give --model.name bagnet9 --model.width"
    with pytest.raises(ValueError, match=f"does not fit bagnet33 of width 4, {other} 4$"):
        BagNetClassifier("bagnet33", CLASSES, 4, weights=str(tmp_path / "weights.pth"))
    with pytest.raises(
        ValueError, match="does not fit bagnet9 of width 2, as it is from a bagnet9"
    ):
        BagNetClassifier("bagnet9", CLASSES, 2, weights=str(tmp_path / "weights.pth"))


def test_loss_gradients_and_metrics_ignore_unreadable_samples():
    module = classifier().eval()
    images, labels, ids = batches(8)[0]
    good = torch.tensor([0, 2, 3, 7])
    marked = labels.clone()
    marked[[1, 4, 5, 6]] = UNREADABLE

    def step(batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        module.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        return loss, [parameter.grad.clone() for parameter in module.parameters()]

    module.log = lambda *args, **kwargs: None
    loss, gradients = step((images, marked, ids))
    expected, expected_gradients = step((images[good], labels[good], ids[good]))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-7)
    metrics = module.train_metrics
    both = metrics.compute()  # of both steps
    metrics.reset()
    module.training_step((images[good], labels[good], ids[good]), 0)
    torch.testing.assert_close(metrics.compute(), both)


def test_an_unreadable_batch_has_zero_loss_and_gradients():
    module = classifier()
    module.log = lambda *args, **kwargs: None
    images, labels, ids = batches(4)[0]
    loss = module.training_step((images, torch.full_like(labels, UNREADABLE), ids), 0)
    loss.backward()
    assert loss.item() == 0
    assert all((parameter.grad == 0).all() for parameter in module.parameters())


def test_a_run_resumes_only_with_its_settings_and_a_user_may_load_it_with_others(tmp_path):
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(classifier(learning_rate=0.2), loader(4, 4))
    trainer.save_checkpoint(path := tmp_path / "a.ckpt")
    with pytest.raises(
        ValueError, match=r"a run with learning_rate 0.2, and this one has 0.1; use"
    ):
        quiet_trainer(max_epochs=2).fit(
            classifier(learning_rate=0.1), loader(4, 4), ckpt_path=path, weights_only=True
        )
    loaded = BagNetClassifier.load_from_checkpoint(path, learning_rate=0.1, weights_only=True)
    assert loaded.hparams["learning_rate"] == 0.1
    assert loaded.hparams["num_classes"] == CLASSES
    trained = trainer.lightning_module.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in loaded.state_dict().items())
    quiet_trainer(max_epochs=1).fit(loaded, loader(4, 4))
