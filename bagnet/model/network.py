"""The BagNet architecture (Brendel & Bethge, ICLR 2019).

A BagNet is a ResNet-50 whose 3x3 convolutions are mostly 1x1. Nothing is padded, so each entry of
the last feature map depends on one small patch of the image only. A linear layer turns it into the
patch's vote for each class; the image's logits are the average of all votes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bagnet.model.images import require_images
from bagnet.model.receptive_field import receptive_field
from bagnet.model.recompute import recomputed
from bagnet.model.timm_names import TimmNames

BLOCKS = (3, 4, 6, 3)  # in each stage, as in ResNet-50
EXPANSION = 4  # output channels of a bottleneck, in units of its inner width
BLOCKS_3X3 = {
    9: (1, 1, 0, 0),
    17: (1, 1, 1, 0),
    25: (1, 1, 0, 1),
    29: (2, 2, 1, 0),
    33: (1, 1, 1, 1),
    65: (1, 1, 1, 3),
    77: (2, 2, 1, 3),
}
"""How many 3x3 convolutions each stage has, by patch. The paper has 9, 17 and 33 pixels."""


class Bottleneck(nn.Module):
    """A residual block of three convolutions (1x1, `kernel` x `kernel`, 1x1) without padding.

    The middle convolution has the stride. If the first one had it, the patch of the BagNet-33 would
    be 47 pixels wide.
    """

    def __init__(self, channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        out = EXPANSION * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 width, H', W')."""
        residual = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.bn3(self.conv3(x))
        # The unpadded convolution shrinks the map. Dropping the residual's last rows and columns
        # keeps the top left corners aligned. This comes after `downsample`, so that its batch
        # statistics cover the whole map.
        x += residual[..., : x.shape[-2], : x.shape[-1]]
        return F.relu(x, inplace=True)


class BagNet(TimmNames):
    """A BagNet, which classifies an image by the votes of patches of `patch` x `patch` pixels.

    Args:
        patch: Side of a patch in pixels, one of `BLOCKS_3X3`; with `blocks3x3`, the receptive field
            that it and `strides` result in, or None.
        num_classes: Number of classes, at least 1.
        width: Channels of the stem, 64 in the paper; the representation of a patch has 32 times as
            many.
        in_channels: Channels of the image.
        blocks3x3: For each stage, how many of its first blocks have a 3x3 convolution; by default
            those of `BLOCKS_3X3`.
        strides: Stride of the first block of each stage.

    Attributes:
        receptive_field: Side R of the patch that one entry of the map sees, in pixels.
        stride: Distance S between the patches of neighbouring entries, in pixels.
        recompute: Whether a training keeps only the input of each block and computes the rest once
            more in its backward pass (`bagnet.model.recompute`). False by default.

    Raises:
        ValueError: `patch` is not in `BLOCKS_3X3` and `blocks3x3` is not given, the network that
            was built has another receptive field than `patch`, or a size is out of range.

    Examples:
        >>> import torch
        >>> model = BagNet(patch=9, num_classes=10, width=4).eval()
        >>> images = torch.zeros(2, 3, 41, 41)
        >>> model(images).shape
        torch.Size([2, 10])
        >>> votes = model.logits_map(images)
        >>> votes.shape, model.box(0, 1)
        (torch.Size([2, 10, 5, 5]), (0, 8, 9, 17))
        >>> torch.allclose(votes.mean((2, 3)), model(images), atol=1e-5)
        True
    """

    def __init__(
        self,
        patch: int | None = 33,
        num_classes: int = 1000,
        width: int = 64,
        in_channels: int = 3,
        *,
        blocks3x3: tuple[int, int, int, int] | None = None,
        strides: tuple[int, int, int, int] = (2, 2, 2, 1),
    ) -> None:
        super().__init__()
        if blocks3x3 is None:
            if patch is None or patch not in BLOCKS_3X3:
                choices = ", ".join(map(str, BLOCKS_3X3))
                raise ValueError(
                    f"there is no BagNet with patch={patch}: choose one of {choices}, or give "
                    "blocks3x3"
                )
            blocks3x3 = BLOCKS_3X3[patch]
        if len(blocks3x3) != 4 or not all(0 <= blocks3x3[i] <= BLOCKS[i] for i in range(4)):
            raise ValueError(f"blocks3x3={blocks3x3} must be four counts, at most {BLOCKS}")
        if len(strides) != 4 or min(strides) < 1:
            raise ValueError(f"strides={strides} must be four numbers of at least 1")
        if min(num_classes, width, in_channels) < 1:
            raise ValueError(
                f"num_classes={num_classes}, width={width} and in_channels={in_channels} must be "
                f"at least 1"
            )

        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # Names as in the reference, whose weight files load with strict=True.
        out = EXPANSION * width
        self.layer1 = _stage(width, width, BLOCKS[0], blocks3x3[0], strides[0])
        self.layer2 = _stage(out, 2 * width, BLOCKS[1], blocks3x3[1], strides[1])
        self.layer3 = _stage(2 * out, 4 * width, BLOCKS[2], blocks3x3[2], strides[2])
        self.layer4 = _stage(4 * out, 8 * width, BLOCKS[3], blocks3x3[3], strides[3])
        self.num_features = 8 * out
        self.fc = nn.Linear(self.num_features, num_classes)

        for module in self.modules():  # BatchNorm and Linear keep PyTorch's initialisation
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

        self.recompute = False
        self.receptive_field, self.stride = receptive_field(self)
        if patch not in (None, self.receptive_field):
            raise ValueError(
                f"blocks3x3={blocks3x3} with strides={strides} has a receptive field of "
                f"{self.receptive_field} pixels, not {patch}: pass patch={self.receptive_field}"
            )

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Compute the size of an image's map: n pixels give floor((n - R) / S) + 1 entries.

        A convolution turns n entries into floor((n - k) / s) + 1. For two in a row the floors nest,

            floor((floor((n - k) / s) + 1 - k') / s') = floor((n - k - (k' - 1) s) / (s s')),

        so they act like one with R = k + (k' - 1) s and S = s s', and so on for all of them.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.

        Returns:
            Height and width of the map in entries.

        Raises:
            ValueError: The image is smaller than the patch.
        """
        field, stride = self.receptive_field, self.stride
        if height < field or width < field:
            raise ValueError(
                f"an image of {height}x{width} pixels is smaller than the patch of {field}x{field} "
                f"that this network sees: enlarge it, or use a BagNet with a smaller patch"
            )
        return (height - field) // stride + 1, (width - field) // stride + 1

    def box(self, i: int, j: int) -> tuple[int, int, int, int]:
        """Locate what map entry (i, j) sees: (top, left, bottom, right) in pixels, half-open."""
        top, left = self.stride * i, self.stride * j
        return top, left, top + self.receptive_field, left + self.receptive_field

    def features(self, x: Tensor) -> Tensor:
        """Represent each patch: normalised images (B, C, H, W) -> (B, 32 width, H', W').

        Raises:
            ValueError: It is something else, or the images are smaller than the patch.
        """
        require_images(x, self.in_channels)
        self.map_size(x.shape[-2], x.shape[-1])  # for its error
        x = self.stem(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            if self.recompute and self.training:
                for block in stage:
                    x = recomputed(block, x)
            else:
                x = stage(x)  # as a whole, because explainers hook into it
        return x

    def stem(self, x: Tensor) -> Tensor:
        """Apply the layers before the first stage: (B, C, H, W) -> (B, width, H - 2, W - 2)."""
        return F.relu(self.bn1(self.conv2(self.conv1(x))), inplace=True)

    def logits_map(self, x: Tensor) -> Tensor:
        """Compute the logits of each patch, the evidence: (B, C, H, W) -> (B, classes, H', W')."""
        return self.patch_logits(self.features(x))

    def patch_logits(self, features: Tensor) -> Tensor:
        """Classify each patch by itself: (B, 32 width, H', W') -> (B, classes, H', W')."""
        logits: Tensor = self.fc(features.permute(0, 2, 3, 1))
        return logits.permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of each image, the mean of `logits_map`: (B, C, H, W) -> (B, classes).

        The classifier is linear, so the mean representation gives the same result with H' W' times
        fewer operations.
        """
        return self.forward_head(self.features(x))


def _stage(channels: int, width: int, blocks: int, blocks3x3: int, stride: int) -> nn.Sequential:
    """Stack `blocks` bottlenecks: the first has the stride, the first `blocks3x3` have a 3x3."""
    return nn.Sequential(
        *(
            Bottleneck(
                channels=channels if block == 0 else EXPANSION * width,
                width=width,
                kernel=3 if block < blocks3x3 else 1,
                stride=stride if block == 0 else 1,
            )
            for block in range(blocks)
        )
    )
