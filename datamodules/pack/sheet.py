"""Draws a sheet of images, a row for each class."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.common.files import replacing
from datamodules.decoding.images import UnreadableImage
from datamodules.decoding.transforms import EvalTransform
from datamodules.remote.sources import SourceError, opened_anywhere
from datamodules.shards.manifest import Manifest

ROWS, COLUMNS = 20, 8
CELL, GAP, TEXT = 96, 4, 220  # pixels
_WHITE, _BLACK, _GREY, _MISSING = (255, 255, 255), (0, 0, 0), (110, 110, 110), (200, 200, 200)


def draw_sheet(manifest: Manifest, path: Path) -> str:
    """Write the sheet; returns what it shows.

    Args:
        manifest: The split that is shown.
        path: The PNG.
    """
    labels = np.asarray(manifest.samples["label"])
    present = np.unique(labels[(labels >= 0) & (labels < manifest.num_classes)])
    chosen = present[np.linspace(0, len(present) - 1, min(ROWS, len(present))).astype(int)]
    step = CELL + GAP
    sheet = Image.new("RGB", (TEXT + COLUMNS * step, GAP + len(chosen) * step), _WHITE)
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(chosen.tolist()):
        top = GAP + row * step
        ids = np.flatnonzero(labels == label)
        _write(draw, top, manifest.class_names[label], manifest.classes[label], len(ids))
        for column, sample_id in enumerate(ids[:COLUMNS].tolist()):
            sheet.paste(_cell(manifest, sample_id), (TEXT + column * step, top))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")
    number = f"{len(chosen)} of {len(present):,}" if len(chosen) < len(present) else len(chosen)
    return f"{path} shows {number} classes of {manifest.root.name}"


def read_image(manifest: Manifest, sample_id: int) -> bytes:
    """Read a sample's bytes, also from a shard elsewhere; none if a command prints the shard.

    Raises:
        SourceError: It cannot be read.
        OSError: The local disk fails.
    """
    sample = manifest.sample(sample_id)
    location = manifest.location(sample.shard)
    if location.startswith("pipe:"):
        return b""
    with opened_anywhere(location) as (file, _):
        file.seek(sample.offset)
        return file.read(sample.size)


def _write(draw: ImageDraw.ImageDraw, top: int, name: str, identity: str, count: int) -> None:
    lines = textwrap.wrap(name, 25, max_lines=3, placeholder="...")
    draw.multiline_text((2 * GAP, top), "\n".join(lines), _BLACK, _font(14))
    about = [f"{count:,} images"]
    if identity != name:
        about.insert(0, textwrap.shorten(identity, 30, placeholder="..."))
    top += 18 * len(lines) + 4
    draw.multiline_text((2 * GAP, top), "\n".join(about), _GREY, _font(11))


def _font(size: int) -> ImageFont.FreeTypeFont:
    # It has more letters than PIL's own.
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _cell(manifest: Manifest, sample_id: int) -> Image.Image:
    """The middle of an image, as validation sees it; grey if it cannot be read."""
    try:
        pixels = EvalTransform(CELL, CELL)(read_image(manifest, sample_id))
    except (UnreadableImage, SourceError, OSError):
        return Image.new("RGB", (CELL, CELL), _MISSING)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
