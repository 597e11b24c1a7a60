"""Training data behind an HTTP server or a command: the same batches, each shard fetched once."""

from __future__ import annotations

import copy
import dataclasses
import errno
import gzip
import itertools
import json
import multiprocessing
import resource
import shutil
import sys
import time
import zlib

import numpy as np
import pytest
import torch

from datamodules.common.batch import UNREADABLE
from datamodules.decoding.augmentation import TrainTransform
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.batches import Batches
from datamodules.loading.loader import TrainLoader
from datamodules.processes.forkserver import forkserver_context
from datamodules.remote import sources
from datamodules.remote.cache import ShardCache
from datamodules.remote.dataset import check_cache, default_cache_dir, load_remote
from datamodules.shards.entries import Shards
from datamodules.shards.manifest import INDEX, MANIFEST, Manifest

GIB = 1 << 30
SHARDS = [f"/train/shard-{number:06d}.tar" for number in range(3)]


@pytest.fixture
def server(http_server, shards):
    """Serves the packed data; what is damaged there is a copy."""
    shutil.copytree(shards, http_server.root, dirs_exist_ok=True)
    return http_server


@pytest.fixture
def cache(tmp_path):
    return ShardCache(tmp_path / "cache", GIB, delays=(0.01, 0.01))


def loaders(manifest, cache=None, ranks=1, **options):
    options = {"streams": 4, "world_size": ranks, **options}
    batches = [Batches(manifest, TrainTransform(16), seed=1, cache=cache) for _ in range(ranks)]
    return [TrainLoader(own, 12, rank=rank, **options) for rank, own in enumerate(batches)]


def read(some, steps=None):
    """Ids, labels and pixels of the batches, in the order of the ids; all ranks step by step."""
    found = []
    for parts in itertools.islice(zip(*some, strict=True), steps):
        images, labels, ids = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        order = ids.argsort()
        found.append((ids[order].tolist(), labels[order].tolist(), images[order].numpy().tobytes()))
    for loader in some:
        loader.close()
    return found


@pytest.fixture(scope="module")
def expected(shards):
    return read(loaders(Manifest.load(shards / "train")))


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 2), (1, 1)])
def test_batches_over_http_are_the_local_ones_and_each_shard_is_fetched_once(
    server, cache, expected, ranks, workers
):
    manifest = load_remote(f"{server.url}/train", cache)
    some = loaders(manifest, cache, ranks, workers=workers)
    assert read(some) == expected
    assert read(some)  # the next epoch reads the copies
    assert [len(server.transfers(path)) for path in SHARDS] == [1, 1, 1]


def test_a_bad_connection_changes_nothing(server, cache, expected, caplog):
    server.fail(SHARDS[0], 500, ("cut", 20_000))
    server.fail(SHARDS[1], ("cut", 70_000), 503)
    server.fail(SHARDS[2], "wrong")
    server.fail("/train/manifest.json", ("cut", 10), 500)
    server.fail("/train/samples.npy", ("cut", 1000))
    manifest = load_remote(f"{server.url}/train", cache)
    assert read(loaders(manifest, cache, workers=2)) == expected
    assert not caplog.records


def test_a_shard_that_stays_away_costs_its_samples_only(server, cache, expected, caplog):
    (server.root / "train/shard-000001.tar").unlink()
    url = server.url.replace("http://", "http://user:secret@")
    manifest = load_remote(f"{url}/train", cache)
    found = read(loaders(manifest, cache))
    gone = set(range(50, 120))
    for (ids, labels, _), (expected_ids, expected_labels, _) in zip(found, expected, strict=True):
        assert ids == expected_ids
        filled = [UNREADABLE if i in gone else k for i, k in zip(ids, expected_labels, strict=True)]
        assert labels == filled
    assert f"of {server.url}{SHARDS[1]}: no such file" in caplog.text
    assert "secret" not in caplog.text
    # Requested by the reader and by the prefetcher, once each.
    assert len(server.transfers(SHARDS[1])) <= 2


def test_the_next_window_is_fetched_while_this_one_is_trained_on(server, cache):
    manifest = load_remote(f"{server.url}/train", cache)
    (loader,) = loaders(manifest, cache, streams=1, window=1)
    plan = loader.sampler.plan
    ids = [plan.batch(step) for step in range(plan.steps_per_window + 1)]
    now, soon = (set(manifest.shard_of(np.concatenate(part)).tolist()) for part in (ids[:1], ids))
    assert now < soon
    batches = iter(loader)
    next(batches)
    deadline = time.monotonic() + 60
    while not all((cache.folder / f"{manifest.shards[n].sha256}.tar").exists() for n in soon):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(torch.multiprocessing.active_children()) == 1
    for _ in batches:
        pass
    assert not torch.multiprocessing.active_children()  # the prefetcher ends with the epoch


def test_a_small_cache_still_gives_every_batch(server, tmp_path, expected):
    largest = max(path.stat().st_size for path in (server.root / "train").glob("*.tar"))
    cache = ShardCache(tmp_path / "cache", largest + 10_000, delays=())
    manifest = load_remote(f"{server.url}/train", cache)
    assert read(loaders(manifest, cache)) == expected
    assert sum(path.stat().st_size for path in cache.folder.glob("*.tar")) <= cache.limit


def test_a_cache_that_would_fetch_without_end_is_refused_with_the_size_it_needs(shards, cache):
    local = Manifest.load(shards / "train")
    large = Shards.of(shard._replace(bytes=GIB) for shard in [*local.shards] * 100)
    remote = dataclasses.replace(local, base="https://host/train", shards=large)
    check_cache(remote, dataclasses.replace(cache, limit=5 * GIB), streams=1, window=2)
    with pytest.raises(ValueError, match=r"allows 5 GiB, .* copies of 40 GiB at a time"):
        check_cache(remote, dataclasses.replace(cache, limit=5 * GIB), streams=8, window=2)
    check_cache(dataclasses.replace(remote, base=None), cache, streams=64, window=2)  # local


def test_the_data_module_trains_and_validates_from_a_url(server, tmp_path, shards):
    def batches(root):
        options = {"image_size": 16, "resize_size": 16, "batch_size": 12, "workers": 0}
        data = ImageNetDataModule(root, **options, cache_dir=str(tmp_path / "cache"))
        data.setup("fit")
        assert (data.num_classes, data.train_manifest.num_samples) == (6, 150)
        found = [*data.train_dataloader(), *data.val_dataloader()]
        data.teardown("fit")
        return found

    for one, other in zip(batches(f"{server.url}/"), batches(str(shards)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_shards_that_a_command_prints(shards, tmp_path, expected):
    manifest = Manifest.load(shards / "train")
    root = tmp_path / "train"
    urls = [f"pipe:cat {shards}/train/{shard.name}" for shard in manifest.shards]
    urls[2] = str(shards / "train" / manifest.shards[2].name)  # and one that is local
    pairs = zip(manifest.shards, urls, strict=True)
    elsewhere = Shards.of(shard._replace(url=url) for shard, url in pairs)
    dataclasses.replace(manifest, root=root, shards=elsewhere).save()
    cache = ShardCache(tmp_path / "cache", GIB, delays=())
    manifest = Manifest.load(root, allow_pipe=True)
    assert read(loaders(manifest, cache, workers=1)) == expected
    assert len(list(cache.folder.glob("*.tar"))) == 2


def spoil_index(root):
    path = root / "train" / INDEX
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def lead_outside(root):
    path = root / "train" / MANIFEST
    header = json.loads(path.read_text())
    header["shards"][0]["url"] = "pipe:touch /tmp/pwned"
    path.write_text(json.dumps(header))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil_index, r"samples.npy: its sha256 is .* and not .*; copy it there again"),
        (
            lambda root: (root / "train" / MANIFEST).write_text("{"),
            r"manifest.json is damaged; pack",
        ),
        (lead_outside, r"lists shards outside its folder"),
        (lambda root: shutil.rmtree(root / "train"), r"no such file .*--data.root must be the URL"),
    ],
)
def test_a_wrong_remote_manifest_is_one_clear_error(server, cache, damage, message):
    damage(server.root)
    with pytest.raises(ValueError, match=message):
        load_remote(f"{server.url}/train", cache)


def test_the_copy_of_a_manifest_is_used_again_and_renewed_when_it_changes(server, cache):
    for _ in range(2):
        load_remote(f"{server.url}/train", cache)
    assert len(server.transfers("/train/samples.npy")) == 1
    manifest = Manifest.load(server.root / "train")
    swapped = np.array(manifest.samples)
    swapped[:2] = swapped[1::-1]
    dataclasses.replace(manifest, samples=swapped).save()
    changed = load_remote(f"{server.url}/train", cache)
    assert changed.sample(0).key == manifest.sample(1).key
    assert len(server.transfers("/train/samples.npy")) == 2


def test_the_default_cache_is_the_users_own_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = default_cache_dir()
    assert folder.parent == tmp_path
    ImageNetDataModule(str(tmp_path))
    assert not folder.exists()  # nobody needs one for local data


def test_a_command_as_root_is_not_run_unasked(server, tmp_path):
    root = f"pipe:touch {tmp_path}/ran; cat {server.root}"
    with pytest.raises(ValueError, match=r"--data.root pipe:touch \.\.\. is a command.*allow_pipe"):
        ImageNetDataModule(root, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "ran").exists()
    data = ImageNetDataModule(root, cache_dir=str(tmp_path / "cache"), allow_pipe=True)
    assert data.num_classes > 0
    assert (tmp_path / "ran").exists()


def said_to_be_gzip(body):
    yield b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
    yield b"Content-Length: %d\r\n\r\n" % len(body)
    yield body


def test_a_compressed_manifest_is_read_as_what_it_stands_for(server, cache):
    path = server.root / "train" / MANIFEST
    digest = Manifest.load(path.parent).digest
    path.write_bytes(gzip.compress(path.read_bytes()))
    server.fail("/train/manifest.json", said_to_be_gzip)
    assert load_remote(f"{server.url}/train", cache).digest == digest


def test_a_manifest_that_inflates_to_gigabytes_is_given_up_at_the_limit(server, cache, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 1 << 24)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 22)) + packer.flush(zlib.Z_FULL_FLUSH)  # may be repeated
    bomb = b"\x1f\x8b\x08" + bytes(6) + b"\xff" + 1024 * block  # 4 GiB
    (server.root / "train" / MANIFEST).write_bytes(bomb)
    server.fail("/train/manifest.json", *[said_to_be_gzip] * 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"train/manifest\.json.*more than 16,777,216 bytes"):
        load_remote(f"{server.url}/train", cache)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # KiB


def test_a_process_whose_index_has_gone_says_so_in_one_line(server, cache, capsys, monkeypatch):
    manifest = load_remote(f"{server.url}/train", cache)
    shutil.rmtree(cache.folder)
    process = forkserver_context().Process(target=print, args=(manifest,))
    process.start()
    process.join(60)
    assert process.exitcode == 1
    # Its stderr is that of the server, which an earlier test may have started.
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    monkeypatch.setattr("datamodules.shards.manifest.os._exit", sys.exit)
    with pytest.raises(SystemExit):
        copy.copy(manifest)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "samples.npy: No such file or directory; see whether it was removed" in said


def test_a_cache_that_vanishes_is_no_fault_of_the_samples(server, cache, monkeypatch):
    manifest = load_remote(f"{server.url}/train", cache)

    def replace(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "copy")

    monkeypatch.setattr("datamodules.remote.cache.os.replace", replace)
    with pytest.raises(FileNotFoundError, match="copy"):
        read(loaders(manifest, cache, workers=0), 1)
