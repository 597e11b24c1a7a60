"""Small images, trees and tars, and what the packer makes of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.pack.__main__ import main
from datamodules.shards.manifest import Manifest

REPOSITORY = Path(__file__).parents[3]


def image(seed, kind="JPEG", size=8):
    """The bytes of an image file with random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tar_of(members, mode="w"):
    """The bytes of a tar file of (name, bytes)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])
    return path


def pack(*words, workers=1):
    return main([*map(str, words), "--workers", str(workers)])


def refused(capsys, *words):
    """Pack, which must end with one line of an error; returns it."""
    capsys.readouterr()
    assert pack(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def content(folder):
    """The bytes of all files, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def images(folder):
    """Key -> (image, class), read at the manifest's offsets."""
    manifest = Manifest.load(folder)
    found = {}
    for sample in map(manifest.sample, range(manifest.num_samples)):
        data = (folder / sample.shard.name).read_bytes()[sample.offset :][: sample.size]
        found[sample.key] = (data, manifest.classes[sample.label])
    assert len(found) == manifest.num_samples
    return found
