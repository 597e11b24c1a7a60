"""The most informative patches of each class (Brendel & Bethge, ICLR 2019, figure 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OWN, OTHERS = 0, 1
"""Rows of a class: patches of images with its label, and of images with another label."""


@dataclass(frozen=True)
class Patch:
    """A patch and its vote.

    Attributes:
        evidence: Evidence for the class, in logits.
        sample_id: The image's number in the manifest.
        entry: Row and column (i, j) in the image's evidence map; `BagNet.box(i, j)` has the pixels.
        label: The image's true class.
    """

    evidence: float
    sample_id: int
    entry: tuple[int, int]
    label: int


class TopPatches:
    """Keeps the k patches with the most evidence for each class.

    Only the best patch of an image counts: its neighbours see almost the same pixels and would fill
    the list. Among patches with equal evidence, the lower sample id comes first, so the result does
    not depend on the order of the images. Images that could not be read (label -1) are left out.

    Args:
        classes: Number of classes.
        k: Number of patches to keep for each class and row.
    """

    def __init__(self, classes: int, k: int) -> None:
        self.k = k
        self._evidence = torch.full((2, classes, k), -torch.inf, dtype=torch.float64)
        # Sample id, row and column in the map, label.
        self._where = torch.full((2, classes, k, 4), -1)

    def update_best(
        self, best: Tensor, places: Tensor, columns: int, labels: Tensor, sample_ids: Tensor
    ) -> None:
        """Add a batch of images.

        Args:
            best: The strongest evidence of each image for each class, in logits, (B, classes).
            places: Where it is in the map, counted row by row, int64 (B, classes).
            columns: Number of entries in a row of the maps.
            labels: True classes, int64 (B,).
            sample_ids: The images' numbers in the manifest, int64 (B,).
        """
        best, places = best.double().T, places.T
        labels, sample_ids = labels.expand_as(places), sample_ids.expand_as(places)
        where = torch.stack((sample_ids, places // columns, places % columns, labels), 2)
        is_own = labels == torch.arange(len(best))[:, None]
        excluded = torch.stack((~is_own, is_own)) | (labels < 0)
        self._keep(
            best.expand(2, -1, -1).masked_fill(excluded, -torch.inf), where.expand(2, -1, -1, -1)
        )

    def best(self, label: int, row: int) -> list[Patch]:
        """The patches of a class, strongest first; fewer than k if there are fewer images.

        Args:
            label: The class.
            row: `OWN` or `OTHERS`.
        """
        pairs = zip(
            self._evidence[row, label].tolist(), self._where[row, label].tolist(), strict=True
        )
        return [
            Patch(evidence, sample_id, (i, j), of)
            for evidence, (sample_id, i, j, of) in pairs
            if evidence > -torch.inf
        ]

    def _keep(self, evidence: Tensor, where: Tensor) -> None:
        evidence = torch.cat((self._evidence, evidence), 2)
        where = torch.cat((self._where, where), 2)
        # Descending by evidence; among equals, ascending by sample id.
        order = where[..., 0].argsort(dim=2, stable=True)
        falling = evidence.gather(2, order).argsort(dim=2, descending=True, stable=True)
        order = order.gather(2, falling)[..., : self.k]
        self._evidence = evidence.gather(2, order)
        self._where = where.gather(2, order[..., None].expand(-1, -1, -1, 4))
