"""The words of a BagNet: clusters of its patches' features, found in a random sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.console import Console
from scipy.cluster.vq import kmeans, vq
from torch import Tensor, nn
from torch.nn import functional as F

from bagnet.evidence.maps import require_bagnet
from bagnet.experiments.explanations.options import WordsOptions
from bagnet.experiments.measuring.measure import measure, spread
from bagnet.experiments.measuring.models import ModelFile
from bagnet.experiments.measuring.parts import PartFiles, read_file, record_of
from bagnet.model.registry import normalize
from datamodules.common.progress import progress
from datamodules.plan import permutation

PATCHES = 16_384  # in the sample, at most: 128 MiB of 2,048 features
IMAGES = 4_096  # that they are from, at most
PRECISION = 1e-4  # change of the mean distance to the centres, of itself, that ends k-means


@dataclass(frozen=True)
class Vocabulary:
    """Words, the most frequent ones in the sample first.

    Attributes:
        centres: Means of their patches' features, each scaled to length 1: float32 (words,
            features). A patch belongs to the nearest.
        votes: Means of their patches' votes, in logits: float32 (words, classes).
    """

    centres: np.ndarray
    votes: np.ndarray


@dataclass(frozen=True)
class SampledPatches:
    """The features of random patches.

    Columns: features, those of `count` patches of the image one after the other, or of all patches
    if there are fewer.
    """

    count: int
    seed: int

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        bagnet = require_bagnet(model)
        features = bagnet.features(normalize(images))
        bagnet.forward_head(features)  # `measure` refuses a network whose logits are not finite
        patches = features.flatten(2).transpose(1, 2)
        total = patches.shape[1]
        drawn = [permutation(total, self.seed, n)[: self.count] for n in sample_ids.tolist()]
        places = torch.from_numpy(np.stack(drawn)).to(patches.device)
        rows = torch.arange(len(patches), device=patches.device)[:, None]
        return {"features": patches[rows, places].flatten(1).float().cpu().numpy()}


def find_vocabularies(
    name: str, model: ModelFile, options: WordsOptions, total: int
) -> dict[int, Vocabulary]:
    """Find the words of a network, or read them if they have been found before.

    Args:
        name: The experiment's folder in `options.out`.
        model: The network.
        options: The experiment's options.
        total: Number of images in the split.

    Returns:
        A vocabulary for each number of words. It has fewer words if k-means ends with fewer, as it
        does if the sample has fewer different patches.

    Raises:
        ValueError: There are more words than patches, or as `measure`.
    """
    images = min(options.limit or total, total)
    chosen = spread(images, total)[spread(min(images, IMAGES), images)]
    patches = SampledPatches(PATCHES // len(chosen), options.seed)
    folder = f"{name}/sample/{model.label}"
    sample = measure(folder, patches, options, [model], samples=chosen.tolist())[model.label]
    record = {**record_of(sample.schema), "words": options.words}
    files = PartFiles(options.out / name / "vocabulary", model, record)
    if not files.exists(files.whole):
        bagnet = require_bagnet(model.load(torch.device("cpu"), record["classes"]))
        features = np.stack(sample["features"].to_numpy()).reshape(-1, bagnet.num_features)
        tables: list[pa.Table] = []
        title = f"{name}: clusters of {len(features):,} patches"
        with progress(Console(stderr=True), title, len(options.words), "sets of words") as update:
            for count in options.words:
                centres, means = cluster(features, count, options.seed)
                with torch.no_grad():
                    votes = bagnet.fc(torch.from_numpy(means)).numpy()
                columns = {"centre": list(centres), "votes": list(votes)}
                tables.append(pa.table({"words": [count] * len(centres), **columns}))
                update(len(tables))
        files.write(files.whole, tables)
    return {count: read_vocabulary(files.whole, count) for count in options.words}


def read_vocabulary(file: Path, count: int) -> Vocabulary:
    """Read the vocabulary for a number of words; raises as `parts.read_file`."""
    table = read_file(file)
    table = table.filter(pc.equal(table["words"], count))
    return Vocabulary(*(np.stack(table[name].to_numpy()) for name in ("centre", "votes")))


def cluster(features: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster patches by the directions of their features: k-means from k-means++.

    Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.

    Args:
        features: float32 (patches, features).
        count: Number of clusters.
        seed: Seed of the patches that k-means begins with.

    Returns:
        The centres among features of length 1, and the means of the features as they are, float32
        (at most `count`, features) each; clusters with most patches first.

    Raises:
        ValueError: There are fewer patches than clusters.
    """
    if len(features) < count:
        raise ValueError(
            f"--words {count}: the sample has {len(features):,} patches; give fewer words, or a "
            "larger --limit"
        )
    directions = F.normalize(torch.from_numpy(features)).numpy()
    origin = directions.mean(0)
    directions -= origin  # products of alike directions would round their distances away
    start = directions[_apart(directions, count, np.random.default_rng(seed))]
    precision = PRECISION * float(vq(directions, start)[1].mean())
    centres, _ = kmeans(directions, start, thresh=precision)
    own, _ = vq(directions, centres)
    sizes = np.bincount(own, minlength=len(centres))
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    return centres[order] + origin, np.stack([features[own == number].mean(0) for number in order])


def _apart(directions: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Draw patches, each with a probability in proportion to its squared distance from the others.

    SciPy's own k-means++ takes a time that grows with the square of their number.
    """
    squares = np.einsum("ij,ij->i", directions, directions)
    chosen = [int(rng.integers(len(directions)))]
    distances = np.full(len(directions), np.inf)
    while len(chosen) < count:
        last = directions[chosen[-1]]
        distances = np.minimum(distances, squares - 2 * directions @ last + last @ last)
        distances = np.maximum(distances, 0)
        sums = np.cumsum(distances, dtype=np.float64)
        place = np.searchsorted(sums, rng.random() * sums[-1], side="right")
        chosen.append(min(int(place), len(directions) - 1))
    return chosen
