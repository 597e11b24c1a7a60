"""The plan keeps its promises for any shards, ranks, batch, accumulation, epoch and start."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.plan import (
    EvalPlan,
    TrainPlan,
    batches_per_epoch,
    permutation,
    random_seed,
    rank_batch,
)

GOLDEN_PERMUTATIONS = {
    (0,): [3, 2, 1, 8, 6, 0, 7, 4, 5, 9],
    (1, 2, 3): [8, 1, 9, 3, 7, 5, 2, 0, 4, 6],
    (2**70, 9, 3, 5, 0): [9, 3, 2, 1, 6, 0, 5, 7, 8, 4],
}
GOLDEN_SEEDS = {(0,): 15793235383387715774, (42, 3, 1_281_166): 6283386243428226207}
GOLDEN_EPOCH = [
    [12, 23, 10, 28, 17, 5, 1, 4],
    [16, 20, 9, 26, 13, 8, 3, 24],
    [15, 6, 0, 25, 19, 21, 2, 29],
]

many = settings(max_examples=400, deadline=None, derandomize=True)


@st.composite
def train_plans(draw):
    """A plan's arguments, and a world size that divides its global batch."""
    world_size = draw(st.integers(1, 8))
    arguments = {
        "counts": draw(st.lists(st.integers(0, 40), min_size=1, max_size=12)),
        "seed": draw(st.integers(0, 2**65)),
        "epoch": draw(st.integers(0, 1000)),
        "global_batch": world_size * draw(st.integers(1, 12)),
        "streams": draw(st.sampled_from([1, 2, 3, 4, 6, 8, 64])),
        "window": draw(st.integers(1, 13)),
        "accumulate": draw(st.integers(1, 3)),
    }
    return arguments, world_size


@many
@given(train_plans())
def test_an_epoch_has_every_sample_once_except_for_less_than_an_optimizer_step(case):
    arguments, world_size = case
    plan = TrainPlan(**arguments)
    samples = sum(arguments["counts"])
    window = arguments["global_batch"] * arguments["accumulate"]
    parts = [
        plan.batch(step, rank, world_size)
        for step in range(len(plan))
        for rank in range(world_size)
    ]
    assert all(len(part) == arguments["global_batch"] // world_size for part in parts)
    ids = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    assert len(plan) % arguments["accumulate"] == 0
    assert samples - window < len(ids) <= samples
    assert len(np.unique(ids)) == len(ids)
    assert ((ids >= 0) & (ids < samples)).all()


@many
@given(train_plans(), st.data())
def test_a_global_batch_does_not_depend_on_the_ranks_or_the_first_step(case, data):
    arguments, world_size = case
    plan = TrainPlan(**arguments)
    if len(plan) == 0:
        return
    whole = [plan.batch(step) for step in range(len(plan))]
    step = data.draw(st.integers(0, len(plan) - 1))
    fresh = TrainPlan(**arguments)
    parts = [fresh.batch(step, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(parts)) == sorted(whole[step])


@many
@given(st.integers(1, 3000), st.integers(1, 70), st.integers(1, 40))
def test_an_evaluation_has_every_sample_once_in_equally_many_batches(samples, batch_size, ranks):
    ranks = min(ranks, samples)
    plan = EvalPlan(samples, batch_size, ranks)
    batches = [plan.batch(step, rank) for rank in range(ranks) for step in range(len(plan))]
    sizes = [len(batch) for batch in batches]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(2, batch_size)
    assert np.concatenate(batches).tolist() == list(range(samples))


def test_an_evaluation_of_imagenet_on_awkward_ranks():
    for ranks in (1, 3, 7, 24):
        plan = EvalPlan(50_000, 86, ranks)
        ids = [plan.batch(step, rank) for rank in range(ranks) for step in range(len(plan))]
        assert np.concatenate(ids).tolist() == list(range(50_000))


def test_fewer_samples_than_ranks_is_an_error_with_the_remedy():
    with pytest.raises(ValueError, match=r"3 samples cannot be evaluated on 4 ranks.* at most 3"):
        EvalPlan(3, 1, 4)


def test_ranks_that_do_not_divide_the_batch_are_an_error_with_the_remedy():
    with pytest.raises(ValueError, match=r"batch of 256 .* by 3 ranks.* such as 255 or 258"):
        TrainPlan([999], seed=0, epoch=0, global_batch=256).batch(0, 0, 3)
    with pytest.raises(ValueError, match=r"such as 8$"):
        rank_batch(5, 8)


@pytest.mark.parametrize("name", ["global_batch", "streams", "window", "accumulate"])
def test_a_size_below_one_is_an_error(name):
    with pytest.raises(ValueError, match=f"{name.replace('_', ' ')} is 0"):
        TrainPlan([9], **{"seed": 0, "epoch": 0, "global_batch": 1, name: 0})


@pytest.mark.parametrize("name", ["seed", "epoch"])
def test_a_negative_seed_or_epoch_is_an_error(name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        TrainPlan([9], **{"seed": 0, "epoch": 0, "global_batch": 1, name: -1})


def test_a_step_outside_the_epoch_is_an_error():
    plan = TrainPlan([10], seed=0, epoch=0, global_batch=4)
    with pytest.raises(IndexError, match="step 2 of an epoch of 2"):
        plan.batch(2)


def test_the_order_never_changes():
    # A checkpoint of today must find its samples in years, so these numbers must stay the same.
    assert {key: permutation(10, *key).tolist() for key in GOLDEN_PERMUTATIONS} == (
        GOLDEN_PERMUTATIONS
    )
    assert permutation(1_000_000, 1)[:5].tolist() == [98885, 311649, 859319, 979920, 372366]
    assert {key: random_seed(*key) for key in GOLDEN_SEEDS} == GOLDEN_SEEDS
    plan = TrainPlan([5, 7, 3, 9, 6], seed=42, epoch=3, global_batch=8, streams=4, window=2)
    assert [plan.batch(step).tolist() for step in range(3)] == GOLDEN_EPOCH


def test_every_epoch_and_seed_has_its_own_order_and_its_own_remainder():
    def epoch(seed, number):
        plan = TrainPlan([25] * 4, seed=seed, epoch=number, global_batch=30)
        return np.concatenate([plan.batch(step) for step in range(len(plan))]).tolist()

    orders = [epoch(seed, number) for seed in range(5) for number in range(5)]
    assert len({tuple(order) for order in orders}) == 25
    assert len({tuple(set(range(100)) - set(order)) for order in orders}) == 25


def test_a_rank_reads_only_its_own_shards_if_it_can():
    counts, ranks = np.full(128, 20), 8
    plan = TrainPlan(counts, seed=0, epoch=1, global_batch=64, streams=16)
    shards = [
        {shard for step in range(len(plan)) for shard in plan.batch(step, rank, ranks) // 20}
        for rank in range(ranks)
    ]
    assert all(len(own) == 128 / ranks for own in shards)
    assert len(set.union(*shards)) == 128


def test_reads_stay_inside_the_shuffle_window():
    plan = TrainPlan([20] * 100, seed=0, epoch=0, global_batch=4, streams=1, window=2)
    ids = np.concatenate([plan.batch(step) for step in range(len(plan))])
    for window in ids.reshape(-1, 40):
        assert len(np.unique(window // 20)) == 2


def test_a_window_of_all_shards_is_a_true_random_permutation():
    # The places of two neighbours of one shard are uniform over all ordered pairs of places.
    size, epochs = 6, 6000
    places = np.zeros((size, size))
    for epoch in range(epochs):
        plan = TrainPlan([3, 3], seed=7, epoch=epoch, global_batch=size, streams=2, window=2)
        order = plan.batch(0).tolist()
        places[order.index(0), order.index(1)] += 1
    expected = epochs / (size * (size - 1))
    pairs = places[~np.eye(size, dtype=bool)]
    chi_square = ((pairs - expected) ** 2 / expected).sum()
    assert chi_square < 58.3  # 29 degrees of freedom, p = 0.001


def test_the_class_mix_of_a_batch_is_that_of_random_sampling():
    classes, batch = 10, 256
    counts = np.full(40, 500)
    labels = np.random.default_rng(0).permutation(np.arange(counts.sum()) % classes)

    def mean_chi_square(labels, **options):
        terms = []
        for epoch in range(3):
            plan = TrainPlan(counts, seed=0, epoch=epoch, global_batch=batch, **options)
            for step in range(len(plan)):
                mix = np.bincount(labels[plan.batch(step)], minlength=classes)
                terms.append(((mix - batch / classes) ** 2 / (batch / classes)).sum())
        return np.mean(terms)

    # The mean of 234 chi-squares of 9 degrees of freedom: 9 +- 0.28.
    assert abs(mean_chi_square(labels) - (classes - 1)) < 1.1
    assert abs(mean_chi_square(labels, streams=4) - (classes - 1)) < 1.1
    # Shards that are sorted by class can be distinguished, so this test would notice.
    assert mean_chi_square(np.sort(labels), streams=4) > 20


def test_the_cost_depends_on_the_shards_and_not_on_the_samples():
    counts = np.full(1_000_000, 1000)
    tracemalloc.start()
    plan = TrainPlan(counts, seed=0, epoch=9, global_batch=16_384)
    ids = plan.batch(len(plan) - 5, rank=4095, world_size=4096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ids) == 4
    assert peak < 200e6  # the sample ids of the epoch would take 8 GB


def test_the_length_of_an_epoch_is_a_multiple_of_the_accumulation():
    assert batches_per_epoch(1000, 64) == 15
    assert batches_per_epoch(1000, 64, accumulate=4) == 12
    assert batches_per_epoch(63, 64) == 0
