"""Write the page: one HTML file with everything in it.

Texts from outside (names of files and classes) stand in a block of JSON and reach the page as text
nodes only. The content security policy names the page's own script by its hash, so that nothing
else can run, and allows no connection to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from bagnet.evidence.pictures.plots import colour_limit
from bagnet.evidence.report.votes import (
    TOP_CLASSES,
    Picture,
    decisions,
    patch_classes,
    shown_classes,
    thresholds,
)
from bagnet.model.network import BagNet

JPEG_QUALITY = 90


def write_page(
    path: Path,
    pictures: Sequence[Picture],
    class_names: Sequence[str],
    model: BagNet,
    checkpoint: str,
) -> None:
    """Write the page; the file appears complete or not at all.

    Args:
        path: The file; its folder is made.
        pictures: What to show, at least one.
        class_names: One for each class of the network.
        model: For the size and the stride of its patches.
        checkpoint: What the page calls the network's file.
    """
    data = {
        "checkpoint": checkpoint,
        "patch": model.receptive_field,
        "stride": model.stride,
        "names": list(class_names),
        "images": [_image(picture) for picture in pictures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(_html(data), encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _html(data: dict[str, Any]) -> str:
    files = resources.files(__package__)
    html, css, shows, does = (
        files.joinpath(name).read_text(encoding="utf-8")
        for name in ("report.html", "report.css", "report.js", "events.js")
    )
    js = shows + does
    # No "<" in the data: it could end the block or begin another.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(js)}"
    return Template(html).substitute(policy=policy, css=css, js=js, data=text)


def _hash(text: str) -> str:
    """Of an inline block, as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _image(picture: Picture) -> dict[str, Any]:
    """One image's part of the data; arrays are little-endian and in base64."""
    steps = thresholds(picture.evidence)
    decided = decisions(picture.evidence, steps)
    shown = shown_classes(picture, decided)
    patch_logits, patch_tops = patch_classes(picture.evidence)
    # One scale of colours for all classes of an image; weak evidence must stay visible on its image.
    judged = [picture.predicted] if picture.label is None else [picture.predicted, picture.label]
    rows, columns = picture.evidence.shape[1:]
    height, width = picture.pixels.shape[1:]
    return {
        "name": picture.name,
        "height": height,
        "width": width,
        "rows": rows,
        "columns": columns,
        "jpeg": _base64(_jpeg(picture)),
        "true": picture.label,
        "limit": colour_limit([picture.evidence[judged].numpy()]),
        "top": shown[:TOP_CLASSES],
        "thresholds": steps.tolist(),
        "decisions": decided,
        "classes": shown,
        "logits": _floats(picture.logits[shown].numpy()),
        "maps": _floats(picture.evidence[shown].numpy()),
        "patchClasses": _base64(patch_tops.numpy().astype("<i4").tobytes()),
        "patchLogits": _floats(patch_logits.numpy()),
    }


def _jpeg(picture: Picture) -> bytes:
    file = io.BytesIO()
    pixels = picture.pixels.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _floats(values: np.ndarray) -> str:
    return _base64(values.astype("<f4").tobytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
