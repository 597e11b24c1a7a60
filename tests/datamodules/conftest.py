"""Loaders of small data, and servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.datamodules.loaders import contents, training_loaders, write_data
from tests.datamodules.servers import HttpServer, HubHandler, serving
from tests.datamodules.splits import write_splits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "train")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def train(folder):
    """Makes training loaders. Stops their workers at the end."""
    with training_loaders(folder) as make:
        yield make


@pytest.fixture
def reference(train):
    """Two epochs, read in this process."""
    loader = train()
    return [contents(loader) for _ in range(2)]


@pytest.fixture
def http_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    """Serves the files of its `root`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tmp_path / "served") as server:
        yield server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    """Serves the files in `root/files` as those of `hf://datasets/org/name`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tmp_path / "hub", HubHandler) as server:
        (server.root / "files").mkdir()
        monkeypatch.setenv("HF_ENDPOINT", server.url)  # of processes that the test starts
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server.url})
        yield server
