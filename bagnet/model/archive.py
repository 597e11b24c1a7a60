"""The zip archives that torch writes, before torch reads them. Imports nothing heavy."""

from __future__ import annotations

import zipfile
from pathlib import Path


def check_archive(path: Path) -> None:
    """Check that an archive is no larger inside than the file: torch stores tensors as they are.

    Raises:
        ValueError: It is, so it was not written by torch; reading it could fill the memory.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    stored = all(
        part.compress_type == zipfile.ZIP_STORED and part.compress_size == part.file_size
        for part in parts
    )
    if not stored or sum(part.file_size for part in parts) > path.stat().st_size:
        raise ValueError("its parts are compressed, or larger than the file")
