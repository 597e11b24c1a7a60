"""The images that results were measured on, for pictures of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from bagnet.evidence.pictures.plots import BoxOf
from bagnet.experiments.measuring.measure import open_data
from bagnet.experiments.measuring.parts import record_of
from bagnet.experiments.options import MeasureOptions
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.batches import Batches


def open_measured(options: MeasureOptions, table: pa.Table) -> ImageNetDataModule:
    """Open the images that a table of results was measured on, at the same size.

    Raises:
        ValueError: The options name other images.
    """
    record = record_of(table.schema)
    measured = {"image_size": record["image_size"], "resize_size": record["resize_size"]}
    given = {name: getattr(options.data, name) or size for name, size in measured.items()}
    data = open_data(replace(options, data=replace(options.data, **given)))
    for name, value in {"data": data.val_manifest.digest, **given}.items():
        if record[name] != value:
            raise ValueError(
                f"the results were measured with {name} {record[name]}, and these images have "
                f"{value}: give the same data and sizes, or another --out"
            )
    return data


def read_pixels(batches: Batches, sample_id: int) -> np.ndarray:
    """An image as the networks see it, uint8 (H, W, 3)."""
    (images, _, _), _ = batches[0, np.array([sample_id])]
    return images[0].permute(1, 2, 0).numpy()


def box_of(table: pa.Table) -> BoxOf:
    """`BagNet.box` of the network that was measured, from the columns patch and stride."""
    patch, stride = table["patch"][0].as_py(), table["stride"][0].as_py()
    return lambda i, j: (stride * i, stride * j, stride * i + patch, stride * j + patch)
