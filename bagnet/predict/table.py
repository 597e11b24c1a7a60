"""The table: the top classes of each image, and where its strongest evidence lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from bagnet.model.card import card_of
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from bagnet.predict.images import Seen, in_image
from datamodules.common.files import replacing

TOP = 5
"""Classes of an image; fewer if the network has fewer."""

_EVIDENCE = {
    "evidence_logit": pa.float32(),
    "evidence_top": pa.int32(),
    "evidence_left": pa.int32(),
    "evidence_bottom": pa.int32(),
    "evidence_right": pa.int32(),
}


@torch.inference_mode()
def predict(model: nn.Module, images: Sequence[Seen]) -> pa.Table:
    """Predict a batch of images, a row each.

    Args:
        model: The network, in evaluation mode.
        images: What it sees of each.

    Raises:
        ValueError: The logits are not finite.
    """
    pixels = torch.stack([image.pixels for image in images])
    x = normalize(pixels.to(next(model.parameters()).device))
    evidence = model.logits_map(x) if isinstance(model, BagNet) else None
    logits = model(x) if evidence is None else evidence.mean((2, 3))
    if not logits.isfinite().all():
        raise ValueError(
            "the network's logits are not finite: its weights are damaged, or its training diverged"
        )
    # Among equal logits the lower class comes first, as in `rank_of_label`.
    top = logits.sort(dim=1, descending=True, stable=True).indices[:, :TOP]
    probabilities = logits.softmax(1).gather(1, top).cpu().numpy()
    card = card_of(model)
    ids = card.classes or tuple(map(str, range(logits.shape[1])))
    names = card.class_names or ids
    columns: dict[str, Any] = {"file": [_text(image.file) for image in images]}
    for rank, classes in enumerate(top.T.tolist()):
        columns[f"class_{rank + 1}"] = [ids[number] for number in classes]
        columns[f"name_{rank + 1}"] = [names[number] for number in classes]
        columns[f"probability_{rank + 1}"] = probabilities[:, rank]
    rows: list[tuple[float | None, ...]] = [(None,) * len(_EVIDENCE)] * len(images)
    if isinstance(model, BagNet) and evidence is not None:
        rows = _strongest(model, evidence, top[:, 0], images)
    for (name, kind), values in zip(_EVIDENCE.items(), zip(*rows, strict=True), strict=True):
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


def write(table: pa.Table, path: Path) -> list[Path]:
    """Write a table as `path` with the suffix .csv, and beside it as .parquet; returns both."""
    stem = path.with_suffix("") if path.suffix in (".csv", ".parquet") else path
    written = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".csv", ".parquet")]
    with replacing(written[0]) as temporary:
        pyarrow.csv.write_csv(table, temporary)
    with replacing(written[1]) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return written


def _strongest(
    model: BagNet, evidence: Tensor, predicted: Tensor, images: Sequence[Seen]
) -> list[tuple[float | None, ...]]:
    """Logit and box of the patch with the most evidence for the predicted class of each image."""
    maps = evidence[torch.arange(len(images), device=evidence.device), predicted]
    logits, places = maps.flatten(1).max(1)
    columns = maps.shape[2]
    return [
        (logit, *in_image(model.box(*divmod(place, columns)), image.view))
        for logit, place, image in zip(logits.tolist(), places.tolist(), images, strict=True)
    ]


def _text(file: Path) -> str:
    """The path in characters that Parquet can hold, whatever bytes the file system has."""
    return os.fsencode(file).decode(errors="backslashreplace")
