"""`hf://ORG/NAME` against a local server that answers like the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from bagnet.model.card import Card, card_of, set_card
from bagnet.model.config import config_of
from bagnet.model.registry import build_model
from bagnet.model.sources import find_weights
from bagnet.model.weights import load_model, save_weights
from tests.datamodules.servers import HttpServer, HubHandler, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class ModelHub(HubHandler):
    """Has one repository, `org/name`, at one commit, whose files are in the root's `files`."""

    API = "/api/models/org/name"

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        if path.startswith(f"{self.API}/tree/{COMMIT}"):
            self._list("")
        elif path in (self.API, f"{self.API}/revision/main", f"{self.API}/revision/v1"):
            self._answer({"id": "org/name", "sha": COMMIT, "siblings": [], "tags": []})
        elif self._file() is not None:
            self.path = f"/files/{path.rpartition('/')[2]}"
            super().do_GET()
        else:
            self._answer({"error": "not found"}, 404, "RepoNotFound")

    def do_HEAD(self) -> None:  # noqa: N802
        file = self._file()
        if file is None or not file.is_file():
            self._answer({"error": "not found"}, 404, "EntryNotFound")
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(file.read_bytes()).hexdigest()}"')
        self.send_header("Content-Length", str(file.stat().st_size))
        self.end_headers()

    def _file(self) -> Path | None:
        repository, _, name = self.path.partition("?")[0].rpartition("/")
        here = repository == f"/org/name/resolve/{COMMIT}"
        return self.server.state.root / "files" / name if here else None


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what HF_ENDPOINT does when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    """The server, and an empty cache of `huggingface_hub`, which read the environment already."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(tmp_path / "hub", ModelHub) as server:
        (server.root / "files").mkdir()
        point_to(server.url, monkeypatch)
        yield server


@pytest.fixture
def model(hub: HttpServer) -> nn.Module:
    """What the repository has."""
    model = build_model("bagnet9", 2, width=2).eval()
    set_card(model, Card("bagnet9", ("n01", "n02"), ("cat", "dog"), 64, 72))
    save_weights(model, hub.root / "files/model.safetensors")
    (hub.root / "files/config.json").write_text(json.dumps(config_of(model)))
    (hub.root / "files/large.bin").write_bytes(bytes(1000))
    return model


def test_a_repository_is_fetched_once_and_then_works_without_a_network(hub, model, monkeypatch):
    loaded = load_model("hf://org/name")
    assert card_of(loaded) == card_of(model)
    images = torch.rand(1, 3, 20, 20)
    assert torch.equal(loaded(images), model(images))
    fetched = {request.path for request in hub.requests if "resolve" in request.path}
    assert len(fetched) <= 2
    assert not hub.transfers("/files/large.bin")
    point_to("http://127.0.0.1:9", monkeypatch)
    assert torch.equal(load_model("hf://org/name@main")(images), model(images))


def test_another_revision_or_file(hub, model):
    (hub.root / "files/model.safetensors").rename(hub.root / "files/best.safetensors")
    with pytest.raises(
        ValueError, match=r"has no model.safetensors: name its file, hf://org/name/"
    ):
        find_weights("hf://org/name")
    assert load_model("hf://org/name@v1/best.safetensors").receptive_field == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hf://org/other", r"hf://org/other cannot be downloaded \(.*404.*\): log in if it is pri"),
        ("hf://org/name@v2", r"hf://org/name@v2 cannot be downloaded \("),
        ("hf://org/name/none.safetensors", "has no none.safetensors: name its file"),
        ("hf://org", "hf://org is not hf://ORG/NAME"),
        ("hf://org/../name", "is not hf://ORG/NAME|cannot be downloaded|has no"),
    ],
)
def test_what_is_not_there_is_one_line(hub, model, words, message):
    with pytest.raises(ValueError, match=message) as error:
        find_weights(words)
    assert "\n" not in str(error.value)


def test_without_a_network_and_without_the_library(hub, model, monkeypatch):
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ValueError, match=r"\(hf download org/name\) and give the folder$") as error:
        find_weights("hf://org/name")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="needs huggingface_hub: pip install"):
        find_weights("hf://org/name")
