"""Words are clusters of patches: known clusters are found, in a sample of bounded size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bagnet.experiments.explanations import vocabulary
from bagnet.experiments.explanations.options import WordsOptions
from bagnet.experiments.explanations.vocabulary import SampledPatches, cluster, find_vocabularies
from bagnet.experiments.measuring.models import parse_models
from bagnet.experiments.measuring.parts import read_file
from bagnet.experiments.options import DataOptions
from bagnet.model.registry import normalize
from tests.bagnet.experiments.bags import pictures, tiny_bagnet


def clusters(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Patches around random directions, of very different lengths, in random order."""
    rng = np.random.default_rng(seed)
    directions = rng.random((len(sizes), 32)) ** 4
    own = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    noisy = directions[own] * rng.normal(1, 0.002, (len(own), 32))
    lengths = np.exp(rng.normal(0, 2, (len(own), 1)))
    return (noisy * lengths).astype(np.float32), own


@pytest.mark.parametrize("seed", range(3))
def test_known_clusters_are_found_whatever_the_lengths(seed):
    features, own = clusters([40, 300, 5, 90, 160])
    centres, means = cluster(features, 5, seed)
    for number, known in enumerate((1, 4, 3, 0, 2)):  # the largest first
        members = features[own == known]
        directions = members / np.linalg.norm(members, axis=1, keepdims=True)
        np.testing.assert_allclose(centres[number], directions.mean(0), atol=1e-5)
        np.testing.assert_allclose(means[number], members.mean(0), rtol=1e-4)


def test_clusters_depend_on_the_seed_and_nothing_else():
    features = np.random.default_rng(0).random((200, 16), np.float32)
    one, again, other = (cluster(features, 12, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert len(one[0]) == len(one[1]) == 12


def test_alike_patches_make_fewer_words_than_asked_for():
    features = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    features[:20] = 0  # a patch without features has no direction
    centres, means = cluster(features, 10, seed=0)
    assert len(centres) == len(means) == 3
    np.testing.assert_array_equal(np.unique(means, axis=0), np.unique(features, axis=0))
    with pytest.raises(ValueError, match=r"--words 61: the sample has 60 patches; give fewer"):
        cluster(features, 61, seed=0)


def test_the_sample_is_drawn_by_seed_and_sample_id():
    model, images = tiny_bagnet(9).float(), pictures(3, 33)
    labels, ids = torch.zeros(3, dtype=torch.int64), torch.tensor([7, 3, 90])
    sampled = np.array(SampledPatches(5, seed=4)(model, images, labels, ids)["features"])
    with torch.no_grad():
        patches = model.features(normalize(images)).flatten(2).transpose(1, 2).numpy()
    drawn = []
    for own, features in zip(patches, sampled.reshape(3, 5, -1), strict=True):
        distances = np.abs(own[None] - features[:, None]).max(2)
        assert (distances.min(1) < 1e-5).all()
        drawn.append(distances.argmin(1).tolist())
    assert all(len(set(places)) == 5 for places in drawn)
    assert drawn[0] != drawn[1]
    for other in (0, 4):
        alone = SampledPatches(5, other)(model, images[1:2], labels[1:2], ids[1:2])["features"]
        assert np.allclose(alone, sampled[1:2], atol=1e-3) == (other == 4)
    every = np.array(SampledPatches(99, seed=4)(model, images, labels, ids)["features"])
    np.testing.assert_allclose(every.reshape(3, 16, -1).sum(1), patches.sum(1), rtol=1e-4)


def options(shards, networks, out, **more) -> WordsOptions:
    data = DataOptions(str(shards), batch_size=64, workers=0, image_size=33, resize_size=36)
    models = [f"mine={networks / '9.ckpt'}"]
    return WordsOptions(models=models, data=data, out=out, gpus=0, **more)


def test_the_sample_never_has_more_patches_than_its_bound(shards, networks, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "PATCHES", 50)
    monkeypatch.setattr(vocabulary, "IMAGES", 12)
    given = options(shards, networks, tmp_path, words=[4, 2], limit=30)
    found = find_vocabularies("words", *parse_models(given.models), given, 53)
    sample = read_file(tmp_path / "words" / "sample" / "mine" / "mine.parquet")
    assert sample.num_rows == 12
    assert set(sample["sample_id"].to_pylist()) < {53 * n // 30 for n in range(30)}
    features = np.stack(sample["features"].to_numpy())
    assert features.shape == (12, 4 * 64)  # 48 patches of a width of 2
    assert {count: len(each.centres) for count, each in found.items()} == {4: 4, 2: 2}


def test_the_mean_vote_of_the_words_is_that_of_the_sample(shards, networks, tmp_path):
    given = options(shards, networks, tmp_path, words=[6], limit=9)
    (model,) = parse_models(given.models)
    found = find_vocabularies("words", model, given, 53)[6]
    sample = read_file(tmp_path / "words" / "sample" / "mine" / "mine.parquet")
    features = torch.from_numpy(np.stack(sample["features"].to_numpy()).reshape(-1, 64))
    directions = features / features.norm(dim=1, keepdim=True).clamp(min=1e-9)  # some are 0
    distances = (directions[:, None] - torch.from_numpy(found.centres)).norm(dim=2)
    own = distances.argmin(1).numpy()
    network = model.load(torch.device("cpu"), [f"class{n}" for n in range(6)])
    votes = network.fc(features).detach().numpy()
    for word in range(6):
        np.testing.assert_allclose(found.votes[word], votes[own == word].mean(0), atol=1e-4)
    np.testing.assert_allclose(found.votes[own].mean(0), votes.mean(0), atol=1e-4)
