"""Measures errors under the corruptions of ImageNet-C, and their mean, the mCE.

ImageNet-C (Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261) has ImageNet's
validation images under 15 corruptions of 5 severities each, and under 4 more that do not count in
the mCE. Pack them with `pack imagefolder imagenet-c/ packed-c/ --classes
imagenet_class_index.json`, and give --data.root packed-c.

The corruption error CE is a network's mean top-1 error over the severities, divided by that of
AlexNet; the mCE is the mean CE of the 15 corruptions, and needs all of them. The images are 224 px
and their authors do not resize them: so the default of --data.resize_size is --data.image_size
here. Evaluations that resize them to 256 px first are not comparable.

Writes to OUT/corruptions: table, corruptions (table), figure, and for each condition
CORRUPTION/SEVERITY/LABEL.parquet, as `accuracy` has it. A stop costs at most one part of one
condition; the same command resumes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from bagnet.experiments.decisions.accuracy import Predictions
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.figures import Curve, panel_figure
from bagnet.experiments.measuring.measure import measure
from bagnet.experiments.measuring.models import sizes_of
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import Interval, share
from bagnet.experiments.options import MeasureOptions
from datamodules.common.files import user_path
from datamodules.shards.manifest import MANIFEST

NAME = "corruptions"
SEVERITIES = (1, 2, 3, 4, 5)

ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's mean top-1 error over the severities, which the authors of ImageNet-C published
(https://github.com/hendrycks/robustness); the digits are those in the code of AugMix (Hendrycks et
al., ICLR 2020, https://github.com/google-research/augmix)."""

COLUMNS = {
    "model": ("network", ""),
    "images": ("images per condition", ","),
    "conditions": ("conditions", ","),
    "top1": ("top-1", ".1%"),
    "top5": ("top-5", ".1%"),
    "mce": ("mCE", ".1%"),
}
EACH = {
    "model": ("network", ""),
    "corruption": ("corruption", ""),
    **{f"error{severity}": (f"error, {severity}", ".1%") for severity in SEVERITIES},
    "error": ("mean error", ".1%"),
    "alexnet": ("AlexNet", ".1%"),
    "ce": ("CE", ".1%"),
}

Errors = dict[tuple[str, int], tuple[Interval, Interval, int]]
"""By corruption and severity: the shares of errors in top-1 and top-5, and the number of images."""


def run(options: MeasureOptions) -> None:
    """Measure, print the tables, and write the files.

    Raises:
        ValueError: There are no conditions, or as `measure` raises it.
    """
    measured: dict[str, Errors] = {}
    if options.models:
        size = sizes_of(options).image_size
        data = replace(options.data, resize_size=options.data.resize_size or size)
        options = replace(options, data=data)
    for (corruption, severity), root in _conditions(options).items():
        of_root = replace(options, data=replace(options.data, root=root))
        folder = f"{NAME}/{corruption}/{severity}"
        for label, table in measure(folder, Predictions.of(of_root), of_root).items():
            ranks = table["rank"].to_numpy()
            errors = share(ranks >= 1), share(ranks >= 5), len(ranks)
            measured.setdefault(label, {})[corruption, severity] = errors
    rows = [_row(label, errors) for label, errors in measured.items()]
    each = [row for label, errors in measured.items() for row in _rows(label, errors)]
    tables = {"table": (rows, COLUMNS), NAME: (each, EACH)}
    colours = network_colours(options.out, measured)
    figure = panel_figure(
        _panels(measured, colours), "severity, 1 to 5", "top-1 error, %", columns=5
    )
    write_results(options, NAME, tables, {"figure": figure})
    wanted = [(name, severity) for name in ALEXNET for severity in SEVERITIES]
    missing = [key for key in wanted if any(key not in errors for errors in measured.values())]
    if missing:
        name, severity = missing[0]
        print(
            f"note: the mCE needs all {len(ALEXNET)} corruptions at {len(SEVERITIES)} severities; "
            f"{len(missing)} of these conditions are missing, such as {name}/{severity}"
        )


def corruption_error(corruption: str, errors: Sequence[float]) -> float | None:
    """The CE: the mean error over all severities, divided by AlexNet's; None if it is not known."""
    if corruption not in ALEXNET or len(errors) < len(SEVERITIES):
        return None
    return mean(errors) / ALEXNET[corruption]


def _conditions(options: MeasureOptions) -> dict[tuple[str, int], str | None]:
    """The data of each condition; without --models, the conditions that were measured.

    Raises:
        ValueError: There is no data, or a condition comes twice.
    """
    folders: dict[Path, str | None]
    if not options.models:
        files = (options.out / NAME).glob("*/*/[!.]*.parquet")
        folders = {file.parent: None for file in files}
    elif options.data.root is None:
        raise ValueError("--models needs the data to measure on: add --data.root DIR")
    else:
        files = user_path(options.data.root).glob(f"**/val/{MANIFEST}")
        folders = {file.parent.parent: str(file.parent.parent) for file in files}
    conditions: dict[tuple[str, int], str | None] = {}
    for folder, root in folders.items():
        if re.fullmatch("[1-5]", folder.name):
            key = folder.parent.name, int(folder.name)
            if key in conditions:
                raise ValueError(f"{root} and {conditions[key]} are the same condition: keep one")
            conditions[key] = root
    if not conditions:
        raise ValueError(
            f"{options.data.root or options.out} has no CORRUPTION/SEVERITY/val: pack ImageNet-C "
            "with `python -m datamodules.pack imagefolder SRC OUT --classes LIST`"
        )
    order = [*ALEXNET, *sorted({name for name, _ in conditions} - ALEXNET.keys())]
    return dict(sorted(conditions.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def _row(label: str, errors: Errors) -> dict[str, Any]:
    """Means over the conditions of the 15 corruptions."""
    counted = {key: value for key, value in errors.items() if key[0] in ALEXNET}
    ces = [row["ce"] for row in _rows(label, counted)]
    is_whole = len(ces) == len(ALEXNET) and None not in ces
    return {
        "model": label,
        "images": max(images for *_, images in errors.values()),
        "conditions": len(counted),
        "top1": 1 - mean(first.value for first, *_ in counted.values()) if counted else None,
        "top5": 1 - mean(five.value for _, five, _ in counted.values()) if counted else None,
        "mce": mean(ces) if is_whole else None,
    }


def _rows(label: str, errors: Errors) -> list[dict[str, Any]]:
    """A row for each corruption."""
    rows = []
    for corruption in dict.fromkeys(name for name, _ in errors):
        own = {s: errors[corruption, s][0] for s in SEVERITIES if (corruption, s) in errors}
        values = [interval.value for interval in own.values()]
        rows.append(
            {
                "model": label,
                "corruption": corruption,
                **{f"error{severity}": interval for severity, interval in own.items()},
                "error": mean(values),
                "alexnet": ALEXNET.get(corruption),
                "ce": corruption_error(corruption, values),
            }
        )
    return rows


def _panels(
    measured: Mapping[str, Errors], colours: Mapping[str, str]
) -> dict[str, dict[str, Curve]]:
    """For each corruption, the error of each network by severity."""
    panels: dict[str, dict[str, Curve]] = {}
    for label, errors in measured.items():
        for row in _rows(label, errors):
            own = {s: row[f"error{s}"] for s in SEVERITIES if f"error{s}" in row}
            value, low, high = 100 * np.array([[i.value, i.low, i.high] for i in own.values()]).T
            style = {"color": colours[label], "marker": "o", "ms": 3}
            curve = Curve([*own], value, np.stack([low, high]), style)
            panels.setdefault(row["corruption"].replace("_", " "), {})[label] = curve
    return panels
