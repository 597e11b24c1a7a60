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
from torchvision.transforms.functional import normalize

from bagnet.experiments.measuring.models import ModelFile
from bagnet.model.images import IMAGENET_MEAN, IMAGENET_STD
from bagnet.model.weights import load_model
from datamodules.common.files import replacing
from datamodules.decoding.folders import read_image
from datamodules.decoding.images import opened


@dataclass(frozen=True)
class TextureNetwork(ModelFile):
    """A VGG of any classes: only its convolutions are used."""

    def check(self, layers: Sequence[str]) -> None:
        """Raise a ValueError unless the network can be loaded and has the layers."""
        features = self.load(torch.device("cpu"), ())
        assert isinstance(features, nn.Sequential)
        with torch.no_grad():
            list(layer_outputs(features, torch.zeros(1, 3, 64, 64), layers))

    def load(self, device: torch.device, classes: Sequence[str] | None) -> nn.Module:
        """Load the convolutions onto a device.

        Raises:
            ValueError: The weights cannot be loaded, or the network is not a VGG.
        """
        model = load_model(self.path, self.name)
        features = getattr(model, "features", None)
        if not isinstance(features, nn.Sequential):
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
        steps: Steps of L-BFGS.
        seed: Seed of the noise, together with the sample id.
        optimizer: How the loss is minimised, for the record.
    """

    folder: Path = field(repr=False)
    layers: tuple[str, ...]
    steps: int
    seed: int
    optimizer: str = "torch.optim.LBFGS"

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, Sequence[float]]:
        assert isinstance(model, nn.Sequential)
        starts, ends = [], []
        for image, sample_id in zip(images, sample_ids.tolist(), strict=True):
            loss = texture_loss(model, image[None] / 255, self.layers)
            chance = np.random.default_rng((self.seed, sample_id))
            noise = torch.from_numpy(chance.standard_normal((1, *image.shape), np.float32))
            texture = minimise(loss, noise.to(image.device), self.steps)
            picture = texture.mul(255).round().to(torch.uint8)
            with torch.no_grad():
                starts.append(float(loss(noise.to(image.device).sigmoid())))
                ends.append(float(loss(picture / 255)))
            with replacing(picture_file(self.folder, sample_id)) as path:
                Image.fromarray(picture[0].permute(1, 2, 0).cpu().numpy()).save(path)
        return {"loss_start": starts, "loss": ends}


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Minimise a function of pixels from 0 to 1, starting from the sigmoid of `start`."""
    z = start.clone().requires_grad_()
    # No tolerances, because the loss of a good texture is tiny.
    optimizer: Any = torch.optim.LBFGS(  # its methods have no types
        [z], max_iter=steps, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        value = loss(z.sigmoid())
        (z.grad,) = torch.autograd.grad(value, [z])
        return value

    optimizer.step(closure)
    return z.detach().sigmoid()


def gram(maps: Tensor) -> Tensor:
    """Mean products of channels, (B, C, H, W) -> (B, C, C)."""
    flat = maps.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def layer_outputs(
    features: nn.Sequential, images: Tensor, layers: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    """Run a VGG as far as the last of some layers.

    Yields:
        Name and maps (B, C, H, W) of each of the layers, in the network's order.

    Raises:
        ValueError: The network lacks one of the layers.
    """
    missing = set(layers)
    x, block, convolution, seen = images, 1, 0, []
    for module in features:
        x = module(x)
        if isinstance(module, nn.ReLU):
            convolution += 1
            seen.append(f"conv{block}_{convolution}")
        elif isinstance(module, nn.MaxPool2d):
            seen.append(f"pool{block}")
            block, convolution = block + 1, 0
        if seen and seen[-1] in missing:
            missing.remove(seen[-1])
            yield seen[-1], x
            if not missing:
                return
    raise ValueError(
        f"--layers {' '.join(sorted(missing))}: the network has no such layer; choose from "
        f"{', '.join(seen)}"
    )


def texture_loss(
    features: nn.Sequential, target: Tensor, layers: Sequence[str]
) -> Callable[[Tensor], Tensor]:
    """The distance between the Gram matrices of an image and of a target.

    Args:
        features: Convolutions of a VGG.
        target: Image, float (1, 3, H, W), from 0 to 1.
        layers: Layers to compare.

    Returns:
        A function of an image like the target that gives a scalar.

    Raises:
        ValueError: The network lacks one of the layers.
    """

    def grams(image: Tensor) -> dict[str, Tensor]:
        normalised = normalize(image, IMAGENET_MEAN, IMAGENET_STD)
        return {name: gram(maps) for name, maps in layer_outputs(features, normalised, layers)}

    with torch.no_grad():
        wanted = grams(target)

    def loss(image: Tensor) -> Tensor:
        errors = [
            (matrix - wanted[name]).square().sum() / wanted[name].square().sum().clamp(min=1e-12)
            for name, matrix in grams(image).items()
        ]
        return torch.stack(errors).sum()

    return loss


def picture_file(folder: Path, sample_id: int) -> Path:
    """The file that `Synthesis` writes for a sample."""
    return folder / f"{sample_id:08d}.png"


def read_pictures(folder: Path, sample_ids: Tensor) -> Tensor:
    """Read pictures of `Synthesis`, uint8 (B, 3, H, W).

    Raises:
        ValueError: A picture has disappeared, or is damaged.
    """
    pictures = []
    for sample_id in sample_ids.tolist():
        file = picture_file(folder, sample_id)
        if not file.is_file():
            raise ValueError(
                f"{file} has disappeared: delete {folder}.parquet to make all textures again"
            )
        pictures.append(read_image(file, _pixels))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _pixels(content: bytes) -> np.ndarray:
    with opened(content) as picture:
        return np.asarray(picture.convert("RGB"))
