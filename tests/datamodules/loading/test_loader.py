"""Loaders: the same global batches for any workers, ranks and first step, and an exact resume."""

import itertools
import json
import pickle

import pytest
import torch

from datamodules.common.batch import UNREADABLE
from datamodules.decoding.augmentation import TrainTransform
from datamodules.decoding.transforms import EvalTransform
from datamodules.loading.batches import Batches
from datamodules.loading.loader import EvalLoader, TrainLoader
from datamodules.shards.manifest import Manifest
from tests.datamodules.loaders import BATCH, SAMPLES, STEPS, contents


def merged(parts):
    """The global batches, from those of all ranks."""
    return [{k: v for part in step for k, v in part.items()} for step in zip(*parts, strict=True)]


def test_epochs_are_exact_and_differ(reference):
    for epoch in reference:
        assert len(epoch) == STEPS
        assert len({i for batch in epoch for i in batch}) == STEPS * BATCH
    assert [list(batch) for batch in reference[0]] != [list(batch) for batch in reference[1]]
    common = set(reference[0][0]) & set().union(*reference[1])
    epoch1 = {i: sample for batch in reference[1] for i, sample in batch.items()}
    assert all(reference[0][0][i] != epoch1[i] for i in common)  # augmented anew


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_ranks_together_read_the_same_global_batches(train, reference, ranks):
    loaders = [train(rank=rank, world_size=ranks) for rank in range(ranks)]
    for epoch in reference:
        assert merged([contents(loader) for loader in loaders]) == epoch


@pytest.mark.parametrize(
    ("workers", "step"), [*((0, step) for step in range(STEPS + 1)), (2, 3), (2, STEPS)]
)
def test_resuming_at_any_batch_gives_exactly_what_was_left(train, reference, workers, step):
    loader = train(workers=workers)
    for _ in itertools.islice(loader, step):
        pass
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    resumed = train(workers=workers)
    resumed.load_state_dict(state)
    assert len(resumed) == STEPS
    if step < STEPS:
        assert contents(resumed) == reference[0][step:]
    assert contents(resumed) == reference[1]


def test_resuming_on_another_number_of_ranks(train, reference):
    for before, after in ((1, 4), (4, 2), (2, 1)):
        first = train(rank=0, world_size=before)
        for _ in itertools.islice(first, 2):
            pass
        loaders = [train(rank=rank, world_size=after) for rank in range(after)]
        for loader in loaders:
            loader.load_state_dict(first.state_dict())
        assert merged([contents(loader) for loader in loaders]) == reference[0][2:]


def test_the_state_counts_what_was_handed_out_not_what_was_prefetched(train):
    loader = train(workers=2)
    assert loader.state_dict()["samples"] == 0
    for step, _ in enumerate(loader, start=1):
        state = loader.state_dict()
        assert (state["epoch"], state["samples"]) == (0, step * BATCH)


def test_the_state_is_the_same_on_all_ranks_and_consists_of_numbers(train):
    states = []
    for rank in range(2):
        loader = train(rank=rank, world_size=2)
        next(iter(loader))
        states.append(loader.state_dict())
    assert states[0] == states[1]
    assert all(isinstance(value, int | str) for value in states[0].values())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seed", {"seed": 4}),
        ("global_batch", {"batch": 4}),
        ("streams", {"streams": 8}),
        ("window", {"window": 1}),
        ("accumulate", {"accumulate": 2}),
    ],
)
def test_a_state_of_another_order_is_an_error_that_names_the_difference(train, name, options):
    with pytest.raises(ValueError, match=f"cannot resume: .* made with {name} .*same {name}"):
        train(**options).load_state_dict(train().state_dict())


@pytest.mark.parametrize(("name", "value"), [("dataset", "other data"), ("permutation", None)])
def test_a_state_of_other_data_or_of_version_0_1_is_an_error(train, name, value):
    state = {**train().state_dict(), name: value}
    with pytest.raises(ValueError, match=f"made with {name} {value}"):
        train().load_state_dict(state)


def test_iterating_does_nothing_before_the_first_batch_so_the_epoch_can_still_be_set(
    train, reference
):
    loader = train()
    iter(loader)
    early = iter(loader)
    loader.sampler.set_epoch(1)
    assert contents(early) == reference[1]


def test_setting_the_epoch_keeps_the_place_in_it_or_goes_to_the_beginning(train, reference):
    loader = train()
    next(iter(loader))
    loader.sampler.set_epoch(0)
    assert contents(loader) == reference[0][1:]
    loader.sampler.set_epoch(0)
    loader.sampler.set_epoch(1)
    assert contents(loader) == reference[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_left_early_resumes_in_place(train, reference, workers):
    loader = train(workers=workers)
    head = contents(itertools.islice(loader, 3))
    assert head + contents(loader) == reference[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_random_state_of_the_training_is_left_alone(train, folder, workers):
    evaluation = EvalLoader(Batches(Manifest.load(folder), EvalTransform(8, 8)), 9)
    before = torch.get_rng_state()
    for _ in train(workers=workers):
        pass
    for _ in evaluation:
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_accumulation_gets_whole_windows(train):
    loader = train(accumulate=4)
    assert len(loader) == len(list(loader)) == 4


def test_too_few_samples_for_one_step_is_an_error(train):
    with pytest.raises(ValueError, match=r"has 52 training samples.* takes 64 .2 batches of 32."):
        train(batch=32, accumulate=2)


def test_ranks_that_do_not_divide_the_batch_are_an_error(train):
    with pytest.raises(ValueError, match="batch of 8 cannot be shared equally by 3 ranks"):
        train(world_size=3)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (3, 0), (7, 0), (1, 2), (3, 2)])
def test_evaluation_reads_every_sample_once_on_any_number_of_ranks(folder, ranks, workers):
    batches = Batches(Manifest.load(folder), EvalTransform(12, 14))
    alone = {k: v for batch in contents(EvalLoader(batches, SAMPLES)) for k, v in batch.items()}
    assert list(alone) == list(range(SAMPLES))
    together, lengths = [], set()
    for rank in range(ranks):
        loader = EvalLoader(batches, 5, rank=rank, world_size=ranks, workers=workers)
        lengths.add(len(loader))
        for _ in range(2 if rank == 0 else 1):  # again, as after every epoch
            found = contents(loader)
        assert len(found) == len(loader)
        together += [item for batch in found for item in batch.items()]
        loader.close()
    assert together == list(alone.items())
    assert len(lengths) == 1


@pytest.fixture
def damaged(folder, tmp_path):
    """The data without its third shard: 30 of the 52 samples are missing."""
    copy = tmp_path / "data" / "train"
    copy.mkdir(parents=True)
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "shard-000002.tar").unlink()
    return copy


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_change_no_number_of_batches_and_no_other_sample(
    damaged, reference, workers, caplog
):
    for ranks in (1, 2):
        loaders = [
            TrainLoader(
                Batches(Manifest.load(damaged), TrainTransform(12), 3),
                BATCH,
                rank=rank,
                world_size=ranks,
                streams=4,
                workers=workers,
            )
            for rank in range(ranks)
        ]
        caplog.clear()
        with caplog.at_level("INFO", "datamodules"):
            found = merged([contents(loader) for loader in loaders])
        assert [set(batch) for batch in found] == [set(batch) for batch in reference[0]]
        missing = 0
        for batch, expected in zip(found, reference[0], strict=True):
            for sample_id, (pixels, label) in batch.items():
                if 14 <= sample_id < 44:
                    missing += 1
                    assert (set(pixels), label) == ({128}, UNREADABLE)
                else:
                    assert (pixels, label) == expected[sample_id]
        named = {record.getMessage().split("'")[1] for record in caplog.records}
        assert len(named) == missing
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == ranks  # the first of each, then at most one in ten seconds
        for loader in loaders:
            loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_audit_knows_which_samples_each_step_used(train, reference, tmp_path, workers):
    loader = train(workers=workers, audit_dir=tmp_path / "audit", session=5)
    assert not (tmp_path / "audit").exists()
    for _ in itertools.islice(loader, 2):
        pass
    (file,) = (tmp_path / "audit").iterdir()
    header, *records = map(json.loads, file.read_text().splitlines())
    assert (header["session"], header["seed"], header["global_batch"]) == (5, 3, BATCH)
    assert [record["ids"] for record in records] == [list(b) for b in reference[0][:2]]
