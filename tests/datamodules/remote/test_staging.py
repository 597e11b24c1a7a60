"""Shards on a slow disk that nodes share: copied to a folder of the node's, once, and checked."""

from __future__ import annotations

import itertools
import multiprocessing
import shutil

import pytest
import torch

from datamodules.common.batch import UNREADABLE
from datamodules.imagenet import ImageNetDataModule
from datamodules.remote.cache import ShardCache
from datamodules.remote.dataset import cached_bytes, check_cache
from datamodules.remote.sources import open_source
from datamodules.shards.manifest import Manifest

OPTIONS = {"image_size": 16, "resize_size": 16, "batch_size": 12, "workers": 0, "streams": 4}


@pytest.fixture
def root(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "shared")


def data_module(root, folder, **options):
    data = ImageNetDataModule(str(root), **{**OPTIONS, **options}, cache_dir=folder)
    data.cache = ShardCache(data.cache.folder, data.cache.limit, (0.01,), local=data.cache.local)
    data.setup("fit")
    return data


def read(data):
    found = [*data.train_dataloader(), *data.val_dataloader()]
    data.teardown("fit")
    return found


def same(some, others):
    pairs = zip(itertools.chain(*some), itertools.chain(*others), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_next_job_reads_no_byte_of_the_shared_disk(root, tmp_path):
    expected = read(data_module(root, None))
    folder = tmp_path / "node"
    assert same(read(data_module(root, str(folder), workers=1)), expected)
    assert len(list(folder.glob("*.tar"))) == 5
    for shard in root.rglob("*.tar"):
        shard.unlink()
    assert same(read(data_module(root, str(folder))), expected)


def fetch(cache, manifest):
    for shard in manifest.shards:
        cache.fetch(manifest.location(shard), shard.bytes, shard.sha256)


def test_two_processes_copy_a_shard_once(root, tmp_path, monkeypatch):
    notes = tmp_path / "opened"

    def open_and_note(location, *rest):
        with open(notes, "a") as file:
            file.write(f"{location}\n")
        return open_source(location, *rest)

    monkeypatch.setattr("datamodules.remote.sources.open_source", open_and_note)
    manifest = Manifest.load(root / "train")
    cache = ShardCache(tmp_path / "node", 1 << 30, local=True)
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=fetch, args=(cache, manifest)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    expected = [manifest.location(shard) for shard in manifest.shards]
    assert sorted(notes.read_text().splitlines()) == expected


def test_a_copy_that_is_cut_short_is_made_again(root, tmp_path):
    expected = read(data_module(root, str(tmp_path / "node")))
    for copy in (tmp_path / "node").glob("*.tar"):
        copy.write_bytes(copy.read_bytes()[:-1000])
    assert same(read(data_module(root, str(tmp_path / "node"))), expected)


def test_a_shard_that_has_changed_is_noticed_and_never_copied(root, tmp_path, caplog):
    shard = root / "train" / "shard-000001.tar"
    shard.write_bytes(bytes(byte ^ 255 for byte in shard.read_bytes()))
    found = read(data_module(root, str(tmp_path / "node")))
    labels = {int(i): int(k) for _, ks, ids in found[:12] for i, k in zip(ids, ks, strict=True)}
    wrong = {i for i, label in labels.items() if label == UNREADABLE}
    assert wrong == {i for i in labels if 50 <= i < 120}
    assert wrong
    assert "its sha256 is" in caplog.text
    assert len(list((tmp_path / "node").glob("*.tar"))) == 4


def test_without_a_folder_local_shards_are_read_in_place(root, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    data = data_module(root, None)
    assert cached_bytes(data.train_manifest, data.cache) == 0
    assert read(data)
    assert not data.cache.folder.exists()


def test_a_folder_that_is_too_small_for_the_copies_is_refused(root, tmp_path):
    manifest = Manifest.load(root / "train")
    cache = ShardCache(tmp_path / "node", 100_000, local=True)
    assert cached_bytes(manifest, cache) == sum(shard.bytes for shard in manifest.shards)
    with pytest.raises(ValueError, match=r"--data.cache_gib allows .* each node reads copies of"):
        check_cache(manifest, cache, streams=4, window=2)
