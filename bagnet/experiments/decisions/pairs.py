"""Two networks on the same images, as `errors` compares them: class by class and image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Pair:
    """Two networks on the same images and classes.

    Attributes:
        names: Labels of the networks.
        classes: Classes that have images, int (C,).
        images: Number of images of each class, int (C,).
        hits: Number of images of each class on which each network is right, int (2, C).
        hits_of_both: Number of images of each class on which both are, int (C,).
        predicted: Predicted classes, int (2, n).
        right: Whether the predicted classes are right, bool (2, n).
    """

    names: tuple[str, str]
    classes: np.ndarray
    images: np.ndarray
    hits: np.ndarray
    hits_of_both: np.ndarray
    predicted: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, names: tuple[str, str], tables: Mapping[str, pa.Table], top: int) -> Pair:
        """Make a pair from tables of `accuracy`; images that only one table has are left out."""
        columns = ["sample_id", "label", "rank", "predicted"]
        first, second = (tables[name].select(columns) for name in names)
        both = first.join(second, "sample_id", join_type="inner", right_suffix="_2")
        both = both.sort_by("sample_id")
        ranks = np.stack([both["rank"], both["rank_2"]])
        predicted = np.stack([both["predicted"], both["predicted_2"]])
        classes, index, images = np.unique(both["label"], return_inverse=True, return_counts=True)
        right = ranks < top
        *hits, both = (
            np.bincount(index[each], minlength=len(images)) for each in (*right, right.all(0))
        )
        return cls(names, classes, images, np.stack(hits), both, predicted, ranks < 1)

    @property
    def accuracies(self) -> np.ndarray:
        """The accuracies of both networks for each class, (2, C), from 0 to 1."""
        shares: np.ndarray = self.hits / self.images
        return shares

    @property
    def noise(self) -> np.ndarray:
        """The sampling variance of each accuracy and the covariance of both, (3, C).

        NaN for a class with a single image.
        """
        first, second = self.accuracies
        means = np.stack([first, second, self.hits_of_both / self.images])
        with np.errstate(invalid="ignore"):
            noise: np.ndarray = (means - [first**2, second**2, first * second]) / (self.images - 1)
        return noise
