"""The misclassified images that `patches` shows: those of one network, or of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyarrow.compute import list_value_length

from bagnet.evidence.pictures.sheets import Mistake
from bagnet.experiments.decisions import accuracy
from bagnet.experiments.explanations.options import PatchesOptions
from bagnet.experiments.measuring.classes import classes_of
from bagnet.experiments.measuring.parts import read_file, record_of
from bagnet.experiments.measuring.pixels import read_pixels
from datamodules.imagenet import ImageNetDataModule


def mistakes(
    table: pa.Table,
    count: int,
    names: Sequence[str],
    data: ImageNetDataModule,
    notes: Mapping[int, str] | None = None,
) -> list[Mistake]:
    """The misclassified images on which the predicted class leads by most.

    Args:
        table: Results of `StrongestPatches`.
        count: The most images to find.
        names: Names of all classes.
        data: The data.
        notes: What to say of images, by sample id, if only these are looked for.
    """
    batches = data.batches("val")
    lead = table["logit_predicted"].to_numpy() - table["logit_true"].to_numpy()
    is_wrong = list_value_length(table["maps"]).to_numpy() > 0
    if notes is not None:
        is_wrong &= np.isin(table["sample_id"].to_numpy(), list(notes))
    order = [int(n) for n in np.argsort(-lead, kind="stable") if is_wrong[n]][:count]
    return [
        Mistake(
            image=read_pixels(batches, row["sample_id"]),
            name=data.val_manifest.sample(row["sample_id"]).key,
            true=names[row["label"]],
            predicted=names[row["predicted"]],
            logits=(row["logit_true"], row["logit_predicted"]),
            evidence=np.array(row["maps"], np.float32).reshape(2, -1, row["map_width"]),
            note="" if notes is None else notes[row["sample_id"]],
        )
        for row in table.take(order).to_pylist()
    ]


def errors_of_both(label: str, table: pa.Table, options: PatchesOptions) -> dict[int, str]:
    """What two networks say of the images that both misclassify, by sample id.

    Raises:
        ValueError: `accuracy` has not measured both, or on other images.
    """
    folder, names = options.out / accuracy.NAME, classes_of(table).distinct_names()
    wrong: list[dict[int, str]] = []
    for network in (label, str(options.other)):
        file = folder / f"{network}.parquet"
        if not file.is_file():
            raise ValueError(
                f"--other {options.other} needs the accuracies of it and of {label}, and there is "
                f"no {file}: run `accuracy` with both into the same --out first"
            )
        rows = read_file(file)
        for name in ("data", "image_size", "resize_size"):
            if record_of(rows.schema)[name] != record_of(table.schema)[name]:
                raise ValueError(
                    f"{file} was measured with other images ({name}): measure `accuracy` again, "
                    "with the data and sizes of `patches`"
                )
        wrong.append(
            {
                row["sample_id"]: f"{network} says {names[row['predicted']]} "
                f"({row['confidence']:.0%}; {names[row['label']]} {row['probability']:.0%})"
                for row in rows.to_pylist()
                if row["rank"] > 0
            }
        )
    first, second = wrong
    return {
        number: f"{text}; {second[number]}" for number, text in first.items() if number in second
    }
