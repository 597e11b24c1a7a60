"""Images with the textures of others and no order: Gatys, Ecker & Bethge (NeurIPS 2015).

A VGG's layer is summarised by its Gram matrix G, the mean over all positions of the products of every two channels, which
knows what there is and not where. An image is sought, from noise, whose Gram matrices are those of the given image:

    minimise  sum_l w_l |G_l - G_l(image)|^2 / |G_l(image)|^2.

Gatys et al. rescale the VGG so that every layer has a mean activation of one, and divide by the sizes of the matrices only;
dividing by the target's norm makes the layers comparable for any weights, and the loss a relative error. They keep the pixels
in their range by bounds; here a pixel is the sigmoid of what is optimised, which needs none.

A layer is named as in the VGG paper: conv1_1 is the first convolution of the first block, after its ReLU, and pool1 the
pooling after that block.
"""

from __future__ import annotations

import os
from collections import deque
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

LAYERS = ("conv1_1", "pool1", "pool2", "pool3", "pool4")  # Gatys's
STARTS = ("noise", "pixels")
OPTIMIZERS = ("lbfgs", "adam")
POOLINGS = ("max", "average")
LEARNING_RATE = 0.05  # of Adam


@dataclass(frozen=True)
class TextureNetwork(ModelFile):
    """A VGG, of any classes: only its convolutions are used."""

    def load(self, device: torch.device, num_classes: int) -> nn.Module:
        """The convolutions, on a device.

        Raises:
            ValueError: As `load_model`, or the network is no VGG.
        """
        model = load_model(self.path, self.label if self.label in MODELS else None)
        features = getattr(model, "features", None)
        if not isinstance(features, nn.Sequential) or not any(
            isinstance(module, nn.MaxPool2d) for module in features
        ):
            raise ValueError(
                f"{self.label} ({self.path}) is no VGG: textures are described by the layers of one, so give the "
                "weights of a VGG"
            )
        return features.requires_grad_(False).to(device)


@dataclass(frozen=True)
class Synthesis:
    """Writes FOLDER/SAMPLE_ID.png for each image, of the same size.

    Columns: loss_start and loss, before and after (of the image as it is written, in 8 bits). What is drawn at random comes
    from the seed and the sample id.

    Attributes:
        folder: Of the pictures.
        layers: To compare.
        weights: Of the layers.
        steps: Evaluations of the loss.
        optimizer: "lbfgs", with the curvature of each image by itself, or "adam".
        start: "noise", independent values around grey; or "pixels", those of the image in random order.
        pooling: "max", the VGG's own; or "average", for which Gatys et al. found the results to be smoother.
        seed: Of the start.
    """

    folder: Path = field(repr=False)
    layers: tuple[str, ...] = LAYERS
    weights: tuple[float, ...] = (1.0,) * len(LAYERS)
    steps: int = 500
    optimizer: str = "lbfgs"
    start: str = "noise"
    pooling: str = "max"
    seed: int = 0

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, Sequence[Any] | np.ndarray]:
        loss = texture_loss(model, normalize(images), self.layers, self.weights, self.pooling)
        z = starts(images, sample_ids, self.start, self.seed)
        with torch.no_grad():
            before = loss(normalised(z))
        method = minimise if self.optimizer == "lbfgs" else adam
        (z,) = deque(method(lambda z: loss(normalised(z)), z, self.steps), maxlen=1)
        pictures = z.sigmoid().mul(255).round().to(torch.uint8)
        with torch.no_grad():
            after = loss(normalize(pictures))
        self.folder.mkdir(parents=True, exist_ok=True)
        for picture, sample_id in zip(pictures.cpu(), sample_ids.tolist(), strict=True):
            _save(picture, picture_file(self.folder, sample_id))
        return {"loss_start": before.cpu().numpy(), "loss": after.cpu().numpy()}


def gram(maps: Tensor) -> Tensor:
    """Mean products of channels, (B, C, H, W) -> (B, C, C)."""
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def layer_outputs(
    features: nn.Sequential, images: Tensor, layers: Sequence[str], pooling: str
) -> Iterator[tuple[str, Tensor]]:
    """The maps of the layers, (B, C, H, W) each, in the network's order, and no more of it than they need.

    Raises:
        ValueError: There is no such layer.
    """
    wanted = set(layers)
    x, block, convolution, seen = images, 1, 0, []
    for module in features:
        name = ""
        if isinstance(module, nn.MaxPool2d) and pooling == "average":
            x = nn.functional.avg_pool2d(x, module.kernel_size, module.stride, module.padding)
        else:
            x = module(x)
        if isinstance(module, nn.ReLU):
            convolution += 1
            name = f"conv{block}_{convolution}"
        elif isinstance(module, nn.MaxPool2d):
            name = f"pool{block}"
            block, convolution = block + 1, 0
        if name:
            seen.append(name)
        if name in wanted:
            wanted.remove(name)
            yield name, x
            if not wanted:
                return
    raise ValueError(
        f"--layers {' '.join(sorted(wanted))}: the network has no such layer; choose from {', '.join(seen)}"
    )


def texture_loss(
    features: nn.Module,
    targets: Tensor,
    layers: Sequence[str],
    weights: Sequence[float],
    pooling: str,
) -> Callable[[Tensor], Tensor]:
    """How far the Gram matrices of images (B, 3, H, W) are from those of the targets, (B,) by image.

    Args:
        features: The convolutions of a VGG.
        targets: Normalised, float (B, 3, H, W).
        layers: To compare.
        weights: Of the layers.
        pooling: "max" or "average".

    Raises:
        ValueError: There is no such layer, or not one weight for each.
    """
    if len(weights) != len(layers):
        raise ValueError(
            f"{len(weights)} weights for {len(layers)} layers ({' '.join(layers)}): give --layer_weights one for each"
        )
    assert isinstance(features, nn.Sequential)
    weight_of = dict(zip(layers, weights, strict=True))
    with torch.no_grad():
        wanted = {
            name: gram(maps) for name, maps in layer_outputs(features, targets, layers, pooling)
        }
    sizes = {name: matrix.square().sum((1, 2)).clamp(min=1e-12) for name, matrix in wanted.items()}

    def loss(images: Tensor) -> Tensor:
        total = images.new_zeros(len(images))
        for name, maps in layer_outputs(features, images, layers, pooling):
            difference = (gram(maps) - wanted[name]).square().sum((1, 2))
            total = total + weight_of[name] * difference / sizes[name]
        return total

    return loss


def starts(images: Tensor, sample_ids: Tensor, start: str, seed: int) -> Tensor:
    """Where the search for each uint8 image begins: what pixels are the sigmoid of, float32 of the same shape."""
    rows = []
    for image, sample_id in zip(images, sample_ids.tolist(), strict=True):
        chance = np.random.default_rng((seed, sample_id))
        if start == "noise":
            z = torch.from_numpy(chance.standard_normal(tuple(image.shape), np.float32))
            rows.append(z.to(image.device))
        else:
            order = torch.from_numpy(chance.permutation(image[0].numel())).to(image.device)
            # Black and white are the sigmoids of nothing finite.
            rows.append(image.flatten(1)[:, order].view_as(image).div(255).logit(eps=0.5 / 255))
    return torch.stack(rows)


def normalised(z: Tensor) -> Tensor:
    """The normalised images whose pixels are the sigmoids of z (B, 3, H, W)."""
    mean, std = z.new_tensor((IMAGENET_MEAN, IMAGENET_STD)).view(2, 3, 1, 1)
    return (z.sigmoid() - mean) / std


def adam(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Iterator[Tensor]:
    """Adam under the interface of `minimise`. It treats every value by itself, so images stay apart."""
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], LEARNING_RATE)
    for _ in range(steps):
        (x.grad,) = torch.autograd.grad(loss(x).sum(), x)
        optimizer.step()
        yield x.detach().clone()


def picture_file(folder: Path, sample_id: int) -> Path:
    """Where `Synthesis` puts a picture."""
    return folder / f"{sample_id:08d}.png"


def read_pictures(folder: Path, sample_ids: Tensor) -> Tensor:
    """The pictures of `Synthesis`, uint8 (B, 3, H, W).

    Raises:
        ValueError: One is not there any more.
    """
    files = [picture_file(folder, number) for number in sample_ids.tolist()]
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{file} was made and is gone: delete {folder}.parquet, and all textures are made again"
            )
    pictures = [Image.open(file) for file in files]
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)


def _save(picture: Tensor, path: Path) -> None:
    """Write a picture (3, H, W); the file appears complete or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(unfinished, "PNG")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
