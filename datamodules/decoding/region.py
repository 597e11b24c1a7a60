"""Decodes a rectangle of a JPEG with `region.c`, which is compiled on first use.

No package has a decoder that reads only a part of an image. If this one cannot be compiled (no C
compiler, no libjpeg-turbo), images are decoded whole, to the same pixels.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg

from datamodules.common.files import replacing

_SOURCE = Path(__file__).with_name("region.c")

_INSTALL = "install a C compiler and libjpeg-turbo (Debian: apt-get install gcc libjpeg-dev)"


class Region(NamedTuple):
    """A rectangle of an image, in pixels from its upper left corner."""

    left: int
    top: int
    width: int
    height: int


class NotAvailable(Exception):
    """Says why this machine does not have the decoder, and how to get it."""


def decode_region(data: bytes, region: Region) -> np.ndarray | None:
    """Decode a rectangle of a JPEG.

    Returns:
        uint8 (height, width, 3), equal to the bit to that part of the whole image. None if the
        whole has to be decoded, because the file is not a plain JPEG (but progressive, CMYK,
        another format), has the slightest flaw, or does not contain the region, or because this
        machine does not have the decoder.
    """
    function = _function()
    if isinstance(function, NotAvailable):
        return None
    pixels = np.empty((region.height, region.width, 3), np.uint8)
    return pixels if function(data, len(data), *region, pixels.ctypes.data) else None


def why_not() -> str | None:
    """Compile the decoder, if necessary; returns why that fails and the remedy, or None."""
    function = _function()
    return str(function) if isinstance(function, NotAvailable) else None


@cache
def _function() -> Callable[..., int] | NotAvailable:
    """The function of `region.c`, after a check in this process that its pixels are right."""
    try:
        function = _load(_compiled())
        _check(function)
    except NotAvailable as reason:
        return reason
    return function


def _compiled() -> Path:
    """The library in the user's cache folder. Several processes may make it at the same time."""
    command = [*_compiler(), "-O2", "-shared", "-fPIC", "-x", "c", "-"]
    prefix = Path(sys.prefix)
    if (prefix / "include" / "jpeglib.h").exists():  # a conda environment
        command += [f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib"]
    command += ["-ljpeg"]
    source = _SOURCE.read_bytes()
    # Machines of several kinds may share a home.
    kind = [*command, platform.machine(), *platform.libc_ver()]
    name = hashlib.sha256(source + repr(kind).encode()).hexdigest()[:32]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bagnet"
        library = folder / f"region-{name}.so"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(f"others may write to {folder}")  # and so choose what we run
        if not library.exists():
            with replacing(library) as temporary:
                _compile([*command, "-o", str(temporary)], source)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise NotAvailable(
            f"the compiled file cannot be stored ({error}); set XDG_CACHE_HOME to a folder of yours"
        ) from None
    return library


def _compiler() -> list[str]:
    command = (os.environ.get("CC") or "cc").split()
    if shutil.which(command[0]) is None:
        raise NotAvailable(f"there is no C compiler {command[0]!r}; {_INSTALL}")
    return command


def _compile(command: list[str], source: bytes) -> None:
    run = subprocess.run(command, input=source, capture_output=True)
    if run.returncode:
        lines = run.stderr.decode(errors="replace").splitlines() or ["no message"]
        cause = next((line for line in lines if "error" in line), lines[-1])
        raise NotAvailable(f"{command[0]!r} cannot compile the decoder ({cause}); {_INSTALL}")


def _load(library: Path) -> Callable[..., int]:
    try:
        function = ctypes.CDLL(str(library)).decode_region
    except (OSError, AttributeError) as error:
        raise NotAvailable(f"{library} cannot be loaded ({error}); {_INSTALL}") from None
    number = ctypes.c_uint
    function.argtypes = [ctypes.c_char_p, ctypes.c_ulong, *[number] * 4, ctypes.c_void_p]
    function.restype = ctypes.c_int
    return function


def _check(function: Callable[..., int]) -> None:
    """Compare its pixels with those of whole images, one for each kind of chroma subsampling."""
    noise = np.random.default_rng(0).integers(0, 256, (75, 93, 3), np.uint8)
    region = Region(33, 35, 31, 17)
    for sampling in ("444", "422", "420", "440", "411"):
        data = simplejpeg.encode_jpeg(noise, colorsubsampling=sampling)
        whole = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
        found = np.empty((region.height, region.width, 3), np.uint8)
        read = function(data, len(data), *region, found.ctypes.data)
        expected = whole[region.top :, region.left :][: region.height, : region.width]
        if not (read and np.array_equal(found, expected)):
            raise NotAvailable(
                "this machine's libjpeg-turbo gives other pixels than the one in simplejpeg; "
                "install its latest version"
            )
