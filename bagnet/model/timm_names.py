"""What users of timm type: `forward_features`, `reset_classifier`, `pretrained_cfg`, ..."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from bagnet.model.card import card_of, set_card


class TimmNames(nn.Module):
    """A network of features and a linear classifier, under timm's names.

    Attributes:
        num_features: Channels of the features.
        fc: The classifier; an `nn.Identity` after `reset_classifier(0)`.
    """

    num_features: int
    fc: nn.Linear

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without a classifier."""
        return self.fc.out_features if isinstance(self.fc, nn.Linear) else 0

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """How to prepare images, for `timm.data.resolve_data_config`."""
        card = card_of(self)
        return {
            **card.preprocessing,
            "architecture": card.name,
            "num_classes": self.num_classes,
            "first_conv": "conv1",
            "classifier": "fc",
        }

    default_cfg = pretrained_cfg

    def features(self, x: Tensor) -> Tensor:
        """Compute the features, (B, num_features, H', W')."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the features: timm's name of `features`."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool features, and classify them unless `pre_logits` is set."""
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Module:
        """The classifier, `fc`."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one; the network then knows no class ids any more.

        Args:
            num_classes: Number of classes; 0 for none, so that the network computes what the
                classifier would get.
            global_pool: Only "avg" or None: the logits are the mean of the patches' votes.

        Raises:
            ValueError: One of them is something else.
        """
        if num_classes < 0 or global_pool not in (None, "avg"):
            raise ValueError(
                f"num_classes={num_classes} must be at least 0, and global_pool={global_pool!r} "
                "'avg'"
            )
        example = next(self.parameters())
        fresh: nn.Module = nn.Identity()
        if num_classes:
            fresh = nn.Linear(
                self.num_features, num_classes, device=example.device, dtype=example.dtype
            )
        self.fc = cast(nn.Linear, fresh)
        set_card(self, replace(card_of(self), classes=(), class_names=()))
