"""Where a shard is: a path, a URL, or a command that prints it (`pipe:`)."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"(pipe|file):|([A-Za-z][A-Za-z0-9+.-]*)(?:://|::)")
# With a longest scheme, or the time would grow with the square of a text without any.
_BEGIN = r"[A-Za-z][A-Za-z0-9+.-]{0,40}://"
_URL = re.compile(rf"{_BEGIN}(?:(?!{_BEGIN})[^\s'\"])*")
_SECRET = re.compile(r"(?i)(api_?key|token|secret|passw(or)?d|credentials?)$")
"""Names of settings whose values are for nobody else, such as `api_key` of some loggers."""


def scheme_of(location: str) -> str:
    """`https`, `pipe`, ...; empty for a path."""
    match = _SCHEME.match(location)
    return (match[1] or match[2]).lower() if match else ""


@lru_cache(4096)  # called for each sample
def is_remote(location: str) -> bool:
    """Whether it is anything but a path or a `file:` URL."""
    return scheme_of(location) not in ("", "file")


@lru_cache(4096)
def local_path(location: str) -> str:
    """The path that a local location means.

    Raises:
        ValueError: It is remote, or a file of another host.
    """
    if is_remote(location):
        raise ValueError(f"{redacted(location)} is not a local path")
    if not scheme_of(location):
        return location
    path = location[len("file:") :]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{location} is on the host {host!r}; write file:///PATH for this one")
        path = slash + path
    return unquote(path)


def redacted_words(words: Sequence[str]) -> list[str]:
    """The words of a command for logs, without what may be secret in their URLs and settings."""
    shown, flag = [], ""
    for word in words:
        name, sign, value = word.partition("=") if word.startswith("--") else (flag, "", word)
        flag = "" if sign or not word.startswith("-") else word
        hidden = "..." if value and _SECRET.search(name) else _redacted_value(value)
        shown.append(f"{name}={hidden}" if sign else _redacted_value(word) if flag else hidden)
    return shown


def redacted_settings(value: Any, name: str = "") -> Any:
    """Settings of any shape for logs, without what may be secret in them."""
    if isinstance(value, Namespace):
        return type(value)(**redacted_settings(vars(value)))
    if isinstance(value, dict):
        return {key: redacted_settings(each, str(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [redacted_settings(each, name) for each in value]
    if not isinstance(value, str):
        return value
    return "..." if value and _SECRET.search(name) else _redacted_value(value)


def redacted_text(text: str) -> str:
    """A text with all of its URLs redacted, such as a message of another library."""
    return _URL.sub(lambda match: redacted(match[0]), text)


def _redacted_value(value: str) -> str:
    if is_remote(value):
        return redacted(value)
    head, pipe, command = value.partition("pipe:")  # in a list or a dict, to its end
    return redacted_text(head) + (redacted(pipe + command) if pipe else "")


def has_password(location: str) -> bool:
    """Whether there is a password in a URL, or in one of a command."""
    return re.search(r"://[^/\s@]*:[^/\s@]*@", location) is not None


def redacted(location: str) -> str:
    """The location for logs and errors, without user, password, query and arguments."""
    if not is_remote(location):
        return location
    scheme, _, rest = location.partition(":")
    if scheme == "pipe":
        word = rest.split(maxsplit=1)[0] if rest.strip() else ""
        # A word such as TOKEN=... or "$(..." is not a program.
        return f"pipe:{word if re.fullmatch(r'[A-Za-z0-9_./+-]+', word) else ''} ..."
    if rest.startswith(":"):  # fsspec's chains, such as simplecache::s3://bucket/key
        return f"{scheme}::{redacted(rest[1:])}"
    try:
        url = urlsplit(location)
        _ = url.port  # fails if an unquoted slash in the password splits the URL too early
    except ValueError:
        return f"{scheme}://..."
    return f"{scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
