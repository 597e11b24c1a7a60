"""Damages archives that still look whole: tars with right checksums, zips with right CRCs."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from random import Random

from tests.soak.fuzz.mutations import Mutation, some_bytes

_BLOCK = tarfile.BLOCKSIZE
_NAMES = (
    b"/etc/escaped",
    b"../../escaped",
    b"",
    b".",
    b"a/",
    b"\0",
    b"\xff\xfe.jpg",
    b"a\nb.jpg",
    b"0.cls",
)
_NAMES += (b"0.jpg", b"." * 99, b"a" * 99, b"\x1b[31m.jpg", b"train/../../x.jpg", b"n01440764.tar")
_SIZES = (b"-0000000001\0", b"00000000000\0", b"77777777777\0", b"           \0", b"99999999999\0")
_SIZES += (
    b"\xff" * 12,
    b"\x80" + b"\xff" * 11,
    b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7,
    b"1\0",
    b"1_0\0",
)
_SIZES += (b"\xff" * 10 + b"\xfe\0", b"00000001000\0", b"+0000000777\0")
_PAX = (
    "size=-512",
    "size=99999999999999999999",
    "size=1e9",
    "size=512",
    "size=",
    "path=../../escaped",
)
_PAX += ("path=", "path=" + "x" * 5000, "path=a\nb", "GNU.sparse.major=1", "GNU.sparse.size=-1")
_PAX += ("GNU.sparse.map=0,99999999999", "GNU.sparse.numblocks=1", "mtime=nan", "hdrcharset=BINARY")
_PAX += (
    "GNU.sparse.realsize=99999999999",
    "GNU.sparse.name=0.jpg",
    "linkpath=/etc/passwd",
    "uid=-1",
)


def tar_members(data: bytes, rng: Random) -> bytes:
    """Change headers of a tar with their checksums, add, repeat, move and remove members."""
    members = _members(data)
    end = bytes(2 * _BLOCK)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, other = rng.randrange(len(members)), rng.randrange(len(members))
        header, content = members[at]
        kind = rng.randrange(10)
        if kind < 4:
            members[at] = _changed_header(header, rng), content
        elif kind == 4:
            members.insert(other, (header, content))
        elif kind == 5:
            members[at], members[other] = members[other], members[at]
        elif kind == 6:
            members.insert(at, _pax(rng))
        elif kind == 7:
            members[at] = header, content[:: rng.choice((1, 2))][: rng.randrange(len(content) + 1)]
        elif kind == 8:
            members[at] = header, some_bytes(content, rng)
        else:
            end = rng.choice(
                (b"", bytes(_BLOCK), bytes(40 * _BLOCK), b"\1" * _BLOCK, rng.randbytes(_BLOCK))
            )
    return b"".join(part for member in members for part in member) + end


def gzipped(mutation: Mutation) -> Mutation:
    """Damage what is in a gzip file, or sometimes the file itself."""

    def mutated(data: bytes, rng: Random) -> bytes:
        if rng.random() < 0.2:
            return some_bytes(data, rng)
        return gzip.compress(mutation(gzip.decompress(data), rng), 1, mtime=0)

    return mutated


def in_tar(name: str, mutation: Mutation) -> Mutation:
    """Damage a member of a tar."""

    def mutated(data: bytes, rng: Random) -> bytes:
        output = io.BytesIO()
        with (
            tarfile.open(fileobj=io.BytesIO(data)) as old,
            tarfile.open(fileobj=output, mode="w") as new,
        ):
            for member in old:
                file = old.extractfile(member)
                content = file.read() if file else b""
                if member.name.endswith(name):
                    content = mutation(content, rng)
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
        return output.getvalue()

    return mutated


def _members(data: bytes) -> list[tuple[bytes, bytes]]:
    """Header and content (in whole blocks) of each member of a sound tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        spans = [
            (m.offset, m.offset_data, m.offset_data + -(-m.size // _BLOCK) * _BLOCK) for m in tar
        ]
    return [(data[begin:middle], data[middle:end]) for begin, middle, end in spans]


def _changed_header(header: bytes, rng: Random) -> bytes:
    changed = bytearray(header)
    kind = rng.randrange(5)
    if kind == 0:
        changed[:100] = rng.choice(_NAMES).ljust(100, b"\0")
    elif kind == 1:
        changed[124:136] = rng.choice(_SIZES).ljust(12, b"\0")
    elif kind == 2:
        changed[156:157] = rng.choice(b"0123456789LKxXgSVMDN\0?").to_bytes(1, "big")
    elif kind == 3:
        changed[157:257] = rng.choice(_NAMES).ljust(100, b"\0")
    else:
        at = rng.randrange(_BLOCK)
        changed[at : at + 8] = rng.choice((b"\xff" * 8, bytes(8), b"99999999", rng.randbytes(8)))
    return _with_checksum(changed[:_BLOCK]) + bytes(changed[_BLOCK:])


def _with_checksum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _pax(rng: Random) -> tuple[bytes, bytes]:
    """A header with facts about the next member, or about all that follow."""
    records = b""
    for text in rng.sample(_PAX, rng.choice((1, 2, 3))):
        length = len(text) + 2 + len(str(len(text) + 4))
        number = rng.choice((str(length),) * 6 + ("0", "-5", "9" * 30, "x"))
        records += f"{number} {text}\n".encode()
    header = tarfile.TarInfo("PaxHeader")
    header.type = rng.choice(
        (tarfile.XHDTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
    )
    header.size = rng.choice((len(records),) * 5 + (0, len(records) - 1, 1 << 33))
    return header.tobuf(tarfile.GNU_FORMAT), records + bytes(-len(records) % _BLOCK)


def zip_parts(pickles: Mutation) -> Mutation:
    """Change a zip of torch, with right checksums.

    Args:
        pickles: Damages its pickle.
    """

    def mutated(data: bytes, rng: Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = [(part.filename, archive.read(part)) for part in archive.infolist()]
        method, kind = zipfile.ZIP_STORED, rng.randrange(10)
        at = rng.randrange(len(parts))
        name, content = parts[at]
        if kind < 5:
            parts = [(n, pickles(c, rng) if n.endswith(".pkl") else c) for n, c in parts]
        elif kind == 5:
            del parts[at]
        elif kind == 6:
            parts[at] = name, some_bytes(content, rng)
        elif kind == 7:
            parts[at] = (
                rng.choice(("../../escaped", "/escaped", "", "x/../data.pkl", name.upper())),
                content,
            )
        elif kind == 8:
            method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
            parts[at] = name, rng.choice((content, bytes(50_000_000)))
        output = io.BytesIO()
        with zipfile.ZipFile(output, "w", method) as archive:
            for name, content in parts:
                part = zipfile.ZipInfo(name or "x")
                part.compress_type = method
                archive.writestr(part, content)
        return zip_table(output.getvalue(), rng) if kind == 9 else output.getvalue()

    return mutated


def zip_table(data: bytes, rng: Random) -> bytes:
    """Change a number in the archive's table: an offset, a size, a method, a flag or a checksum."""
    changed = bytearray(data)
    entries, at = [], data.find(b"PK\1\2")
    while at >= 0:
        entries.append(at)
        at = data.find(b"PK\1\2", at + 4)
    if not entries:
        return some_bytes(data, rng)
    entry = rng.choice(entries)
    place, size = rng.choice(
        ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4))
    )
    other = rng.choice(entries)
    value = rng.choice((data[other + place : other + place + size], b"\xff" * size, bytes(size)))
    changed[entry + place : entry + place + size] = value
    return bytes(changed)
