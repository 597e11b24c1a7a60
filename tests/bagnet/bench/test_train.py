"""The training benchmark: its variants compute the same and are measured in turn."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from itertools import chain

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from bagnet.bench.lib import steps
from bagnet.bench.lib.floors import Peaks
from bagnet.bench.lib.setting import Setting
from bagnet.bench.lib.steps import ON_REQUEST, REFERENCE, VARIANTS, Step, leave_group
from bagnet.bench.options import StepOptions
from bagnet.model.registry import build_model

TINY = ["train", "--width", "2", "--image_size", "41", "--batch_size", "2", "--device", "cpu"]
TINY += ["--steps", "2", "--rounds", "2"]
SMALL = StepOptions(model="bagnet9", width=16, batch_size=4, image_size=33, device="cpu", steps=1)
HERE = [name for name in VARIANTS if name not in ON_REQUEST]
BAGNETS = [name for name in VARIANTS if not name.startswith("resnet50")]


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """Ends the group that the variant with DDP joins."""
    yield
    leave_group()


@pytest.fixture(autouse=True)
def peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peaks have a test of their own, and take a second to measure."""
    monkeypatch.setattr("bagnet.bench.train.measure_peaks", lambda device: Peaks(4e11, 3e10))
    monkeypatch.setattr("bagnet.bench.train.data_sheet", lambda device: 5e11)


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize(
    "names", [["bf16", REFERENCE], pytest.param(HERE, marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_variants_are_measured_in_every_round_and_printed_beside_the_floors(names, figures, output):
    found = figures(*TINY, "--variants", *names)
    seconds = found["seconds_per_step"]
    assert list(seconds) == names
    for rounds in seconds.values():
        assert [len(times) for times in rounds] == [2, 2]
        assert min(map(min, rounds)) > 0
    medians = {name: statistics.median(chain(*rounds)) for name, rounds in seconds.items()}
    text = output()
    assert "Figures of a CPU" in text
    rows = {words[0]: words for line in text.splitlines() if len(words := line.split()) == 8}
    for name, median in medians.items():
        ratio, share, of_sheet, moved, gib = rows[name][3:]
        assert ratio == f"{medians[REFERENCE] / median:.2f}"
        flops, peaks = found["counts"][name]["training_flops"], found["peaks"]
        assert share == f"{2 * flops / median / peaks['flops']:.1%}"
        assert of_sheet == f"{2 * flops / median / 5e11:.1%}"
        assert moved == f"{peaks['bandwidth'] * median / 2 / 1e9:.2f}"
        assert gib == "-"
    assert "(data sheet: 0.5)" in text


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("name", [name for name in BAGNETS if name not in ("fp32", "graph")])
def test_every_variant_takes_the_same_steps_as_the_plain_network_in_float64(name, monkeypatch):
    # In float32, rounding already changes the gradients of a fresh network by hundredths.
    monkeypatch.setattr(
        steps, "build_model", lambda *args, **rest: build_model(*args, **rest).double()
    )
    setting = Setting.synthetic(SMALL)
    plain, variant = VARIANTS["fp32"](setting), partial(VARIANTS[name], bf16=False)(setting)
    for _ in range(2):
        assert variant().item() == pytest.approx(plain().item(), rel=1e-6)
    pairs = zip(variant.network.parameters(), plain.network.parameters(), strict=True)
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_ddp_wraps_the_network_in_a_group_of_one():
    step = VARIANTS["ddp"](Setting.synthetic(SMALL))
    assert torch.distributed.get_world_size() == 1
    assert isinstance(step.called, DistributedDataParallel)
    assert step.called.module is step.network


@pytest.mark.usefixtures("not_compiled")
def test_cudnn_searches_only_in_the_steps_of_its_variants():
    setting = Setting.synthetic(SMALL)
    for name, on in [("cudnn-benchmark", True), ("ddp", False), ("compiled-benchmark", True)]:
        VARIANTS[name](setting)()
        assert torch.backends.cudnn.benchmark == on
    VARIANTS[REFERENCE](setting)()
    assert not torch.backends.cudnn.benchmark


def test_a_symbolic_batch_size_comes_from_two_sizes_and_torchs_default(monkeypatch):
    sizes: list[int] = []

    def compiled(logits, **settings):
        assert settings == {"mode": "default"}

        def noted(model, images, layout):
            sizes.append(len(images))
            return logits(model, images, layout)

        return noted

    monkeypatch.setattr(torch, "compile", compiled)
    VARIANTS["compiled-symbolic"](Setting.synthetic(SMALL))()
    assert sizes == [3, 4]


def test_variants_that_compute_something_else_are_not_compared(monkeypatch, error):
    monkeypatch.setitem(VARIANTS, "bf16", partial(Step, model="resnet50"))
    assert "bf16 computes something else" in error(*TINY, "--variants", "fp32", "bf16")


def test_logits_are_compared_before_a_replay_overwrites_them(monkeypatch, figures):
    class Replayed(Step):
        def __call__(self) -> torch.Tensor:
            if hasattr(self, "logits"):
                self.logits.fill_(torch.nan)
            return super().__call__()

    monkeypatch.setitem(VARIANTS, "bf16", Replayed)
    assert figures(*TINY, "--rounds", "1", "--variants", "bf16", REFERENCE)


def test_a_graph_is_recorded_in_the_second_step(monkeypatch):
    calls: list[str] = []

    def recorded(call):
        calls.append("recorded")
        return lambda: calls.append("replayed") or call()

    monkeypatch.setattr(steps, "recorded", recorded)
    setting = Setting.synthetic(SMALL)
    plain, graph = VARIANTS["fused-sgd"](setting), VARIANTS["graph"](setting)
    for expected in ([], ["recorded", "replayed"], ["recorded", "replayed", "replayed"]):
        assert graph() == plain()
        assert calls == expected


def test_variants_that_do_not_fit_are_left_out(monkeypatch, figures, output, error):
    def too_large(setting):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setitem(VARIANTS, REFERENCE, too_large)
    assert list(figures(*TINY, "--variants", "fp32", REFERENCE)["seconds_per_step"]) == ["fp32"]
    assert "channels-last is left out: a batch of 2 does not fit." in output()
    assert "--batch_size 2: no variant fits" in error(*TINY, "--variants", REFERENCE)
