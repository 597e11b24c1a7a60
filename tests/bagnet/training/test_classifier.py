from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from bagnet.model.registry import normalize
from bagnet.model.weights import save_weights
from bagnet.training.classifier import BagNetClassifier, compiled, logits, memory_format
from bagnet.training.optim import learning_rate_factor, sgd
from bagnet.training.trainer import ProgressBar
from datamodules.common.batch import UNREADABLE
from tests.bagnet.training.quiet import quiet_trainer

CLASSES = 7

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def batches(*sizes: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randint(0, 256, (size, 3, 20, 24), dtype=torch.uint8, generator=generator),
            torch.randint(0, CLASSES, (size,), generator=generator),
            torch.arange(size),
        )
        for size in sizes
    ]


def classifier(**options: object) -> BagNetClassifier:
    torch.manual_seed(0)
    return BagNetClassifier("bagnet9", num_classes=CLASSES, width=4, **options)


def loader(*sizes: int) -> DataLoader:
    return DataLoader(batches(*sizes), batch_size=None)


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
        0.1 * learning_rate_factor(step / 2, max_epochs=3, decay_every=30, **settings)
        for step in range(6)
    ]  # 128 x 2 images a step: the rate for 256
    assert rates.seen == pytest.approx(expected)


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
    with pytest.raises(ValueError, match="does not fit bagnet33"):
        BagNetClassifier("bagnet33", CLASSES, 4, weights=str(tmp_path / "weights.pth"))


def test_compiling_changes_no_name_in_the_checkpoint():
    assert classifier(compile=True).state_dict().keys() == classifier().state_dict().keys()


@pytest.mark.slow
def test_pixels_to_logits_is_one_graph():
    torch.compiler.reset()
    network = torch.compile(logits, fullgraph=True, backend="eager")  # a graph break would raise
    model = BagNetClassifier("bagnet33", num_classes=CLASSES, width=4).model
    images = torch.randint(0, 256, (2, 3, 41, 36), dtype=torch.uint8)
    for mode in (True, False):
        model.train(mode)
        found = network(model, images, torch.contiguous_format)
        torch.testing.assert_close(found, logits(model, images, torch.contiguous_format))


def test_only_a_classifier_that_compiles_runs_the_compiled_network(monkeypatch):
    monkeypatch.setattr("torch.compile", lambda function, **options: lambda *_: "compiled")
    compiled.cache_clear()
    images = batches(2)[0][0]
    assert classifier(compile=True)(images) == "compiled"
    assert classifier()(images).shape == (2, CLASSES)
    compiled.cache_clear()


def test_a_compiled_training_has_one_graph_for_each_batch_size_and_mode(monkeypatch):
    """The sanity validation, with its smaller last batch, comes before the first training step."""
    sizes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        (images,) = (each for each in inputs if each.dtype == torch.uint8)
        sizes.append(images.shape[0])  # fails for a graph of any size
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        "torch.compile",
        lambda function, mode, **options: compile_(function, backend=backend, **options),
    )
    compiled.cache_clear()
    torch.compiler.reset()
    trainer = quiet_trainer(max_epochs=3, num_sanity_val_steps=2)
    trainer.fit(classifier(compile=True), loader(4, 4), loader(4, 3))
    compiled.cache_clear()
    assert all(type(size) is int for size in sizes)
    assert sorted(sizes) == [3, 4, 4]  # validation's last batch, validation, training


def optimizer_on(device: str, clip: float | None) -> torch.optim.Optimizer:
    module = classifier()
    strategy = SimpleNamespace(root_device=torch.device(device))
    module.trainer = SimpleNamespace(
        strategy=strategy, gradient_clip_val=clip, accumulate_grad_batches=1
    )
    return module.configure_optimizers()


def test_the_optimizer_is_fused_on_a_gpu_unless_gradients_are_clipped():
    assert optimizer_on("cuda", None).defaults["fused"] is True
    assert optimizer_on("cuda", 1.0).defaults["fused"] is None
    assert optimizer_on("cpu", None).defaults["fused"] is None  # so that results stay the same


class NoWait(TorchDispatchMode):
    """Refuses operations that make the host wait for the device."""

    waiting = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item")

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        assert name not in self.waiting, f"a step waits in {name}"
        self.operations += 1
        return function(*args, **(kwargs or {}))


class NoWaitInSteps(Callback):
    """Watches from the start of each step to the start of the next: Lightning waits in between.

    The last step is watched to its end only, as the bar is refreshed then.
    """

    def __init__(self) -> None:
        self.modes: list[NoWait] = []

    def on_train_batch_start(self, *arguments: Any) -> None:
        if self.modes:
            self._close()
        self.modes.append(NoWait())
        self.modes[-1].__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == trainer.num_training_batches:
            self._close()

    def _close(self) -> None:
        self.modes[-1].__exit__(None, None, None)


@pytest.mark.parametrize("bar", [False, True])
def test_the_host_never_waits_for_the_device_in_a_step(bar):
    """Unless the step is logged, or the bar is refreshed."""
    watch = NoWaitInSteps()
    callbacks = [watch, ProgressBar()] if bar else [watch]
    trainer = quiet_trainer(
        max_epochs=1, callbacks=callbacks, log_every_n_steps=50, enable_progress_bar=bar
    )
    trainer.fit(classifier(), loader(4, 4, 4))
    assert len(watch.modes) == 3
    assert all(mode.operations > 500 for mode in watch.modes)
    with pytest.raises(AssertionError, match="a step waits in _local_scalar_dense"), NoWait():
        torch.ones(1).item()


class Overflows(Callback):
    """Counts the steps that the scaler skipped, and looks at momentum and weights after each."""

    def __init__(self) -> None:
        self.scales: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        self.scales.append(trainer.precision_plugin.scaler.get_scale())
        states = [state["momentum_buffer"] for state in trainer.optimizers[0].state.values()]
        assert all(tensor.isfinite().all() for tensor in [*states, *pl_module.parameters()])
        assert max(state.abs().max() for state in states) < 1e3


def test_16_mixed_survives_an_overflow_in_the_first_steps(monkeypatch):
    """torch's fused SGD would leave its momentum uninitialised, and add it to the weights."""
    monkeypatch.setattr(
        "bagnet.training.classifier.sgd",
        lambda groups, lr, momentum, fused: sgd(groups, lr, momentum, fused=True),
    )
    junk = [torch.full((1 << size,), torch.nan) for size in range(4, 18) for _ in range(20)]
    del junk  # what torch.empty gives out next
    watch = Overflows()
    scaler = torch.amp.GradScaler(device="cpu", init_scale=2.0**12)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    trainer = quiet_trainer(max_epochs=1, callbacks=[watch], plugins=plugins)
    trainer.fit(classifier(), loader(*[4] * 16))
    assert watch.scales[0] == 2.0**11  # the first step overflowed
    assert watch.scales[-1] == watch.scales[-2]  # the last one did not


def test_the_memory_format_is_channels_last_where_that_is_safe():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 3)
    assert memory_format(gpu, 64) is memory_format(gpu, 4) is torch.channels_last
    assert memory_format(cpu, 64) is memory_format(cpu, 16) is torch.channels_last
    assert memory_format(cpu, 4) is memory_format(cpu, 24) is torch.contiguous_format


@pytest.mark.parametrize("width", [4, 16])
def test_weights_have_the_memory_format_of_the_device(width):
    module = BagNetClassifier("bagnet9", num_classes=CLASSES, width=width)
    quiet_trainer().validate(module, loader(2), verbose=False)
    weight = module.model.layer1[0].conv2.weight
    expected = memory_format(torch.device("cpu"), width)
    assert weight.is_contiguous(memory_format=expected)


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


def test_the_checkpoint_of_a_run_with_other_settings_is_refused():
    mine = BagNetClassifier("bagnet9", num_classes=3, width=4, learning_rate=0.1)
    other = BagNetClassifier("bagnet9", num_classes=3, width=4, learning_rate=0.2)
    with pytest.raises(ValueError, match="a run with learning_rate 0.2, and this one has 0.1; use"):
        mine.on_load_checkpoint({"hyper_parameters": dict(other.hparams)})
    mine.on_load_checkpoint({"hyper_parameters": dict(mine.hparams)})
