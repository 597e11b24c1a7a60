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

from PIL import Image
from torch import Tensor

from bagnet.evidence.report import votes
from bagnet.evidence.report.votes import ImageVotes
from bagnet.model.network import BagNet
from datamodules.common.files import write_text

JPEG_QUALITY = 90


def write_report(
    path: Path,
    images: Sequence[ImageVotes],
    class_names: Sequence[str],
    model: BagNet,
    checkpoint: str,
    seen: str,
) -> None:
    """Write the report on some images, at least one; missing folders are made.

    The model tells the size and the stride of the patches. The name of its checkpoint is shown, and
    what it sees of an image.
    """
    data = {
        "checkpoint": checkpoint,
        "seen": seen,
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
        for name in ("report.html", "report.css", "report.js", "heat.js", "events.js")
    )
    js = "".join(scripts)
    # A "<" in the data could end the block or begin another one.
    text = json.dumps(data, separators=(",", ":"), default=_base64).replace("<", "\\u003c")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {_hash(js)}"
    return Template(html).substitute(policy=policy, css=css, js=js, data=text)


def _hash(text: str) -> str:
    """Hash of an inline block, as a content security policy spells it."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _image_data(image: ImageVotes) -> dict[str, Any]:
    """The data of one image; arrays are little-endian."""
    steps = votes.thresholds(image.evidence)
    decided = votes.decisions(image.evidence, steps)
    shown = votes.shown_classes(image, decided)
    count = min(votes.PATCH_CLASSES, len(image.evidence))
    patch_logits, patch_classes = image.evidence.permute(1, 2, 0).topk(count)
    return {
        "name": image.name,
        "height": image.pixels.shape[1],
        "width": image.pixels.shape[2],
        "rows": image.evidence.shape[1],
        "columns": image.evidence.shape[2],
        "jpeg": _jpeg(image.pixels),
        "true": image.label,
        "limit": image.limit,
        "top": shown[: votes.TOP_CLASSES],
        "thresholds": steps.tolist(),
        "decisions": decided,
        "classes": shown,
        "logits": image.logits[shown].numpy().astype("<f4").tobytes(),
        "maps": image.evidence[shown].numpy().astype("<f4").tobytes(),
        "patchClasses": patch_classes.numpy().astype("<i4").tobytes(),
        "patchLogits": patch_logits.numpy().astype("<f4").tobytes(),
        "dense": None if image.dense is None else vars(image.dense),
    }


def _jpeg(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
