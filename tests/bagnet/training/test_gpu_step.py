"""A step of the classifier is fit for GPUs: its graphs, waits, optimizer and memory format."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils._python_dispatch import TorchDispatchMode

from bagnet.training.classifier import BagNetClassifier
from bagnet.training.forward import check_compile, compiled, logits, memory_format
from bagnet.training.monitoring.finite import FiniteLoss
from bagnet.training.monitoring.progress import Bar
from bagnet.training.monitoring.sync_debug import SyncDebug
from bagnet.training.monitoring.throughput import Throughput
from bagnet.training.recipe.optim import sgd
from tests.bagnet.training.quiet import CLASSES, Rows, batches, classifier, loader, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


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


@pytest.mark.parametrize(
    ("compile", "mode"),
    [(True, "default"), ("default", "default"), ("max-autotune", "max-autotune"), (False, None)],
)
def test_the_network_is_compiled_in_the_wanted_mode(monkeypatch, compile, mode):
    monkeypatch.setattr("torch.compile", lambda function, **options: lambda *_: options["mode"])
    compiled.cache_clear()
    found = classifier(compile=compile)(batches(2)[0][0])
    compiled.cache_clear()
    assert found == mode if mode else found.shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("compile", "sync_batchnorm", "accumulated", "recompute", "refusal"),
    [
        (True, True, 1, False, "--trainer.sync_batchnorm"),
        ("reduce-overhead", False, 2, False, "--trainer.accumulate_grad_batches 2"),
        ("max-autotune", False, 2, False, "--trainer.accumulate_grad_batches 2"),
        (True, False, 1, True, "--model.activation_checkpointing"),
        (True, False, 2, False, None),
        ("reduce-overhead", False, 1, False, None),
        (False, True, 2, True, None),
    ],
)
def test_what_does_not_work_compiled_is_refused(
    compile, sync_batchnorm, accumulated, recompute, refusal
):
    with pytest.raises(ValueError, match=refusal) if refusal else nullcontext():
        check_compile(compile, sync_batchnorm, accumulated, recompute)


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

    The first step is not watched, because it looks at the labels. The last one is watched to its
    end only, as the bar is refreshed then.
    """

    def __init__(self) -> None:
        self.modes: list[NoWait] = []

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            return
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
    callbacks = [watch, FiniteLoss(every=1), *[Bar()] * bar]
    trainer = quiet_trainer(
        max_epochs=1, callbacks=callbacks, log_every_n_steps=50, enable_progress_bar=bar
    )
    trainer.fit(classifier(), loader(4, 4, 4))
    assert len(watch.modes) == 2
    assert all(mode.operations > 500 for mode in watch.modes)
    with pytest.raises(AssertionError, match="a step waits in _local_scalar_dense"), NoWait():
        torch.ones(1).item()


def test_sync_debug_watches_the_steps_that_are_not_logged(monkeypatch):
    """Steps are counted from 0. The first and the last two are not watched, nor what logs one."""
    modes: list[NoWait] = []
    found: list[tuple[str, int]] = []

    def set_mode(mode: str) -> None:
        if modes:
            modes.pop().__exit__(None, None, None)
        if mode == "error":
            modes.append(NoWait())
            modes[-1].__enter__()
        found.append((mode, trainer.global_step))

    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", set_mode)
    trainer = quiet_trainer(
        max_epochs=1,
        callbacks=[SyncDebug("error", 4), Throughput(4)],
        logger=Rows(),
        log_every_n_steps=4,
    )
    trainer.fit(classifier(), loader(*[4] * 9))
    assert [step for mode, step in found if mode == "error"] == [1, 2, 3, 4, 5, 6]
    assert [step for mode, step in found if mode == "default"] == [4, 7, 8, 9]


def test_sync_debug_needs_a_known_mode_and_a_gpu(monkeypatch):
    assert SyncDebug.wanted(4) == []
    monkeypatch.setenv("BAGNET_SYNC_DEBUG", "warn")
    for available in (False, True):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        assert [each.mode for each in SyncDebug.wanted(4)] == ["warn"] * available
    monkeypatch.setenv("BAGNET_SYNC_DEBUG", "1")
    with pytest.raises(ValueError, match="BAGNET_SYNC_DEBUG=1"):
        SyncDebug.wanted(4)


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
        "bagnet.training.recipe.optim.sgd",
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
