"""Synthesises images with the textures of others but no order: Gatys, Ecker & Bethge (2015).

A layer of a VGG is summarised by its Gram matrix G: the products of every two channels, averaged
over all positions. It says what occurs in the image but not where. Starting from noise, an image is
optimised until its Gram matrices are those of the given image:

    minimise  sum_l |G_l - G_l(image)|^2 / |G_l(image)|^2.

Gatys et al. (NeurIPS 2015) rescale the VGG so that every layer has a mean activation of one, and
divide by the sizes of the matrices only. Dividing by the target's norm makes the layers comparable
for any weights, and the loss a relative error. They bound the pixels; here a pixel is the sigmoid
of the optimised value, which needs no bounds.

Layers are named as in the VGG paper: conv1_1 is the first convolution of the first block, after its
ReLU, and pool1 is the pooling after that block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bagnet.experiments.measuring.lbfgs import minimise
from bagnet.experiments.measuring.models import ModelFile
from bagnet.model.registry import IMAGENET_MEAN, IMAGENET_STD, MODELS, normalize
from bagnet.model.weights import load_model
from datamodules.common.files import replacing


@dataclass(frozen=True)
class TextureNetwork(ModelFile):
    """A VGG of any classes: only its convolutions are used."""

    def load(self, device: torch.device, num_classes: int) -> nn.Module:
        """Load the convolutions onto a device.

        Raises:
            ValueError: The weights cannot be loaded, or the network is not a VGG.
        """
        model = load_model(self.path, self.label if self.label in MODELS else None)
        features = getattr(model, "features", None)
        if not isinstance(features, nn.Sequential) or not any(
            isinstance(module, nn.MaxPool2d) for module in features
        ):
            raise ValueError(
                f"{self.label} ({self.path}) is not a VGG, whose layers describe textures: give "
                "the weights of a VGG"
            )
        return features.requires_grad_(False).to(device)


@dataclass(frozen=True)
class Synthesis:
    """Writes FOLDER/SAMPLE_ID.png for each image, of the image's size.

    Columns: loss_start and loss, before and after (of the picture as written, in 8 bits).

    Attributes:
        folder: Folder of the pictures.
        layers: Layers to compare.
        steps: Evaluations of the loss.
        seed: Seed of the noise, together with the sample id.
    """

    folder: Path = field(repr=False)
    layers: tuple[str, ...]
    steps: int
    seed: int

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, Sequence[Any] | np.ndarray]:
        loss = texture_loss(model, normalize(images), self.layers)
        start = noise(images, sample_ids, self.seed)
        with torch.no_grad():
            before = loss(normalised(start))
        z = minimise(lambda z: loss(normalised(z)), start, self.steps)
        pictures = z.sigmoid().mul(255).round().to(torch.uint8)
        with torch.no_grad():
            after = loss(normalize(pictures))
        for picture, sample_id in zip(pictures.cpu(), sample_ids.tolist(), strict=True):
            with replacing(picture_file(self.folder, sample_id)) as path:
                Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
        return {"loss_start": before.cpu().numpy(), "loss": after.cpu().numpy()}


def gram(maps: Tensor) -> Tensor:
    """Mean products of channels, (B, C, H, W) -> (B, C, C)."""
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def layer_outputs(
    features: nn.Sequential, images: Tensor, layers: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    """Run a VGG as far as the last of some layers.

    Yields:
        Name and maps (B, C, H, W) of each of the layers, in the network's order.

    Raises:
        ValueError: The network lacks one of the layers.
    """
    wanted = set(layers)
    x, block, convolution, seen = images, 1, 0, []
    for module in features:
        x = module(x)
        if isinstance(module, nn.ReLU):
            convolution += 1
            name = f"conv{block}_{convolution}"
        elif isinstance(module, nn.MaxPool2d):
            name = f"pool{block}"
            block, convolution = block + 1, 0
        else:
            continue
        seen.append(name)
        if name in wanted:
            wanted.remove(name)
            yield name, x
            if not wanted:
                return
    raise ValueError(
        f"--layers {' '.join(sorted(wanted))}: the network has no such layer; choose from "
        f"{', '.join(seen)}"
    )


def texture_loss(
    features: nn.Module, targets: Tensor, layers: Sequence[str]
) -> Callable[[Tensor], Tensor]:
    """The distance between the Gram matrices of images and of targets.

    Args:
        features: Convolutions of a VGG.
        targets: Normalised images, float (B, 3, H, W).
        layers: Layers to compare.

    Returns:
        A function of normalised images (B, 3, H, W) that gives (B,).

    Raises:
        ValueError: The network lacks one of the layers.
    """
    assert isinstance(features, nn.Sequential)
    with torch.no_grad():
        wanted = {name: gram(maps) for name, maps in layer_outputs(features, targets, layers)}
    sizes = {name: matrix.square().sum((1, 2)).clamp(min=1e-12) for name, matrix in wanted.items()}

    def loss(images: Tensor) -> Tensor:
        total = images.new_zeros(len(images))
        for name, maps in layer_outputs(features, images, layers):
            total = total + (gram(maps) - wanted[name]).square().sum((1, 2)) / sizes[name]
        return total

    return loss


def noise(images: Tensor, sample_ids: Tensor, seed: int) -> Tensor:
    """Standard normal noise, float32 of the images' shape, drawn by seed and sample id."""
    shape = tuple(images.shape[1:])
    draws = [
        np.random.default_rng((seed, sample_id)).standard_normal(shape, np.float32)
        for sample_id in sample_ids.tolist()
    ]
    return torch.from_numpy(np.stack(draws)).to(images.device)


def normalised(z: Tensor) -> Tensor:
    """The normalised images whose pixels are the sigmoids of z, float (B, 3, H, W)."""
    statistics = torch.tensor((IMAGENET_MEAN, IMAGENET_STD), dtype=z.dtype, device=z.device)
    mean, std = statistics.view(2, 3, 1, 1).unbind()
    return (z.sigmoid() - mean) / std


def picture_file(folder: Path, sample_id: int) -> Path:
    """The file that `Synthesis` writes for a sample."""
    return folder / f"{sample_id:08d}.png"


def read_pictures(folder: Path, sample_ids: Tensor) -> Tensor:
    """Read pictures of `Synthesis`, uint8 (B, 3, H, W).

    Raises:
        ValueError: A picture has disappeared.
    """
    pictures = []
    for sample_id in sample_ids.tolist():
        file = picture_file(folder, sample_id)
        if not file.is_file():
            raise ValueError(
                f"{file} has disappeared: delete {folder}.parquet to make all textures again"
            )
        with Image.open(file) as picture:
            pictures.append(np.asarray(picture))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
