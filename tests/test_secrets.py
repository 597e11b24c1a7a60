"""Passwords, tokens and keys are in nothing that a program prints or writes, and they work."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import time
import zipfile
from argparse import Namespace
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from bagnet.experiments.measuring.models import ModelFile
from bagnet.model.card import Card, set_card
from bagnet.model.registry import build_model
from bagnet.model.sources import find_weights
from bagnet.model.weights import save_weights
from datamodules.pack.__main__ import main as pack
from datamodules.remote.sources import SourceError, read_source
from datamodules.remote.urls import redacted_settings, redacted_text, redacted_words
from tests.conftest import CLASSES, colour_jpeg
from tests.datamodules.servers import HttpServer, serving
from tests.planted import leaks
from tests.trainings import REPOSITORY, TINY

PLACES = (
    *("password of the root", "password of netrc", "token of weights", "token of shards"),
    *("argument of a command", "password of git", "password of a proxy"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "wrong words"),
)
SECRETS = {place: f"s3cret{number:02}{'k' * 32}" for number, place in enumerate(PLACES)}
"""As long as W&B wants its keys."""


class Place:
    """A machine with secrets on it: a home, a temporary folder, and one to work in."""

    def __init__(self, folder: Path, shards: Path, data: HttpServer, files: HttpServer) -> None:
        self.given, self.work = folder / "given", folder / "work"
        self.written = [folder / name for name in ("home", "temporary", "work")]
        for each in (self.given, *self.written):
            each.mkdir()
        shutil.copytree(shards, data.root / "shards")
        shutil.copytree(shards, files.root / "shards")
        model = build_model("bagnet9", len(CLASSES), width=4)
        set_card(model, Card("bagnet9", CLASSES, CLASSES, 32, 32))
        save_weights(model, files.root / "first.safetensors")
        data.login = f"alice:{SECRETS['password of the root']}"
        host = data.url.removeprefix("http://")
        self.root = f"http://{data.login}@{host}/shards"
        self.plain_root = f"{data.url}/shards"
        self.weights = f"{files.url}/first.safetensors?token={SECRETS['token of weights']}"
        self.shards = (
            f"{files.url}/shards/{{train,val}}/shard-000000.tar?token={SECRETS['token of shards']}"
        )
        self.said: list[str] = []
        proxy = f"http://bob:{SECRETS['password of a proxy']}@127.0.0.1:9"
        keys = {name: secret for name, secret in SECRETS.items() if name.isupper()}
        home, temporary, _ = map(str, self.written)
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            **keys,
            "HOME": home,
            "TMPDIR": temporary,
            "NETRC": str(self.given / "netrc"),
            "http_proxy": proxy,
            "https_proxy": proxy,
            "no_proxy": "127.0.0.1",
            "WANDB_MODE": "offline",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        (self.given / "netrc").write_text(
            f"machine 127.0.0.1 login alice password {SECRETS['password of the root']}\n"
            f"machine elsewhere login alice password {SECRETS['password of netrc']}\n"
        )

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        """Run `python WORDS`, and return what it printed."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.work,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout
        self.said.append(done.stdout)
        return done.stdout

    def train(self, *words: str, code: int = 0, **environment: str) -> str:
        return self.run(str(REPOSITORY / "train.py"), *words, code=code, **environment)


@pytest.fixture
def place(tmp_path: Path, shards: Path) -> Iterator[Place]:
    with serving(tmp_path / "data") as data, serving(tmp_path / "files") as files:
        yield Place(tmp_path, shards, data, files)


PASSWORD = "pa55word"
URL = f"http://alice:{PASSWORD}@host/a.tar?token={PASSWORD}"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--data.root", URL], ["--data.root", "http://host/a.tar"]),
        (
            ["--models", f"a={URL}", f"b={URL}"],
            ["--models", *(f"{n}=http://host/a.tar" for n in "ab")],
        ),
        ([f"--models=[a=http://host,b={URL}"], ["--models=[a=http://host,b=http://host/a.tar"]),
        ([f'--data={{"root": "{URL}"}}'], ['--data={"root": "http://host/a.tar"}']),
        (["--data", f"{{root: pipe:curl {URL}}}"], ["--data", "{root: pipe:curl ..."]),
        (["--logger.api_key", PASSWORD, "--x", "y"], ["--logger.api_key", "...", "--x", "y"]),
        ([f"--logger.api_key={PASSWORD}"], ["--logger.api_key=..."]),
        ([f"zip://a.tar::{URL}"], ["zip://..."]),
        (["-c", "file:///a?b", "--lr=1e-3"], ["-c", "file:///a?b", "--lr=1e-3"]),
    ],
)
def test_words_are_shown_without_secrets(words: list[str], shown: list[str]) -> None:
    assert redacted_words(words) == shown


def test_settings_are_shown_without_secrets_at_any_depth() -> None:
    inner = Namespace(class_path="Logger", init_args={"uri": URL, "api_key": PASSWORD, "rate": 0.1})
    shown = redacted_settings(Namespace(data=Namespace(root=URL), loggers=[inner], weights=None))
    public = {"uri": "http://host/a.tar", "api_key": "...", "rate": 0.1}
    assert shown.data.root == "http://host/a.tar"
    assert (shown.loggers[0].init_args, shown.weights) == (public, None)
    assert inner.init_args["api_key"] == PASSWORD


def test_a_long_text_is_searched_at_once() -> None:
    began = time.process_time()
    for text in ("a" * 300_000, "http://host/" + "a" * 300_000):
        assert redacted_text(f"{text} {URL}") == f"{text} http://host/a.tar"
    assert time.process_time() - began < 10  # an hour, if it grows with the square


@pytest.mark.parametrize("scheme", ["http", "HTTPS", "ftp"])
def test_messages_about_weights_have_no_password(scheme: str) -> None:
    url = f"{scheme}://alice:{PASSWORD}@127.0.0.1:9/a.pth?token={PASSWORD}"
    for find, words in ((find_weights, url), (ModelFile.parse, f"a={url}"), (ModelFile.parse, url)):
        with pytest.raises(ValueError, match="127.0.0.1") as error:
            find(words)
        assert PASSWORD not in str(error.value)


def test_an_index_with_a_password_in_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in (URL, f"pipe:curl {URL}"):
        words = ["index", source, str(tmp_path / "out"), "--split", "train"]
        assert pack(words) == 2
        said = capsys.readouterr().err
        assert "put it into ~/.netrc" in said
        assert PASSWORD not in said
    assert not any(tmp_path.iterdir())


def test_a_password_in_netrc_opens_what_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(tmp_path / "served") as server:
        (server.root / "a").write_bytes(b"content")
        server.login = f"alice:{PASSWORD}"
        with pytest.raises(SourceError, match="HTTP 401"):
            read_source(f"{server.url}/a")
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login alice password {PASSWORD}\n")
        assert read_source(f"{server.url}/a") == b"content"


def test_the_search_finds_what_is_hidden(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    for number in range(3):
        text = b64encode(b"x" * number + PASSWORD.encode() + b"yz")
        (inside / f"base64-{number}").write_bytes(text)
    (inside / "gzip").write_bytes(gzip.compress(PASSWORD.encode()))
    with zipfile.ZipFile(inside / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", PASSWORD * 9)
    (inside / PASSWORD).touch()
    found = leaks({"it": PASSWORD}, [inside], f"said {PASSWORD}")
    names = sorted(f"it in inside/{path.name}" for path in inside.iterdir())
    assert found == sorted([*names, "it in output"])
    assert leaks({"it": "another"}, [inside]) == []


@pytest.mark.slow
def test_nothing_that_the_commands_print_or_write_has_a_secret(place: Place) -> None:
    images = place.work / "images"
    for label, name in enumerate(CLASSES):
        for split in ("train", "val"):
            (images / split / name).mkdir(parents=True)
            image = colour_jpeg(label, np.random.default_rng(label))
            (images / split / name / "a.jpg").write_bytes(image)
    remote = f"https://carol:{SECRETS['password of git']}@elsewhere/repository.git"
    subprocess.run(["git", "init", "-q"], cwd=place.work, check=True)
    git = place.work / ".git"
    subprocess.run(["git", "remote", "add", "origin", remote], cwd=place.work, check=True)
    board = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "boards"}}
    settings = place.given / "mine.yaml"
    settings.write_text(
        yaml.safe_dump(
            {
                "data": {"root": place.root},
                "model": {"weights": place.weights},
                "trainer": {"logger": board, "max_epochs": 2, "profiler": "pytorch"},
            }
        )
    )
    say = place.run
    say("-m", "datamodules.pack", "imagefolder", str(images), "packed")
    index = ("-m", "datamodules.pack", "index")
    said = say(*index, place.shards, str(place.given / "index"))  # has the token, for its owner
    assert "note: the index keeps queries of URLs" in said
    place.train("-c", str(settings), *TINY, "--data.audit_dir", "audit")
    place.train("validate", "--name", "mine", "--data.root", place.root, "--data.workers", "0")
    words = ["--data.root", place.root, "--model.weights", place.weights, "--name", "typed"]
    place.train(*TINY, *words, "--trainer.max_steps", "1")
    place.train("predict", "--model.weights", place.weights, str(images))
    place.train("export", "--name", "mine", "--format", "hf", "exported")
    report = ("-m", "bagnet.evidence", "report", str(images / "val"))
    say(*report, "--checkpoint", place.weights)
    measured = ("--data.root", place.root, "--out", "results", "--gpus", "0", "--wandb")
    say("-m", "bagnet.experiments", "accuracy", "--models", f"a={place.weights}", *measured)
    say("-m", "bagnet.experiments", "report", "--out", "results")
    say("-m", "datamodules.audit", "audit")

    # Mistakes and failures
    wrong = place.root.replace("alice", "mallory")
    place.train(*TINY, "--data.root", wrong, "--name", "a", code=2)
    place.train(*TINY, "--data.root", f"{place.root}/none?{SECRETS['wrong words']}", code=2)
    place.train(*TINY, "--data.batch_size", f"http://a:{SECRETS['wrong words']}@host", code=2)
    # What a command prints itself is up to it, so this one prints nothing.
    command = f"pipe:sh -c 'exit 127' {SECRETS['argument of a command']}"
    for more in ((), ("--data.allow_pipe", "true")):
        place.train(*TINY, "--data.root", command, "--name", "b", *more, code=2)
    for each in ("http", "ftp"):
        url = f"{each}://a:{SECRETS['wrong words']}@127.0.0.1:1/x"
        place.train("predict", "--model.weights", url, str(images), code=2)
        say("-m", "bagnet.experiments", "accuracy", "--models", f"a={url}", *measured, code=2)
    gone = place.weights.replace("first", "none")
    say(*report, "--checkpoint", gone, code=2)
    secret = place.root.replace("/shards", "/shards/train/shard-000000.tar")
    assert "~/.netrc" in say(*index, secret, "refused", code=2)
    start = "from bagnet.run.loggers.wandb_start import start_run\n"
    start += "from pathlib import Path; start_run(Path('online')).finish()"
    online = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "1"}
    say("-c", start, WANDB_MODE="online", **online)
    shutil.rmtree(git)
    assert leaks(SECRETS, place.written, *place.said) == []


@pytest.mark.slow
def test_passwords_in_netrc_are_used(place: Place) -> None:
    words = ("--data.root", place.plain_root, "--name", "a", "--trainer.max_steps", "1")
    place.train(*TINY, *words)
    said = place.train(*TINY, *words[:2], "--name", "b", code=2, NETRC="/dev/null")
    assert "HTTP 401" in said
    assert leaks(SECRETS, place.written, *place.said) == []
