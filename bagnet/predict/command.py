"""Predict the classes of images, and say where the strongest evidence lies.

Writes a table with a row for each image, as CSV and as Parquet, with these columns:

  file                             path of the image
  class_1, name_1, probability_1   the predicted class, its name, how probable;
  class_2, ...                     then the next ones, up to five
  evidence_logit                   most evidence of a patch for class_1
  evidence_top, evidence_left,     where this patch is, in pixels of the image
  evidence_bottom, evidence_right  (half-open)

Networks other than BagNets have no evidence. Sizes and classes are those that the weights name.
Files that cannot be read are named, counted and left out.
"""

from __future__ import annotations

import sys
from contextlib import closing

import pyarrow as pa
import torch
from rich.console import Console
from torch import nn

from bagnet.model.images import require_size
from bagnet.model.weights import load_model
from bagnet.predict.images import Seen, batches, find
from bagnet.predict.options import PredictOptions
from bagnet.predict.table import predict, write
from bagnet.run.trained import choose_sizes, chosen_checkpoint
from datamodules.common.progress import progress
from datamodules.decoding.transforms import EvalTransform


def run(options: PredictOptions) -> None:
    """Predict all images and write the table.

    Raises:
        ValueError: An option cannot be followed, or no image can be read.
    """
    console = Console(file=sys.stderr, highlight=False, markup=False, soft_wrap=True)
    checkpoint = chosen_checkpoint(options.name, options.runs_dir, options.model.weights)
    device = _device(options.device)
    sizes = choose_sizes(options.data.image_size, options.data.resize_size, [checkpoint])
    transform = EvalTransform(sizes.image_size, sizes.resize_size)
    if options.out.is_dir():
        raise ValueError(f"--out is the folder {options.out}: give a file, such as predictions.csv")
    files, notes = find(options.images)
    model = load_model(checkpoint, options.model.name).to(device)
    require_size(model, sizes.image_size)
    torch.backends.cudnn.allow_tf32 = False  # it costs the authors' BagNet-33 2.5 points of top-1
    for note in notes:
        console.print(f"note: {note}")
    console.print(f"{checkpoint}: {sizes}, on {device}")
    tables, done = [], 0
    reading = batches(files, transform, options.batch_size)
    with progress(console, "predict", len(files)) as update, closing(reading):
        for batch in reading:
            for each in batch:
                if isinstance(each, str):
                    console.print(f"note: {each}")
            if images := [each for each in batch if isinstance(each, Seen)]:
                tables.append(_predict(model, images))
            done += len(batch)
            update(done)
    if not tables:
        raise ValueError("no image can be read; the lines above say why")
    table = pa.concat_tables(tables)
    count, unreadable = table.num_rows, len(files) - table.num_rows
    said = "1 image" if count == 1 else f"{count:,} images"
    if unreadable:
        said += f", and {unreadable:,} that cannot be read"
    console.print(f"{said}: {' and '.join(map(str, write(table, options.out)))}")


def _predict(model: nn.Module, images: list[Seen]) -> pa.Table:
    try:
        return predict(model, images)
    except torch.OutOfMemoryError:
        raise ValueError(
            f"the GPU has too little memory for {len(images)} images at once: give a smaller "
            "--batch_size"
        ) from None


def _device(name: str | None) -> torch.device:
    """The device with this name; by default, the GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError):  # torch's reasons are pages
        raise ValueError(
            f"--device {name}: torch has no such device here; give cpu or cuda, or leave it out"
        ) from None
    return device
