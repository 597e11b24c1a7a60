"""How far batches are from random ones: counted against brute force, told to the user, measured by window."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from datamodules.mixing import clustering_warning, main, meetings
from datamodules.plan import TrainPlan
from datamodules.shards.manifest import sample_dtype, Manifest, Shard

CLASSES = 10


def make(root, arrangement, shards=40, size=50):
    """A manifest alone: the plan reads no shard."""
    labels = np.random.default_rng(0).integers(0, CLASSES, shards * size)
    if arrangement == "sorted":
        labels.sort()
    samples = np.zeros(len(labels), sample_dtype(8))
    samples["label"] = labels
    entries = tuple(Shard(f"s{i}.tar", size, 10_000_000, f"{i:064d}") for i in range(shards))
    names = tuple(map(str, range(CLASSES)))
    return Manifest(root / "train", names, names, entries, samples)


def plan(manifest, **options):
    return TrainPlan(
        manifest.counts, **{"seed": 0, "epoch": 0, "global_batch": 32, "streams": 8} | options
    )


def test_meetings_are_counted_as_by_hand(tmp_path):
    manifest = make(tmp_path, "sorted")
    labels = np.asarray(manifest.samples["label"])
    found = meetings(labels, plan(manifest))
    pairs = same = 0
    for step in range(len(plan(manifest))):
        for one, other in itertools.combinations(labels[plan(manifest).batch(step)], 2):
            pairs += 1
            same += one == other
    chance = np.mean(labels[:, None] == labels[None]) - 1 / len(labels)
    assert found.found == same
    assert found.by_chance == pytest.approx(pairs * chance, rel=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_packed_shards_never_alarm_and_sorted_ones_always_do(tmp_path, seed):
    mixed, by_class = make(tmp_path, "mixed"), make(tmp_path, "sorted")
    assert clustering_warning(mixed, plan(mixed, seed=seed, streams=2)) is None
    warning = clustering_warning(by_class, plan(by_class, seed=seed, streams=2))
    assert re.search(r"sorted by class: .* [23]\.\d times as often as in random batches", warning)
    assert "python -m datamodules.pack wds" in warning
    everything = plan(by_class, seed=seed, streams=2, window=40)
    assert clustering_warning(by_class, everything) is None


def test_larger_windows_bring_samples_of_one_shard_together_less_often(tmp_path):
    manifest = make(tmp_path, "mixed", shards=160)
    shards = np.repeat(np.arange(160), 50)
    rates = [meetings(shards, plan(manifest, window=window)).rate for window in (1, 2, 5, 160)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 3
    assert rates[-1] == pytest.approx(1, abs=0.1)


def test_the_table_shows_each_window_in_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    make(tmp_path, "sorted").save()
    assert main([str(tmp_path), "--batch-size", "32", "--streams", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if re.search(r"\d\.\d\d", line)]
    assert [row[1] for row in rows] == ["1", "2", "4", "8", "all"]
    assert [row[3] for row in rows] == ["0.08", "0.16", "0.32", "0.4", "0.4"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "no such folder"), (["--batch-size", "9999"], "2000 samples are less than one batch")],
)
def test_what_cannot_be_measured_is_one_line(tmp_path, capsys, arguments, message):
    if arguments:
        make(tmp_path, "mixed").save()
    assert main([str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
