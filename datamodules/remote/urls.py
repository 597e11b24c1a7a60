"""Where a shard is: a path, a URL, or a command that prints it (`pipe:`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"(pipe|file):|([A-Za-z][A-Za-z0-9+.-]*)(?:://|::)")


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
    """The words of a command for logs, with the passwords in their URLs removed."""
    # A flag and its value may be one word.
    parts = [word.partition("=") if word.startswith("--") else ("", "", word) for word in words]
    return [f"{flag}{sign}{redacted(value)}" for flag, sign, value in parts]


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
