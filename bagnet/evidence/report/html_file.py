"""Writes the report: one HTML file with everything in it.

Names of files and classes are untrusted: they are in a block of JSON and reach the page as text
nodes only. The content security policy names the script by its hash, so that nothing else can run,
and allows no connections.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
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
    ImageVotes,
    decisions,
    patch_classes,
    shown_classes,
    thresholds,
)
from bagnet.model.network import BagNet
from datamodules.common.files import write_text

JPEG_QUALITY = 90


def write_report(
    path: Path,
    images: Sequence[ImageVotes],
    class_names: Sequence[str],
    model: BagNet,
    checkpoint: str,
) -> None:
    """Write the report.

    Args:
        path: The file to write; missing folders are made.
        images: The images and their votes, at least one.
        class_names: A name for each class of the network.
        model: The network, for the size and the stride of its patches.
        checkpoint: Name of the network's file, to show.
    """
    data = {
        "checkpoint": checkpoint,
        "patch": model.receptive_field,
        "stride": model.stride,
        "names": list(class_names),
        "images": [_image_data(image) for image in images],
    }
    write_text(_html(data), path)


def _html(data: dict[str, Any]) -> str:
    files = resources.files(__package__)
    html, css, *scripts = (
        files.joinpath(name).read_text(encoding="utf-8")
        for name in ("report.html", "report.css", "report.js", "events.js")
    )
    js = "".join(scripts)
    # A "<" in the data could end the block or begin another one.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(js)}"
    return Template(html).substitute(policy=policy, css=css, js=js, data=text)


def _hash(text: str) -> str:
    """Hash of an inline block, as a content security policy spells it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _image_data(image: ImageVotes) -> dict[str, Any]:
    """The data of one image; arrays are little-endian and in base64."""
    steps = thresholds(image.evidence)
    decided = decisions(image.evidence, steps)
    shown = shown_classes(image, decided)
    patch_logits, patch_tops = patch_classes(image.evidence)
    # One scale of colours for all classes of an image, so that weak evidence stays visible on it.
    judged = [image.predicted] if image.label is None else [image.predicted, image.label]
    rows, columns = image.evidence.shape[1:]
    height, width = image.pixels.shape[1:]
    return {
        "name": image.name,
        "height": height,
        "width": width,
        "rows": rows,
        "columns": columns,
        "jpeg": _base64(_jpeg(image)),
        "true": image.label,
        "limit": colour_limit([image.evidence[judged].numpy()]),
        "top": shown[:TOP_CLASSES],
        "thresholds": steps.tolist(),
        "decisions": decided,
        "classes": shown,
        "logits": _floats(image.logits[shown].numpy()),
        "maps": _floats(image.evidence[shown].numpy()),
        "patchClasses": _base64(patch_tops.numpy().astype("<i4").tobytes()),
        "patchLogits": _floats(patch_logits.numpy()),
    }


def _jpeg(image: ImageVotes) -> bytes:
    file = io.BytesIO()
    pixels = image.pixels.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _floats(values: np.ndarray) -> str:
    return _base64(values.astype("<f4").tobytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
