"""The most informative patches of each class over a data set (Brendel & Bethge, ICLR 2019, figure 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OWN, OTHERS = 0, 1
"""Rows of a class: patches from images with its label, and from images with another one."""


@dataclass(frozen=True)
class Patch:
    """A patch and its vote.

    Attributes:
        evidence: For the class, in logits.
        sample_id: The image.
        entry: Place (i, j) in its evidence map; ``BagNet.box(i, j)`` has the pixels.
        label: The image's class.
    """

    evidence: float
    sample_id: int
    entry: tuple[int, int]
    label: int


class TopPatches:
    """The k patches with the most evidence for each class, in memory that does not grow with the data.

    An image gives a class its best patch only: its neighbours, which see almost the same pixels, would fill the list. Of
    patches with equal evidence the one of the lower sample id comes first, so the result does not depend on who saw which
    images. Images that could not be read (label -1) are left out.

    Args:
        classes: Number of classes.
        k: Patches to keep, for each class and row.
    """

    def __init__(self, classes: int, k: int) -> None:
        self.k = k
        self._evidence = torch.full((2, classes, k), -torch.inf, dtype=torch.float64)
        # Sample id, row and column in the map, label.
        self._where = torch.full((2, classes, k, 4), -1)

    def update(self, evidence: Tensor, labels: Tensor, sample_ids: Tensor) -> None:
        """Look at the evidence of a batch.

        Args:
            evidence: (B, classes, H', W'), on any device.
            labels: int64 (B,).
            sample_ids: int64 (B,).
        """
        best, places = evidence.flatten(2).max(2)
        self.update_best(best, places, evidence.shape[3], labels, sample_ids)

    def update_best(
        self, best: Tensor, places: Tensor, columns: int, labels: Tensor, sample_ids: Tensor
    ) -> None:
        """The same, with what is known to be the strongest evidence of each image for each class.

        Args:
            best: (B, classes), on any device.
            places: Its index in the map, row by row, int64 (B, classes).
            columns: W', the entries in a row of a map.
            labels: int64 (B,).
            sample_ids: int64 (B,).
        """
        best, places = best.double().cpu().T, places.cpu().T
        labels, sample_ids = labels.cpu().expand_as(places), sample_ids.cpu().expand_as(places)
        where = torch.stack((sample_ids, places // columns, places % columns, labels), 2)
        is_own = labels == torch.arange(len(best))[:, None]
        excluded = torch.stack((~is_own, is_own)) | (labels < 0)
        self._keep(
            best.expand(2, -1, -1).masked_fill(excluded, -torch.inf), where.expand(2, -1, -1, -1)
        )

    def merge(self, other: TopPatches) -> None:
        """Take in what another process has found."""
        self._keep(other._evidence, other._where)

    def best(self, label: int, row: int) -> list[Patch]:
        """The patches of a class, strongest first; fewer than k where there are no more images.

        Args:
            label: The class.
            row: ``OWN`` or ``OTHERS``.
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
        # By evidence, falling; among equals by sample id.
        order = where[..., 0].argsort(dim=2, stable=True)
        falling = evidence.gather(2, order).argsort(dim=2, descending=True, stable=True)
        order = order.gather(2, falling)[..., : self.k]
        self._evidence = evidence.gather(2, order)
        self._where = where.gather(2, order[..., None].expand(-1, -1, -1, 4))
