"""Finds secrets in whatever a program wrote: as they are, quoted, in base64, in archives."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote


def leaks(secrets: Mapping[str, str], folders: Iterable[Path], *said: str) -> list[str]:
    """Where secrets are: in files below the folders, in the names of these, and in outputs.

    Args:
        secrets: What each is, and the secret itself.
        folders: Searched with all that is in them.
        said: What the programs printed.
    """
    looks = {name: set(_looks(secret)) for name, secret in secrets.items()}
    places = [("output", text.encode()) for text in said]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            places.append((str(path.relative_to(folder.parent)), str(path).encode()))
            if path.is_file() and not path.is_symlink():
                places += [(places[-1][0], each) for each in _contents(path.read_bytes())]
    found = {
        f"{name} in {place}"
        for place, content in places
        for name, each in looks.items()
        if any(look in content for look in each)
    }
    return sorted(found)


def _looks(secret: str) -> Iterator[bytes]:
    """How a secret may look."""
    yield secret.encode()
    yield quote(secret, safe="").encode()
    for offset in range(3):  # in its first and last characters, base64 has bytes of others, too
        text = b64encode(bytes(offset) + secret.encode()).rstrip(b"=")
        yield text[[0, 2, 3][offset] : -1]


def _contents(data: bytes) -> Iterator[bytes]:
    """A file's bytes, and what is compressed in it."""
    yield data
    with suppress(OSError, EOFError, zlib.error):
        yield gzip.decompress(data)
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            yield archive.read(name)
