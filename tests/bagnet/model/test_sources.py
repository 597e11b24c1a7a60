"""Weights by what people write: files, runs, names, URLs of a real local server, and `hf://`."""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bagnet.experiments.measuring.models import ModelFile
from bagnet.model import sources
from bagnet.model.registry import build_model
from bagnet.model.sources import AUTHORS, find_run, find_weights, published
from bagnet.model.weights import load_model, load_weights, save_weights
from bagnet.training.classifier import BagNetClassifier
from tests.datamodules.servers import HttpServer, serving


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of torch.hub, and an empty folder to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("BAGNET_RUNS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache/hub/checkpoints"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HttpServer]:
    with serving(tmp_path / "web") as server:
        yield server


def checkpoint(path: Path, seed: int = 0) -> bytes:
    """Write a file as the authors wrote theirs, which says nothing of its network."""
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"state_dict": build_model("bagnet9", 3, width=2).state_dict()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


@pytest.fixture
def authors(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of the authors' BagNet-9 on the server."""
    content = checkpoint(server.root / "new")
    name = f"bagnet8-{hashlib.sha256(content).hexdigest()[:8]}.pth.tar"
    (server.root / "new").rename(server.root / name)
    monkeypatch.setitem(AUTHORS, "bagnet9", f"{server.url}/{name}")
    return f"/{name}"


def refused(words: str) -> str:
    with pytest.raises(ValueError, match=r"\S") as error:
        find_weights(words)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_urls_are_those_of_the_authors_and_of_torchvision():
    for name, file in (("bagnet9", "bagnet8"), ("bagnet17", "bagnet16"), ("bagnet33", "bagnet32")):
        known = published(name) or ""
        assert re.fullmatch(rf"https://bitbucket\.org/.*/{file}-[0-9a-f]{{8}}\.pth\.tar", known)
    for name in ("alexnet", "resnet50", "densenet169"):
        assert re.fullmatch(r"https://.*-[0-9a-f]{8}\.pth", published(name) or "")
    assert published("bagnet25") is None


def test_a_name_is_downloaded_once_and_then_works_without_a_network(
    tmp_path, authors, server, cache, capsys
):
    model = load_model("bagnet9")
    assert (model.receptive_field, model.fc.out_features) == (9, 3)
    said = capsys.readouterr().err
    assert said.startswith(f"downloading {server.url}{authors} to {cache}{authors}\n")
    shutil.rmtree(server.root)
    again = load_model("bagnet9")
    assert torch.equal(again.fc.weight, model.fc.weight)
    assert capsys.readouterr().err == ""
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (("cut", 5000), r"the connection failed .* after [0-5],?0* bytes"),
        ("wrong", "its sha256 begins with .* and not "),
        (("redirect", "http://169.254.169.254/net"), "it redirects to .* a private network"),
        (404, "no such file"),
        (503, "HTTP 503"),
    ],
)
def test_what_did_not_arrive_whole_is_not_kept_and_the_message_helps(
    authors, server, cache, action, reason
):
    server.fail(authors, action)
    said = refused("bagnet9")
    assert re.match(rf"bagnet9 cannot be downloaded \(.*{reason}", said)
    assert not list(cache.glob("*bagnet8*tar"))
    # What it says is what helps.
    url, path = re.search(r"download (\S+) elsewhere, and put it at (\S+)$", said).groups()
    shutil.copy(server.root / url.removeprefix(server.url).lstrip("/"), path)
    assert load_model("bagnet9").receptive_field == 9
    assert len(server.requests) == 1
    Path(path).unlink()
    assert find_weights("bagnet9") == Path(path)  # the server is well again


def test_without_a_network_the_message_is_the_same(authors, server, monkeypatch, cache):
    monkeypatch.setitem(AUTHORS, "bagnet9", f"http://127.0.0.1:9{authors}")
    said = refused("bagnet9")
    assert "Connection refused" in said
    assert said.endswith(f"elsewhere, and put it at {cache}{authors}")


def test_a_server_that_falls_silent_is_not_waited_for(authors, server, monkeypatch):
    monkeypatch.setattr(sources, "PATIENCE", 0.1)
    for action, cause in (
        ("silent", "no answer for 0.1 s"),
        (("stall", 5000), "no answer for 0.1 s after"),
        (("drip", 5000), "only .* bytes a second came after"),
    ):
        server.fail(authors, action)
        assert re.search(cause, refused("bagnet9"))


def test_a_download_has_a_limit(authors, server, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST", 5000)
    assert "(it has more than 5,000 bytes): download" in refused("bagnet9")


@pytest.mark.filterwarnings("ignore:.*do not both name")
def test_a_training_and_an_experiment_take_the_same_names(authors, server):
    module = BagNetClassifier("bagnet9", num_classes=3, width=2, weights="bagnet9")
    model = ModelFile.parse("bagnet9")
    assert (model.label, model.path.name) == ("bagnet9", authors[1:])
    loaded = ModelFile.parse(f"mine={server.url}{authors}").load(torch.device("cpu"), "abc")
    assert torch.equal(loaded.fc.weight, module.model.fc.weight)
    assert len(server.requests) == 1


def test_any_url_goes_the_same_way(server, cache):
    save_weights(build_model("bagnet9", 3, width=2), server.root / "my/net.safetensors")
    (server.root / "other").mkdir()
    checkpoint(server.root / "other/net.safetensors")
    url = f"{server.url}/my/net.safetensors"
    assert load_model(f"{url}?download=true").receptive_field == 9
    assert find_weights(url) == cache / "127.0.0.1/my/net.safetensors"
    assert find_weights(f"{url}?download=true") != find_weights(url)
    for place in ("my/../../../net.safetensors", ""):
        assert sources._place(f"{server.url}/{place}").is_relative_to(cache / "127.0.0.1")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.pth.tar"])
def test_a_connection_that_was_cut_is_noticed_without_a_hash(server, cache, name):
    path = server.root / name
    checkpoint(path) if name.endswith("tar") else save_weights(build_model("bagnet9", 3, 2), path)
    server.fail(f"/{name}", *[("cut", path.stat().st_size - 100)] * 2)
    url = f"{server.url}/{name}"
    assert "(the connection failed" in refused(url)
    server.lengths = False
    assert refused(url).startswith(f"{url} is not a checkpoint, or it is incomplete (")
    assert find_weights(url) == cache / "127.0.0.1" / name


def test_python_objects_are_not_loaded_from_anywhere(server, cache):
    torch.save({"state_dict": {}, "args": Path("x")}, server.root / "net.pth")
    said = refused(f"{server.url}/net.pth")
    assert re.match(r"http://\S+/net.pth holds Python objects \(pathlib", said)
    assert not list(cache.glob("127.0.0.1/net*"))


def _find(words: str) -> Path:
    return find_weights(words)


def test_of_several_processes_one_downloads_and_the_others_wait(authors, server, cache, capfd):
    server.pause = 0.02  # so that all of them begin before it ends
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(_find, [f"{server.url}{authors}"] * 4, chunksize=1)
    assert found == [Path(f"{cache}{authors}")] * 4
    assert len(server.requests) == 1
    assert capfd.readouterr().err.count("downloading") == 1


def test_a_killed_download_leaves_nothing_for_long(authors, server, cache):
    server.fail(authors, ("stall", 5000))
    process = multiprocessing.get_context("fork").Process(target=_find, args=("bagnet9",))
    process.start()
    while not server.requests:
        process.join(0.01)
        assert process.is_alive()
    process.kill()
    process.join()
    assert list(cache.glob(".*.tmp.tar"))
    assert find_weights("bagnet9") == Path(f"{cache}{authors}")
    assert {file.suffix for file in cache.iterdir()} == {".lock", ".tar"}


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, authors, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    assert re.match(r"bagnet9 cannot be kept at .*: set TORCH_HOME to another", refused("bagnet9"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: checkpoint(Path("bagnet9"), 1),
        lambda: checkpoint(Path("runs/bagnet9/checkpoints/best.ckpt"), 1),
    ],
)
def test_what_is_here_comes_before_what_was_published_and_this_is_said(
    authors, server, make: Callable[[], bytes]
):
    Path("bagnet9").mkdir()  # images
    assert find_weights("bagnet9").name == authors[1:]
    Path("bagnet9").rmdir()
    make()
    said = r"bagnet9 is \S+ here; for the published weights, give http"
    with pytest.warns(UserWarning, match=said):
        here = load_weights("bagnet9")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ModelFile.parse("mine=bagnet9")  # of experiments, which measure runs
    there = load_weights(AUTHORS["bagnet9"])
    assert not torch.equal(here["fc.weight"], there["fc.weight"])


def test_the_name_of_a_run_is_never_that_of_published_weights(authors, server):
    with pytest.raises(ValueError, match=r"there is no run runs/bagnet9: give the name of another"):
        find_run("bagnet9")
    assert server.requests == []


def test_a_folder_with_a_model_in_it(tmp_path):
    folder = tmp_path / "not the name of a run"
    folder.mkdir()
    with pytest.raises(ValueError, match="has no checkpoint: give the folder of a run, or a file"):
        find_weights(folder)
    save_file(build_model("bagnet9", 3, width=2).state_dict(), folder / "model.safetensors")
    assert find_weights(folder) == folder / "model.safetensors"
    assert load_model(str(folder)).receptive_field == 9


def test_a_run_is_named_by_its_name_its_folder_or_a_file_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BAGNET_RUNS", str(tmp_path / "runs"))
    best, last, large = (
        tmp_path / "runs" / place
        for place in ("small/checkpoints/best.ckpt", "small/checkpoints/last.ckpt", "large")
    )
    for path in (best, last, large / "checkpoints/last.ckpt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for text in ("small", best.parents[1], f"{best.parents[1]}/"):
        assert find_weights(text) == find_run(str(text)) == best
    assert find_weights(last) == last
    assert find_run("large").name == "last.ckpt"
    assert find_run("large", tmp_path / "runs").parents[1] == large
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_run("large", Path("~/runs")).parents[1] == large
    monkeypatch.chdir(tmp_path)
    assert find_weights("runs/large") == Path("runs/large/checkpoints/last.ckpt")
    Path("small").mkdir()  # the images that it was trained on
    assert find_weights("small") == best


def test_what_is_neither_a_file_nor_a_run_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("BAGNET_RUNS", str(tmp_path / "runs"))
    said = refused("nothing")
    assert re.match(
        r"there is neither a file nothing nor a run /.*/nothing: give .* bagnet33,", said
    )
    (tmp_path / "runs/empty").mkdir(parents=True)
    assert re.search(
        r"empty has no checkpoint: give the folder of a run, or a file", refused("empty")
    )
    with pytest.raises(ValueError, match="empty has no checkpoint: give the folder of a run$"):
        find_run("empty")
