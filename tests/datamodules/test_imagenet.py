"""The data module: what it says about the data, its loaders, and its errors."""

import dataclasses
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.imagenet import ImageNetDataModule
from tests.datamodules.loaders import write_data
from tests.datamodules.splits import BATCH, CLASSES, NAMES, STEPS, VAL, datamodule


def test_it_knows_the_data_without_a_trainer(root):
    data = datamodule(root)
    assert data.num_classes == 3
    assert data.classes == CLASSES
    assert data.class_names == NAMES
    assert data.train_manifest.num_samples == 45
    assert data.class_counts == (15, 15, 15)
    assert data.val_manifest.num_samples == 11
    assert len(data.train_dataloader()) == STEPS


def test_labels_that_are_no_class_are_not_counted(root, monkeypatch):
    data = datamodule(root)
    samples = data.train_manifest.samples.copy()
    samples["label"][:4] = -1, 3, 2, 2  # they were 0, 1, 2, 0
    damaged = dataclasses.replace(data.train_manifest, samples=samples)
    monkeypatch.setitem(data._splits._manifests, "train", damaged)
    assert data.class_counts == (13, 14, 16)


def test_batches_have_the_agreed_form(root):
    data = datamodule(root)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, labels, sample_ids = next(iter(loader))
        assert images.shape[1:] == (3, 8, 8)
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == sample_ids.dtype == torch.int64
        assert torch.equal(labels, sample_ids % 3)


def test_accumulation_comes_from_the_trainer(root):
    data = simulated(root, rank=0, world_size=1)
    data.trainer.accumulate_grad_batches = 2
    assert len(data.train_dataloader()) == 4


def test_a_batch_larger_than_the_data_is_an_error_before_anything_is_read(root):
    data = simulated(root, rank=0, world_size=1)
    data.trainer.accumulate_grad_batches = 6
    message = r"45 training samples.* takes 48 .6 batches of 8.: give a batch_size of at most 7$"
    with pytest.raises(ValueError, match=message):
        data.setup("fit")


def simulated(root, rank, world_size, **options):
    """The data module of one rank among many."""
    data = datamodule(root, **options)
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


def test_ranks_come_from_the_trainer_and_not_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    alone = [set(ids.tolist()) for *_, ids in datamodule(root).train_dataloader()]
    ranks = [simulated(root, rank, 2) for rank in range(2)]
    parts = [[set(ids.tolist()) for *_, ids in data.train_dataloader()] for data in ranks]
    assert [a | b for a, b in zip(*parts, strict=True)] == alone
    assert all(len(part) == BATCH // 2 for part in parts[0] + parts[1])


def test_evaluation_takes_any_number_of_ranks(root):
    ids = []
    for rank in range(3):  # does not divide the batch of 8
        data = simulated(root, rank, 3)
        data.setup("validate")
        ids += [i for *_, batch in data.val_dataloader() for i in batch.tolist()]
    assert ids == list(range(sum(VAL)))


@pytest.mark.parametrize("reason", ["there is no C compiler", None])
def test_one_line_says_why_images_are_decoded_whole(root, monkeypatch, caplog, reason):
    monkeypatch.setattr("datamodules.imagenet.why_not", lambda: reason)
    datamodule(root).setup("validate")
    assert caplog.messages == [
        f"images are decoded whole, although only parts are used: {why}" for why in [reason] if why
    ]


def test_by_default_there_are_no_more_workers_than_cpus(root, monkeypatch):
    for cpus, expected in ((1, 1), (3, 3), (96, 4)):
        monkeypatch.setattr("datamodules.processes.children.available_cpus", lambda cpus=cpus: cpus)
        assert datamodule(root, workers=None).workers == expected
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of more workers than CPUs
        data = datamodule(root, workers=None)
        next(iter(data.train_dataloader()))
    data.teardown("fit")


def test_only_training_needs_training_data_and_a_batch_that_the_ranks_divide(root, tmp_path):
    (tmp_path / "val").symlink_to(root / "val")
    data = simulated(tmp_path, 0, 3)
    data.setup("validate")
    assert data.num_classes == 3
    with pytest.raises(
        ValueError, match=r"has no folder train.*datamodules.pack --help.*make demo"
    ):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"batch of 8 .* by 3 ranks.* such as 6 or 9"):
        simulated(root, 0, 3).setup("fit")


def test_paths_may_have_a_tilde_and_variables(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.setenv("SCRATCH", "/scratch")
    folders = {"audit_dir": "~/audit", "cache_dir": "$SCRATCH/copies"}
    data = ImageNetDataModule(f"~/{root.name}", workers=0, **folders)
    assert data.val_manifest.root == root / "val"
    assert data.audit_dir == root.parent / "audit"
    assert data.cache.folder == Path("/scratch/copies")


def test_missing_data_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist; pack .*`make demo`"):
        _ = datamodule(tmp_path / "nowhere").num_classes
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match=r"val has no manifest.json.*datamodules\.pack"):
        datamodule(tmp_path).setup("validate")


def test_splits_with_different_classes_are_an_error(root, tmp_path):
    (tmp_path / "train").symlink_to(root / "train")
    write_data(tmp_path / "val", VAL, (*CLASSES, "n04"))
    with pytest.raises(ValueError, match="the 3 training classes and the 4 validation classes"):
        datamodule(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("window", 0), ("streams", 0), ("seed", -1), ("max_unreadable", 1.5)],
)
def test_a_value_out_of_its_range_is_an_error(root, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        datamodule(root, **{name: value})


def test_batches_of_chosen_samples_are_those_of_the_loaders(shards):
    data = ImageNetDataModule(str(shards), batch_size=53, workers=0, image_size=8, resize_size=9)
    images, labels, _ = next(iter(data.val_dataloader()))
    chosen = np.array([30, 2])
    (some, some_labels, sample_ids), unreadable = data.batches("val")[(0, chosen)]
    assert torch.equal(some, images[chosen])
    assert torch.equal(some_labels, labels[chosen])
    assert (sample_ids.tolist(), unreadable) == ([30, 2], ())
    (crops, _, _), _ = data.batches("train")[(0, chosen)]
    assert crops.shape == (2, 3, 8, 8)
    assert not torch.equal(crops, data.batches("train")[(1, chosen)][0][0])  # at random, by epoch
