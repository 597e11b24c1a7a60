"""DeepLIFT against its definition, against Captum where that works, and complete everywhere."""

from __future__ import annotations

import pytest
import torch
from captum.attr import DeepLift
from torch import nn

from bagnet.experiments.faithfulness.deeplift import deeplift
from bagnet.model.registry import build_model


def random_statistics(model: nn.Module) -> nn.Module:
    """In float64, with BatchNorm's statistics and biases that matter."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.bias, 0, 0.5)
    return model.double().eval()


@pytest.mark.parametrize("name", ["bagnet17", "vgg11", "resnet50", "densenet169"])
def test_the_attributions_sum_to_the_difference_of_the_logits(name):
    torch.manual_seed(0)
    model = random_statistics(build_model(name, 5, 4))
    images, targets = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.tensor([3, 1])
    with torch.no_grad():
        expected = (model(images) - model(torch.zeros_like(images)))[range(2), targets]
    found = deeplift(model, images, targets)
    assert found.shape == images.shape
    torch.testing.assert_close(found.sum((1, 2, 3)), expected, rtol=1e-6, atol=1e-9)
    state = {name for name, _ in model.named_buffers()}
    assert state == {name for name, _ in build_model(name, 5, 4).named_buffers()}


def test_where_captum_can_it_is_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()
    images, targets = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.tensor([2, 0])
    # Image by image: where a pool's input does not change, Captum takes the first one's gradient.
    pairs = zip(images[:, None], targets.tolist(), strict=True)
    expected = torch.cat(
        [DeepLift(model).attribute(image, target=label).detach() for image, label in pairs]
    )
    torch.testing.assert_close(deeplift(model, images, targets), expected, rtol=1e-5, atol=1e-9)


def test_the_slope_of_a_relu_is_that_between_image_and_baseline():
    class Network(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.relu(2 * images[:, :, 0, 0] + torch.tensor([-1.0, 1.0, 1.0]))

    images = torch.tensor([3.0, -2.0, 0.0]).view(1, 3, 1, 1)
    slopes = [5 / 6, 1 / 4, 1]  # from relu(-1) to relu(5); from relu(1) to relu(-3); none
    for channel in range(3):
        found = deeplift(Network(), images, torch.tensor([channel]))[0, :, 0, 0]
        expected = torch.zeros(3)
        expected[channel] = 2 * slopes[channel] * images[0, channel, 0, 0]
        torch.testing.assert_close(found, expected)


def test_pooling_gives_a_difference_to_the_pixels_that_make_it():
    class Network(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.max_pool2d(images + shift, 2)[:, :1, 0, 0]

    shift = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    down = torch.tensor([[-3.0, 0.0], [0.0, -1.0]]).expand(1, 3, 2, 2)  # the maximum falls by 1
    found = deeplift(Network(), down, torch.tensor([0]))[0, 0]
    assert found.tolist() == [[-1, 0], [0, 0]]
    up = torch.tensor([[0.0, 0.0], [0.0, 4.0]]).expand(1, 3, 2, 2)  # another pixel, by 3
    assert deeplift(Network(), up, torch.tensor([0]))[0, 0].tolist() == [[0, 0], [0, 3]]
