"""The training benchmark: its variants compute the same, are measured in turn, and are told beside the floors."""

from __future__ import annotations

import json
import statistics
from functools import partial
from itertools import chain

import pytest
import torch

from bagnet.bench.__main__ import main
from bagnet.bench.lib import steps
from bagnet.bench.lib.report import short
from bagnet.bench.lib.steps import ON_REQUEST, REFERENCE, VARIANTS, Setting, Step
from bagnet.model.registry import build_model, normalize
from bagnet.training import classifier

TINY = ["train", "--width", "2", "--image-size", "41", "--batch-size", "2", "--device", "cpu"]
TINY += ["--steps", "2", "--rounds", "2"]
HERE = [name for name in VARIANTS if name not in ON_REQUEST]
BAGNETS = [name for name in HERE if not name.startswith("resnet50")]


@pytest.mark.usefixtures("not_compiled")
def test_every_variant_is_measured_in_every_round_and_told_beside_the_floors(tmp_path, said):
    assert main([*TINY, "--out", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    seconds = figures["seconds_per_step"]
    assert list(seconds) == HERE
    for rounds in seconds.values():
        assert [len(times) for times in rounds] == [2, 2]
        assert min(map(min, rounds)) > 0
    medians = {name: statistics.median(chain(*rounds)) for name, rounds in seconds.items()}
    text = said()
    assert "Figures of a CPU" in text
    rows = {words[0]: words for line in text.splitlines() if len(words := line.split()) == 8}
    for name, median in medians.items():
        ratio, share, moved = rows[name][4:7]
        assert ratio == f"{medians[REFERENCE] / median:.2f}"
        flops, peaks = figures["counts"][name]["training_flops"], figures["peaks"]
        assert share == f"{2 * flops / median / peaks['flops']:.1%}"
        assert moved == f"{peaks['bandwidth'] * median / 2 / 1e9:.2f}"
    assert "images/s by arithmetic" in text


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("name", [name for name in BAGNETS if name != "fp32"])
def test_every_variant_takes_the_same_steps_as_the_plain_network_in_float64(name, monkeypatch):
    # In float32 already, rounding moves the gradients of a fresh network by hundredths.
    monkeypatch.setattr(classifier, "normalize", partial(normalize, dtype=torch.float64))
    monkeypatch.setattr(
        steps, "build_model", lambda *args, **rest: build_model(*args, **rest).double()
    )
    setting = Setting.synthetic("bagnet9", width=16, batch=4, side=33, device="cpu")
    plain, variant = VARIANTS["fp32"](setting), partial(VARIANTS[name], bf16=False)(setting)
    for _ in range(2):
        assert variant().item() == pytest.approx(plain().item(), rel=1e-6)
    pairs = zip(variant.network.parameters(), plain.network.parameters(), strict=True)
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_checkpointing_keeps_less_for_the_backward_pass():
    setting = Setting.synthetic("bagnet9", width=2, batch=2, side=33, device="cpu")
    kept = {}
    for name in (REFERENCE, "checkpointed"):
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        network = VARIANTS[name](setting).network
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            network(setting.images.float())
        kept[name] = sum(sizes)
    assert kept["checkpointed"] < 0.5 * kept[REFERENCE]


def test_what_computes_something_else_is_not_compared(monkeypatch, capsys):
    monkeypatch.setitem(VARIANTS, "bf16", partial(Step, model="resnet50"))
    assert main([*TINY, "--variants", "fp32", "bf16"]) == 2
    assert "bf16 computes something else" in capsys.readouterr().err


def test_a_graph_is_recorded_from_the_second_step_on(monkeypatch):
    calls: list[str] = []

    def recorded(call):
        calls.append("recorded")
        return lambda: calls.append("replayed") or call()

    monkeypatch.setattr(steps, "recorded", recorded)
    setting = Setting.synthetic("bagnet9", width=2, batch=2, side=33, device="cpu")
    plain, graph = VARIANTS["fused-sgd"](setting), VARIANTS["graph"](setting)
    for expected in ([], ["recorded", "replayed"], ["recorded", "replayed", "replayed"]):
        assert graph() == plain()
        assert calls == expected


def test_what_does_not_fit_is_left_out(monkeypatch, said):
    def too_large(setting):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setitem(VARIANTS, REFERENCE, too_large)
    assert main([*TINY, "--variants", "fp32", REFERENCE]) == 0
    text = said()
    assert "channels-last is left out: a batch of 2 does not fit." in text
    assert not [line for line in text.splitlines() if line.strip().startswith("channels-last  ")]


def test_nothing_that_fits_is_one_line(monkeypatch, capsys):
    def too_large(setting):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setitem(VARIANTS, "fp32", too_large)
    assert main([*TINY, "--variants", "fp32"]) == 2
    assert "--batch-size 2: no variant fits; choose a smaller one" in capsys.readouterr().err


def test_the_time_of_a_step_is_told_kernel_by_kernel(tmp_path, said):
    out = tmp_path / "figures.json"
    assert main([*TINY, "--variants", "fp32", "bf16", "--kernels", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["ms_and_calls_per_step"]
    assert list(figures) == ["fp32", "bf16"]
    # 3 x 16 convolutions of the blocks, 4 beside them, 2 of the stem, each with a normalisation but for one.
    for kernels in figures.values():
        calls = {name: calls for name, (_, calls) in kernels.items()}
        assert calls["aten::convolution_backward"] == 54
        assert calls["aten::native_batch_norm_backward"] == 53
    text = said()
    together = sum(ms for ms, _ in figures["fp32"].values())
    assert f"fp32: {short(together)} ms a step" in text
    assert "others" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--variants", "graph"], "--variants graph: CUDA graphs need a GPU"),
        (["--memory"], "--memory fills the memory of a GPU"),
        (["--batch-size", "0"], "--batch-size 0: it must be at least 1"),
        (["--image-size", "20"], "smaller than the patch of 33x33"),
        (["--device", "gpu"], "--device gpu: benchmarks run on cpu or cuda"),
    ],
)
def test_what_cannot_be_measured_is_one_line(flags, message, capsys):
    assert main([*TINY, *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(capsys):
    assert main([*TINY, "--device", "cuda"]) == 2
    assert "there is no GPU here; choose --device cpu" in capsys.readouterr().err
