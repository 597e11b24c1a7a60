"""Lists tar files without unpacking them: where the data of every member lies."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path


def members(path: Path, start: int = 0, size: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of a tar file, or of a tar of `size` bytes inside another.

    Their `offset_data` counts from the beginning of the file at `path`, not from `start`. Names are
    as in the archive, so they must not be trusted.

    Raises:
        ValueError: The file is not an uncompressed tar, or was cut short anywhere.
    """
    end = path.stat().st_size if size is None else start + size
    try:
        with open(path, "rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                after = start
                for member in tar:
                    after = member.offset_data
                    if member.isreg():
                        after += member.size + -member.size % tarfile.BLOCKSIZE
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} goes past the end")
                    if member.isreg() and not member.issparse():
                        yield member
            # tarfile takes a torn header for the end, so a file cut short could pass for complete.
            file.seek(after)
            if after + tarfile.BLOCKSIZE > end or file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("it has no end mark, so it was cut short")
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is not a complete, uncompressed tar file ({error}); "
            "download it again, or decompress it"
        ) from None
