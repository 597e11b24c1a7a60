"""Tar files that are made to hang or crash who reads them."""

from __future__ import annotations

import tarfile

import pytest

from datamodules.pack.sources.tars import members


def header(name, size=b"", kind=tarfile.REGTYPE):
    """A header with any size, in base 256 if bytes of it are given."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def negative(number):
    return (2**96 + number).to_bytes(12, "big")


def huge(number):
    return b"\x80" + number.to_bytes(11, "big")


def pax(record):
    data = b"%d %s\n" % (len(record) + 4, record)
    return header("x", b"%011o\0" % len(data), tarfile.XHDTYPE) + data.ljust(512, b"\0")


MANY = header("x", b"%011o\0" % 0, tarfile.XHDTYPE) * 5000
DIGITS = header("x", b"%011o\0" % (1 << 20), tarfile.XHDTYPE) + b"1" * (1 << 20)
EXTENDED = bytearray(header("s", kind=tarfile.GNUTYPE_SPARSE))
EXTENDED[482] = 1
EXTENDED[148:156] = b" " * 8
EXTENDED[148:156] = b"%06o\0 " % sum(EXTENDED)


@pytest.mark.parametrize(
    "data",
    [
        header("a") + header("b", negative(-512)),
        header("a") + header("b", negative(-1024), tarfile.GNUTYPE_LONGNAME),
        header("a") + pax(b"size=-1024") + header("b"),
        header("a", huge(2**87 - 1), tarfile.XHDTYPE),
        header("a", huge(2**87 - 1)),
        header("a", huge(1 << 40), tarfile.GNUTYPE_LONGLINK),
        MANY,
        DIGITS,
        bytes(EXTENDED),
    ],
    ids=[
        *("negative", "negative-name", "negative-pax", "overflow", "beyond"),
        *("long-name", "nested", "digits", "sparse"),
    ],
)
def test_hostile_headers_are_one_clear_error(tmp_path, data):
    path = tmp_path / "x.tar"
    path.write_bytes(data + (b"" if data == bytes(EXTENDED) else bytes(10240)))
    with pytest.raises(ValueError, match="x.tar is not a complete, uncompressed tar file"):
        list(members(path))


def test_long_names_and_facts_about_members_are_no_obstacle(tmp_path):
    names = ["a" * 300, "b/" * 200 + "c", "\u00e9" * 150]
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "x.tar", "w", format=kind) as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
        assert [member.name for member in members(tmp_path / "x.tar")] == names
