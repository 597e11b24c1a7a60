"""`hf://` URLs, against a server that answers like the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil

import numpy as np
import pytest
import torch

from datamodules.imagenet import ImageNetDataModule
from datamodules.remote.cache import ShardCache
from datamodules.remote.sources import SourceError, open_source, read_source

ROOT = "hf://datasets/org/name"
DATA = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def url(hub):
    (hub.root / "files/a.tar").write_bytes(DATA)
    return f"{ROOT}/a.tar"


def test_a_whole_file_is_one_request_and_the_rest_of_one_is_a_range(url, hub):
    assert read_source(url) == DATA
    with open_source(url, 123_456, len(DATA)) as source:
        assert (source.tell(), source.readall()) == (123_456, DATA[123_456:])
    ranges = [(None, len(DATA)), ("bytes=123456-299999", len(DATA) - 123_456)]
    assert hub.transfers("/files/a.tar") == ranges


def test_what_is_missing_or_forbidden_is_one_line_and_not_tried_again(url, hub):
    hub.fail("/files/a.tar", 403)
    for location, cause in {
        url: "HTTP 403",
        f"{ROOT}/b.tar": "no such file",
        "hf://datasets/org/other/a.tar": "no such file",
    }.items():
        with pytest.raises(SourceError, match=rf"cannot read {location}: {cause}") as raised:
            read_source(location, (0.01,))
        assert str(raised.value).endswith("need `hf auth login` (1 attempt)")


def test_works_in_a_forked_process(url):
    assert read_source(url) == DATA
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(read_source, [url] * 4) == [DATA] * 4


def test_a_cut_transfer_resumes_in_the_middle(hub, tmp_path):
    data = DATA * 4
    (hub.root / "files/a.tar").write_bytes(data)
    hub.fail("/files/a.tar", ("cut", 600_000))
    cache = ShardCache(tmp_path / "cache", len(data), delays=(0.01,))
    digest = hashlib.sha256(data).hexdigest()
    assert cache.fetch(f"{ROOT}/a.tar", len(data), digest).read_bytes() == data
    (whole, _), (rest, sent) = hub.transfers("/files/a.tar")
    assert whole is None
    assert rest == f"bytes={len(data) - sent}-"
    assert sent < len(data) - 500_000


def test_batches_from_the_hub_are_the_local_ones(hub, shards, tmp_path):
    shutil.copytree(shards, hub.root / "files", dirs_exist_ok=True)

    def batches(root):
        options = {"image_size": 16, "resize_size": 16, "batch_size": 12, "workers": 0}
        data = ImageNetDataModule(root, **options, cache_dir=str(tmp_path / "cache"))
        data.setup("fit")
        found = [*data.train_dataloader(), *data.val_dataloader()]
        data.teardown("fit")
        return found

    for one, other in zip(batches(ROOT), batches(str(shards)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(hub.transfers("/files/train/shard-000000.tar")) == 1
