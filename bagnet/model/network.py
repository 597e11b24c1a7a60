"""The BagNet architecture (Brendel & Bethge, ICLR 2019) and its receptive-field arithmetic.

A BagNet is a ResNet-50 whose 3x3 convolutions are mostly 1x1. Nothing is padded, so each entry of
the last feature map is a function of one small patch of the image and of nothing else. A linear
layer turns it into the patch's vote for each class; the image's logits are the average of all
votes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = (3, 4, 6, 3)  # of each stage, as in ResNet-50
EXPANSION = 4  # output channels of a bottleneck, in units of its inner width
BLOCKS_3X3 = {9: (1, 1, 0, 0), 17: (1, 1, 1, 0), 33: (1, 1, 1, 1)}  # by patch, in the paper


class Bottleneck(nn.Module):
    """The residual block 1x1, `kernel` x `kernel`, 1x1 without padding.

    The middle convolution carries the stride. In the first 1x1, it would make the patch of the
    BagNet-33 47 pixels wide.

    Attributes:
        fused: Computes `forward` in another way, which `bagnet.kernels.fuse` chooses.
    """

    fused: Callable[[Bottleneck, Tensor], Tensor] | None = None

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
        if self.fused is not None:
            return self.fused(self, x)
        residual = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.bn3(self.conv3(x))
        # The unpadded convolution makes the map smaller. Dropping the residual's last rows and
        # columns keeps the top left corners of both aligned. It comes after `downsample`, whose
        # batch statistics are of the whole map.
        x += residual[..., : x.shape[-2], : x.shape[-1]]
        return F.relu(x, inplace=True)


class BagNet(nn.Module):
    """BagNet with a receptive field of `patch` x `patch` pixels.

    Args:
        patch: side of the receptive field in pixels: 9, 17 or 33, or else what `blocks3x3` and
            `strides` come to.
        num_classes: length of the logits.
        width: channels of the stem; the representation of a patch has 32 times as many. 64 in the
            paper.
        in_channels: channels of the image.
        blocks3x3: how many blocks of each stage, from its first on, have a 3x3 convolution. For
            other receptive fields than the paper's: `BagNet(25, blocks3x3=(1, 1, 0, 1))`,
            `BagNet(29, blocks3x3=(2, 2, 1, 0))`, `BagNet(65, blocks3x3=(1, 1, 1, 3))`,
            `BagNet(77, blocks3x3=(2, 2, 1, 3))`.
        strides: stride of the first block of each stage.

    Attributes:
        receptive_field: side R of the patch that one entry of the map sees, in pixels.
        stride: distance S between the patches of neighbouring entries, in pixels.
        fused: computes the `stem` in another way, which `bagnet.kernels.fuse` chooses.

    Field and stride follow from the convolutions that were built. Let an entry (i, j) of some
    layer's output see R x R pixels from (S i, S j) on; for the image itself R = S = 1. A convolution with kernel
    k, stride s and no padding makes its entry i from the entries s i, ..., s i + k - 1 of its
    input, so from pixel S s i up to, not including, S (s i + k - 1) + R. Hence

        R <- R + (k - 1) S,    S <- S s,    and entry (i, j) sees R x R pixels from (S i, S j) on.

    The residual of a block is cropped at the bottom right only, so its entry i also starts at pixel
    S i and adds no pixels. In the BagNet-33, the 3x3 convolutions find S = 1, 1, 2, 4 and 8, thus
    R = 1 + 2 (1 + 1 + 2 + 4 + 8) = 33. Without the last one R = 17, without the last two R = 9.

    Raises:
        ValueError: `patch` is not one of the paper's and `blocks3x3` is not given, the receptive
            field that was built is not `patch`, or a size is out of its range.
    """

    fused: Callable[[BagNet, Tensor], Tensor] | None = None

    def __init__(
        self,
        patch: int = 33,
        num_classes: int = 1000,
        width: int = 64,
        in_channels: int = 3,
        *,
        blocks3x3: tuple[int, int, int, int] | None = None,
        strides: tuple[int, int, int, int] = (2, 2, 2, 1),
    ) -> None:
        super().__init__()
        if blocks3x3 is None:
            if patch not in BLOCKS_3X3:
                raise ValueError(
                    f"there is no BagNet with patch={patch}: choose 9, 17 or 33, or give blocks3x3"
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

        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # One line a stage keeps the names of the reference: its weight files load with strict=True.
        out = EXPANSION * width
        self.layer1 = _stage(width, width, BLOCKS[0], blocks3x3[0], strides[0])
        self.layer2 = _stage(out, 2 * width, BLOCKS[1], blocks3x3[1], strides[1])
        self.layer3 = _stage(2 * out, 4 * width, BLOCKS[2], blocks3x3[2], strides[2])
        self.layer4 = _stage(4 * out, 8 * width, BLOCKS[3], blocks3x3[3], strides[3])
        self.fc = nn.Linear(8 * out, num_classes)

        for module in self.modules():  # BatchNorm and Linear start as PyTorch leaves them
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

        self.receptive_field = self.stride = 1
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and "downsample" not in name:
                self.receptive_field += (module.kernel_size[0] - 1) * self.stride
                self.stride *= module.stride[0]
        if self.receptive_field != patch:
            raise ValueError(
                f"blocks3x3={blocks3x3} with strides={strides} has a receptive field of "
                f"{self.receptive_field} pixels, not {patch}: pass patch={self.receptive_field}"
            )

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image's map; n pixels give floor((n - R) / S) + 1 entries.

        A convolution takes n entries to floor((n - k) / s) + 1. For two in a row, with k, s and
        then k', s', the floors nest,

            floor((floor((n - k) / s) + 1 - k') / s') = floor((n - k - (k' - 1) s) / (s s')),

        so they are like one with R = k + (k' - 1) s and S = s s'; and so on for all of them.

        Raises:
            ValueError: the image is smaller than the patch.
        """
        field, stride = self.receptive_field, self.stride
        if height < field or width < field:
            raise ValueError(
                f"an image of {height}x{width} pixels is smaller than the patch of {field}x{field} "
                f"that this network sees: enlarge it, or take a BagNet with a smaller one"
            )
        return (height - field) // stride + 1, (width - field) // stride + 1

    def box(self, i: int, j: int) -> tuple[int, int, int, int]:
        """The pixels that map entry (i, j) sees, half-open: (top, left, bottom, right)."""
        top, left = self.stride * i, self.stride * j
        return top, left, top + self.receptive_field, left + self.receptive_field

    def features(self, x: Tensor) -> Tensor:
        """Representation of each patch: normalised images (B, C, H, W) -> (B, 32 width, H', W').

        Raises:
            ValueError: the images are smaller than the patch.
        """
        self.map_size(x.shape[-2], x.shape[-1])  # for its error
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))

    def stem(self, x: Tensor) -> Tensor:
        """What comes before the blocks: (B, C, H, W) -> (B, width, H - 2, W - 2)."""
        if self.fused is not None:
            return self.fused(self, x)
        return F.relu(self.bn1(self.conv2(self.conv1(x))), inplace=True)

    def logits_map(self, x: Tensor) -> Tensor:
        """Logits of each patch, the evidence: (B, C, H, W) -> (B, classes, H', W')."""
        return self.fc(self.features(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each image, the mean of its `logits_map`: (B, C, H, W) -> (B, classes).

        The classifier is linear, so it gives the same number for the mean representation, with
        H' W' times fewer operations.
        """
        return self.fc(self.features(x).mean((2, 3)))


def _stage(channels: int, width: int, blocks: int, blocks3x3: int, stride: int) -> nn.Sequential:
    """`blocks` bottlenecks: the first one has the stride, the first `blocks3x3` have a 3x3."""
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


def bagnet9(**kwargs: Any) -> BagNet:
    """BagNet-9; keyword arguments as for `BagNet`."""
    return BagNet(9, **kwargs)


def bagnet17(**kwargs: Any) -> BagNet:
    """BagNet-17; keyword arguments as for `BagNet`."""
    return BagNet(17, **kwargs)


def bagnet33(**kwargs: Any) -> BagNet:
    """BagNet-33; keyword arguments as for `BagNet`."""
    return BagNet(33, **kwargs)
