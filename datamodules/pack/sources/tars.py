"""Lists tar files without unpacking them: where the data of every member lies."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from datamodules.common.errors import printable
from datamodules.common.reading import plain

_MAX_HEADER = 1 << 14
"""The most bytes of a long name and other facts about a member: tarfile's time can grow with the
square."""
_ABOUT_THE_NEXT = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def members(path: Path, start: int = 0, size: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of a tar file, or of a tar of `size` bytes inside another.

    Their `offset_data` counts from the beginning of the file at `path`, not from `start`. Names are
    as in the archive, so they must not be trusted.

    Raises:
        ValueError: The file is not an uncompressed tar, or was cut short or damaged anywhere.
    """
    end = path.stat().st_size if size is None else start + size
    try:
        with open(path, "rb", opener=plain) as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:", tarinfo=Member) as tar:
                after = previous = start
                for member in tar:
                    if member.size < 0 or member.offset_data <= previous:
                        raise tarfile.ReadError(f"{member.name} leads back")
                    after = previous = member.offset_data
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
    except (OSError, MemoryError):
        raise
    except Exception as error:  # tarfile raises anything on damaged bytes
        reason = printable(str(error)) or type(error).__name__
        raise ValueError(
            f"{path} is not a complete, uncompressed tar file ({reason}); "
            "download it again, or decompress it"
        ) from None


class Member(tarfile.TarInfo):
    """Refuses headers that would make tarfile read without end, or fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Member:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name} has the size {member.size}")
        if member.type in _ABOUT_THE_NEXT and member.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member
