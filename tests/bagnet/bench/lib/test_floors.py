"""What is counted agrees with what is published and with real tensors."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bagnet.bench.lib.floors import count, measure_peaks
from bagnet.model.registry import build_model


@pytest.mark.parametrize(
    ("name", "multiply_adds", "parameters"),
    [
        ("bagnet33", 16.26e9, 18_310_184),
        ("bagnet17", 15.65e9, 16_213_032),
        ("bagnet9", 15.93e9, 15_688_744),
        ("resnet50", 4.09e9, 25_557_032),
    ],
)
def test_arithmetic_and_parameters_are_the_known_ones(name, multiply_adds, parameters):
    counts = count(name, width=64, image_size=224)
    assert counts.forward_flops == pytest.approx(2 * multiply_adds, rel=1e-3)
    # Twice the forward pass again, but for the gradient of the image, which nobody needs.
    assert 2.9 * counts.forward_flops < counts.training_flops < 3 * counts.forward_flops
    assert counts.parameters == parameters


def test_activations_are_those_of_convolutions_and_of_the_sums_of_blocks():
    convolutions = 11.11e6  # of a ResNet-50 at 224 px, as timm's tables have it
    maps = ((3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7))
    sums = sum(blocks * channels * side**2 for blocks, channels, side in maps)
    counts = count("resnet50", width=64, image_size=224)
    assert counts.activations == pytest.approx(convolutions + sums, rel=1e-3)
    assert counts.training_bytes == 4 * 2 * counts.activations


READ_TWICE = {
    "native_batch_norm": (0,),  # the input, for the statistics
    "native_batch_norm_backward": (0, 1),  # gradient and input, for the sums
    "convolution_backward": (0,),  # the gradient, for two products
}


class Traffic(TorchDispatchMode):
    """Counts the elements that operators read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if not func.is_view:
            tensors = [args[i] for i in READ_TWICE.get(name, ())]
            tensors += [*args, *(out if isinstance(out, tuple) else [out])]
            # Weights and statistics do not count.
            self.elements += sum(
                tensor.numel()
                for tensor in tensors
                if isinstance(tensor, torch.Tensor) and tensor.ndim == 4 and tensor.shape[0] == 2
            )
        return out


def test_a_plain_step_moves_what_its_operators_read_and_write():
    with torch.device("meta"):
        model, images = build_model("bagnet33", width=64), torch.empty(2, 3, 224, 224)
    with Traffic() as traffic:
        model(images).sum().backward()
    expected = 2 * traffic.elements / 2  # bytes in bfloat16, of one of two images
    counted = count("bagnet33", width=64, image_size=224).plain_bytes
    assert counted == pytest.approx(expected, rel=0.03)  # crops are not counted


def test_a_device_has_peaks():
    peaks = measure_peaks(torch.device("cpu"))
    assert 1e9 < peaks.flops < 1e16
    assert 1e8 < peaks.bandwidth < 1e13
