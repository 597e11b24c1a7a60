"""The random crops of training, and what else is done to its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from datamodules.decoding.region import Region
from datamodules.decoding.transforms import (
    Transform,
    View,
    check_resize,
    drawing_from,
    not_too_long,
    resized,
)

Crop = Literal["random_resized", "random"]

_PIXEL = torch.empty(1, dtype=torch.uint8)


class TrainTransform(Transform):
    """A random crop, resized or not, and a flip, drawn as torchvision draws them.

    Args:
        image_size: Side of the result, in pixels.
        min_scale: Smallest area of a random resized crop, as a fraction of the image, in (0, 1].
        resize_size: If given, the crop is of the result's size, from an image whose shorter side
            was resized to this length in pixels. By default it is a random resized crop.
        augment: Further transforms of uint8 images (3, size, size), such as torchvision's v2. They
            must draw from torch's generator.

    Raises:
        ValueError: A size is below 1, the fraction is out of its range, the crop is larger than the
            resized image, or a transform fails, or returns other types or sizes.
    """

    def __init__(
        self,
        image_size: int = 224,
        min_scale: float = 0.08,
        resize_size: int | None = None,
        augment: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__(image_size)
        if not 0 < min_scale <= 1:
            raise ValueError(
                f"min_scale is {min_scale}, but it is a fraction of the image: 0 < fraction <= 1"
            )
        if resize_size is not None:
            check_resize(resize_size, image_size)
        self._shorter = resize_size
        self._augment = augment
        for transform in augment:
            self._check(transform)
        size = (image_size, image_size)
        self._resized_crop = v2.RandomResizedCrop(size, scale=(min_scale, 1.0))
        self._crop = v2.RandomCrop(size)

    def view(self, width: int, height: int) -> View:
        if self._shorter is None:
            drawn = self._resized_crop.make_params([_PIXEL.expand(3, height, width)])
            box = Region(drawn["left"], drawn["top"], drawn["width"], drawn["height"])
            view = View(box, self.size, self.size)
        else:
            box = not_too_long(width, height)
            rows, columns = resized(box, self._shorter)
            drawn = self._crop.make_params([_PIXEL.expand(3, rows, columns)])
            view = View(box, rows, columns, drawn["top"], drawn["left"])
        return view._replace(mirrored=bool(torch.rand(1) < 0.5))

    def __call__(self, data: bytes) -> Tensor:
        """Decode and resize what is seen, and augment it: uint8 (3, size, size).

        Raises:
            UnreadableImage: It cannot be decoded to its end, or has too many pixels.
        """
        image = super().__call__(data)
        for transform in self._augment:
            image = transform(image)
        return image

    def _check(self, transform: nn.Module) -> None:
        """Try a transform here, because an error in a worker would come late."""
        grey = torch.full((3, self.size, self.size), 128, dtype=torch.uint8)
        name = type(transform).__name__
        try:
            with drawing_from(0):
                image = transform(grey)
        except Exception as error:  # it can be anybody's code
            raise ValueError(f"augment: {name} failed on a grey image: {error}") from error
        if image.dtype != grey.dtype or image.shape != grey.shape:
            raise ValueError(
                f"augment: {name} returned {image.dtype} {tuple(image.shape)}, not {grey.dtype} "
                f"{tuple(grey.shape)}; leave types and sizes as they are, because the network "
                "normalises the pixels itself"
            )


def train_transforms(
    image_size: int,
    resize_size: int,
    crop: Crop,
    min_scale: float,
    augment: Sequence[nn.Module],
    sizes: Mapping[int, int] | None,
) -> dict[int, TrainTransform]:
    """Make the transforms of a training, by the epoch from which on each is used.

    Args:
        image_size: Side of the images, in pixels, if `sizes` does not say it.
        resize_size: Shorter side of the image before a random crop of `image_size`, in pixels.
        crop: "random_resized" or "random".
        min_scale: Smallest area of a random resized crop, as a fraction of the image.
        augment: Further transforms of each crop.
        sizes: Side of the images from an epoch on, in pixels.

    Raises:
        ValueError: The first epoch has no size, or as `TrainTransform`.
    """
    sizes = {0: image_size} if sizes is None else sizes
    if min(sizes, default=-1) != 0:
        raise ValueError(f"train_sizes is {dict(sizes)}, but it must have a size for epoch 0")
    return {
        epoch: TrainTransform(
            size,
            min_scale,
            round(size * resize_size / image_size) if crop == "random" else None,
            augment,
        )
        for epoch, size in sizes.items()
    }
