"""Finds the weights that a user names: a file, a run, a network, a URL, or a repository of the Hub.

What is here comes first, so a run called `bagnet33` is found before the authors' weights. What is
elsewhere is fetched once, into the caches of torch.hub and `huggingface_hub`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import torch

from bagnet.model.config import CONFIG, WEIGHTS
from bagnet.model.files import read_saved
from bagnet.model.registry import TORCHVISION
from bagnet.run.folder import Run
from datamodules.common.files import locked, replacing, user_path
from datamodules.remote.urls import has_password, is_remote, redacted, redacted_text

_AUTHORS = (
    "https://bitbucket.org/wielandbrendel/bag-of-feature-pretrained-models/raw/"
    "249e8fa82c0913623a807d9d35eeab9da7dcc2a8/"
)
AUTHORS = {
    "bagnet9": f"{_AUTHORS}bagnet8-34f4ccd2.pth.tar",
    "bagnet17": f"{_AUTHORS}bagnet16-105524de.pth.tar",
    "bagnet33": f"{_AUTHORS}bagnet32-2ddd53ed.pth.tar",
}
"""The files of Brendel & Bethge; their names say a pixel less."""
PATIENCE = 60.0
"""Seconds to wait for the next bytes of a download."""
LARGEST = 16 << 30
"""The most bytes of a download; the largest that is published by its name, VGG-16, has 0.5e9."""
_HASH = re.compile(r"-([0-9a-f]{8,})\.")  # as torch.hub names files: the beginning of the SHA-256
_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?")


def find_weights(text: str | Path, warn: bool = True) -> Path:
    """The file that a user means.

    Args:
        text: One of these; the first that exists is taken:
            a URL, http or https;
            `hf://ORG/NAME`, a repository with `model.safetensors`, or `hf://ORG/NAME@REVISION/FILE`
            for another revision or file;
            the path of a file;
            the folder of a run or its name, which stand for its best checkpoint, or its last one if
            it has no validation (runs are in the folder that `BAGNET_RUNS` names, or else in
            `runs`);
            a folder with `model.safetensors`;
            the name of a network, for the weights that its authors or torchvision published.
        warn: Warn if something here has the name of published weights.

    Raises:
        ValueError: There is no such thing, or it cannot be fetched.
    """
    words = str(text)
    if words.startswith(("http://", "https://")):
        if has_password(words):
            raise ValueError(
                f"{redacted(words)} has a password in it, which is not sent: download it with "
                "another program (curl --netrc), and give the file"
            )
        return _downloaded(words, redacted(words))
    if words.startswith("hf://"):
        return _from_hub(words)
    if is_remote(words):
        raise ValueError(f"{redacted(words)} is neither http(s):// nor hf://: give the file")
    path = user_path(text)
    folders = _folders(path)
    if file := path if path.is_file() else next(filter(None, map(_in_folder, folders)), None):
        if warn and (url := published(words)):
            message = f"{words} is {file} here; for the published weights, give {url}"
            warnings.warn(message, stacklevel=2)
        return file
    if url := published(words):
        return _downloaded(url, words)
    if folders:
        raise ValueError(f"{folders[-1]} has no checkpoint: give the folder of a run, or a file")
    raise ValueError(
        f"there is neither a file {path} nor a run {_runs() / path}: give a file of weights, the "
        f"name of a run, a URL, or a network with published weights ({', '.join(AUTHORS)}, "
        f"{', '.join(TORCHVISION)})"
    )


def find_run(name: str, runs_dir: Path | None = None) -> Path:
    """The checkpoint of a run; see `find_weights`.

    Args:
        name: Name of the run, or its folder.
        runs_dir: The folder of all runs, if it is another one.

    Raises:
        ValueError: There is no such run, or it has no checkpoint.
    """
    runs = user_path(runs_dir) if runs_dir else None
    folders = _folders(user_path(name), runs)
    if file := next(filter(None, map(_in_folder, folders)), None):
        return file
    if folders:
        raise ValueError(f"{folders[-1]} has no checkpoint: give the folder of a run")
    raise ValueError(f"there is no run {(runs or _runs()) / name}: give the name of another one")


def published(name: str) -> str | None:
    """The URL of a network's published weights for ImageNet, with which the paper compares."""
    if name in TORCHVISION:
        from torchvision.models import get_model_weights  # takes a second

        url: str = get_model_weights(name)["IMAGENET1K_V1"].url
        return url
    return AUTHORS.get(name)


def _runs() -> Path:
    """The folder of all runs."""
    return user_path(os.environ.get("BAGNET_RUNS") or "runs")


def _folders(path: Path, runs: Path | None = None) -> list[Path]:
    """The folders that may be the run; one of images may have the name of a run."""
    places = [runs / path] if runs else [path, _runs() / path]
    return [folder for folder in places if folder.is_dir()]


def _in_folder(folder: Path) -> Path | None:
    """The weights in the folder of a run, or in one as Hugging Face has it."""
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    try:
        run = Run(folder.resolve().name, folder.resolve().parent)
    except ValueError:  # no run has such a name
        return None
    return folder / run.weights.relative_to(run.folder) if run.weights.is_file() else None


def _downloaded(url: str, words: str) -> Path:
    """The file of a URL, which is fetched unless it is in the cache.

    Of several processes, one fetches it and the others wait. It is checked before it appears.

    Args:
        url: The URL.
        words: What the user called it, for messages.
    """
    path = _place(url)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):  # some network disks have no locks
                held.enter_context(locked(path.with_name(f".{path.name}.lock")))
            if not path.is_file():
                print(f"downloading {redacted(url)} to {path}", file=sys.stderr, flush=True)
                with replacing(path) as unfinished:
                    _download(url, words, unfinished, path)
    except OSError as error:
        raise ValueError(
            f"{words} cannot be kept at {path} ({_reason(error)}): set TORCH_HOME to another folder"
        ) from error
    return path


def _download(url: str, words: str, unfinished: Path, path: Path) -> None:
    from rich.console import Console

    from datamodules.common.progress import progress
    from datamodules.remote.sources import BLOCK, SourceError, open_source

    digest, count = hashlib.sha256(), 0
    try:
        with (
            unfinished.open("wb") as file,
            open_source(url, timeout=PATIENCE) as source,
            progress(Console(stderr=True), "MB", None, "MB") as show,
        ):
            while block := source.read(BLOCK):
                file.write(block)
                digest.update(block)
                count += len(block)
                show(count / 1e6)
                if count > LARGEST:
                    raise SourceError(redacted(url), f"it has more than {LARGEST:,} bytes")
        expected = _HASH.search(path.name)
        if expected and not digest.hexdigest().startswith(expected[1]):
            cause = f"its sha256 begins with {digest.hexdigest()[:8]} and not {expected[1]}"
            raise SourceError(redacted(url), cause)
    except SourceError as error:
        raise ValueError(
            f"{words} cannot be downloaded ({error.cause}): download {redacted(url)} "
            f"elsewhere, and put it at {path}"
        ) from None
    try:
        read_saved(unfinished, tensors=False)  # without a length, a cut connection is an end
    except ValueError as error:
        raise ValueError(str(error).replace(str(unfinished), redacted(url))) from error


def _place(url: str) -> Path:
    """Where the file of a URL is cached: as torch.hub does it, if its name has a hash.

    torch.hub would take one file for another if only their names are the same.
    """
    cache, parts = Path(torch.hub.get_dir(), "checkpoints"), urlsplit(url)
    *folders, name = [part for part in parts.path.split("/") if part not in ("", ".", "..")] or [""]
    if _HASH.search(name):
        return cache / name
    query = [hashlib.sha256(parts.query.encode()).hexdigest()[:8]] if parts.query else []
    return cache.joinpath(parts.hostname or "", *folders, *query, name or "weights")


def _from_hub(words: str) -> Path:
    """A file of a repository of the Hugging Face Hub, in the cache of `huggingface_hub`."""
    parts = _HUB.fullmatch(words)
    if parts is None:
        raise ValueError(f"{words} is not hf://ORG/NAME, hf://ORG/NAME@REVISION or with /FILE")
    repository, revision, file = parts.groups()
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(f"{words} needs huggingface_hub: pip install huggingface_hub") from None
    wanted = [file] if file else [CONFIG, WEIGHTS]
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=wanted)
    except Exception as error:  # libraries for networks raise anything
        raise ValueError(
            f"{words} cannot be downloaded ({_reason(error)}): log in if it is private (hf auth "
            f"login); without a network, download it elsewhere (hf download {repository}) and give "
            "the folder"
        ) from error
    path = Path(folder, file or WEIGHTS)
    if not path.is_file():
        raise ValueError(f"{words} has no {path.name}: name its file, hf://{repository}/FILE")
    return path


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return redacted_text(str(error).strip() or type(error).__name__).splitlines()[0][:200]
