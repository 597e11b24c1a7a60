"""What is counted agrees with what is published and with real tensors."""

from __future__ import annotations

import pytest
import torch

from bagnet.bench.lib.floors import count, measure_peaks


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


def test_a_device_has_peaks():
    peaks = measure_peaks(torch.device("cpu"))
    assert 1e9 < peaks.flops < 1e16
    assert 1e8 < peaks.bandwidth < 1e13
