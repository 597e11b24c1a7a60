"""Mixing: the count agrees with brute force, the user is warned, and the table is complete."""

from __future__ import annotations

import itertools
import math
import re
import tracemalloc

import numpy as np
import pytest

from datamodules.mixing import clustering_warning, count_pairs, main
from datamodules.plan import TrainPlan
from datamodules.shards.entries import Shard, Shards, sample_dtype
from datamodules.shards.manifest import Manifest

CLASSES = 10


def make(root, arrangement, shards=40, size=50):
    """Only a manifest, because a plan reads no shard."""
    labels = np.random.default_rng(0).integers(0, CLASSES, shards * size)
    if arrangement == "sorted":
        labels.sort()
    samples = np.zeros(len(labels), sample_dtype(8))
    samples["label"] = labels
    entries = Shards.of(Shard(f"s{i}.tar", size, 10_000_000, f"{i:064d}") for i in range(shards))
    names = tuple(map(str, range(CLASSES)))
    return Manifest(root / "train", names, names, entries, samples)


def plan(manifest, **options):
    return TrainPlan(
        manifest.counts, **{"seed": 0, "epoch": 0, "global_batch": 32, "streams": 8} | options
    )


def test_pairs_are_counted_as_by_brute_force(tmp_path):
    manifest = make(tmp_path, "sorted")
    labels = np.asarray(manifest.samples["label"])
    found = count_pairs(labels, plan(manifest))
    pairs = same = 0
    for step in range(len(plan(manifest))):
        for one, other in itertools.combinations(labels[plan(manifest).batch(step)], 2):
            pairs += 1
            same += one == other
    chance = np.mean(labels[:, None] == labels[None]) - 1 / len(labels)
    assert found.found == same
    assert found.by_chance == pytest.approx(pairs * chance, rel=1e-3)


def test_labels_are_counted_in_pieces():
    counts = np.full(400, 10_000)
    labels = np.random.default_rng(0).integers(0, CLASSES, counts.sum(), dtype=np.int8)
    tracemalloc.start()
    rate = count_pairs(labels, TrainPlan(counts, seed=0, epoch=0, global_batch=32)).rate
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rate == pytest.approx(1, abs=0.1)
    assert peak < 20e6  # 32 MB as 64-bit integers


@pytest.mark.parametrize("seed", range(5))
def test_only_shards_sorted_by_class_cause_a_warning(tmp_path, seed):
    mixed, by_class = make(tmp_path, "mixed"), make(tmp_path, "sorted")
    assert clustering_warning(mixed, plan(mixed, seed=seed, streams=2)) is None
    warning = clustering_warning(by_class, plan(by_class, seed=seed, streams=2))
    assert re.search(r"sorted by class: .* [23]\.\d times as often as in random batches", warning)
    assert "python -m datamodules.pack wds" in warning
    everything = plan(by_class, seed=seed, streams=2, window=40)
    assert clustering_warning(by_class, everything) is None


def test_batches_in_which_no_pair_can_meet_are_not_badly_mixed(tmp_path):
    manifest = make(tmp_path, "sorted")
    alone = plan(manifest, global_batch=1, streams=1)
    assert math.isnan(count_pairs(np.asarray(manifest.samples["label"]), alone).rate)
    assert clustering_warning(manifest, alone) is None


def test_larger_windows_bring_samples_of_one_shard_together_less_often(tmp_path):
    manifest = make(tmp_path, "mixed", shards=160)
    shards = np.repeat(np.arange(160), 50)
    rates = [count_pairs(shards, plan(manifest, window=window)).rate for window in (1, 2, 5, 160)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 3
    assert rates[-1] == pytest.approx(1, abs=0.1)


def test_the_table_shows_each_window_in_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    make(tmp_path, "sorted").save()
    assert main([str(tmp_path), "--data.batch_size", "32", "--data.streams", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if re.search(r"\d\.\d\d", line)]
    assert [row[1] for row in rows] == ["1", "2", "4", "8", "all"]
    assert [row[3] for row in rows] == ["0.08", "0.16", "0.32", "0.4", "0.4"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no such folder"),
        (
            ["--data.batch_size", "9999"],
            "less than one batch of 9999: give a batch_size of at most 2000",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line(tmp_path, capsys, arguments, message):
    if arguments:
        make(tmp_path, "mixed").save()
    assert main([str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
