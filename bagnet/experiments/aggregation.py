"""What other ways to sum the patches' evidence up do to the accuracy, and what they withstand.

One pass over the validation images gives the evidence, and every way is evaluated on the same maps: the mean as trained,
the median, bounded and masked ones (bagnet/evidence/aggregation.py says what each is). They also answer:

* Thresholds: the accuracy if evidence below a threshold is lifted to it, and if it is binarised there (Brendel & Bethge's
  appendix, "Effect of logit thresholding").
* Attacks: the share of the images that are classified as their label, and stay so whatever is put on a square of so many
  pixels, proved for tanh (Clipped BagNet) and for masking (PatchGuard).

Writes aggregation.csv and certified.csv, both in aggregation.md, and thresholds.png.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torchmetrics import MeanMetric

from bagnet.evidence import aggregation, evidence_map
from bagnet.evidence.aggregation import Aggregation
from bagnet.evidence.certificates import certify_clipped, certify_masked, entries_touched
from bagnet.evidence.pictures.plots import save_png
from bagnet.experiments.measuring.results import write_text
from bagnet.experiments.measuring.trained import load_trained
from bagnet.experiments.options import AggregationOptions
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from bagnet.training.metrics import UNREADABLE, ClassificationMetrics
from datamodules.imagenet import ImageNetDataModule

BATCH_SIZE = 32  # images: their maps take 74 MB for 1,000 classes and 224x224 pixels
STRONGEST = (1, 10)  # entries
THRESHOLDS = tuple(map(float, range(-20, 65, 5)))  # logits
ATTACKS = (23, 32, 39)  # px: 1, 2 and 3 percent of 224x224, as in PatchGuard's tables

Way = tuple[str, float | None]
"""The name of an aggregation and its parameter, if it has one."""
Row = dict[str, str | int | float]
"""By column: names and parameters as text, counts as int, shares (0 to 1) as float."""


def run(options: AggregationOptions) -> None:
    """Measure, print the tables, and write them and the figure."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # The authors' BagNet-33 loses 2.5 points of top-1 if cuDNN rounds to TF32.
    torch.backends.cudnn.allow_tf32 = False
    model, data = load_trained(
        options.checkpoint,
        options.data.root,
        batch_size=BATCH_SIZE,
        image_size=options.data.image_size,
        resize_size=options.data.resize_size,
        name=options.name,
    )
    height, width = model.map_size(options.data.image_size, options.data.image_size)
    windows = {pixels: entries_touched(model, pixels) for pixels in sorted(options.attacks)}
    ways = all_ways(sorted(options.thresholds), windows.values(), height * width)
    console = Console(highlight=False, soft_wrap=True)
    rows, certified = measure(model.to(device), data, ways, windows, console)

    out = options.out or options.checkpoint.parent
    markdown = f"{_markdown(rows)}\n{_markdown(certified)}"
    write_text(markdown, out / "aggregation.md")
    write_text(_csv(rows), out / "aggregation.csv")
    write_text(_csv(certified), out / "certified.csv")
    save_png(threshold_figure(rows), out / "thresholds.png")
    console.print(markdown, markup=False)
    console.print(f"aggregation.*, certified.csv, thresholds.png: {out}")


def all_ways(
    thresholds: Iterable[float], windows: Iterable[int], entries: int
) -> dict[Way, Aggregation]:
    """Every way to evaluate, in the order of the table, for maps of so many entries."""
    ways: dict[Way, Aggregation] = {(name, None): way for name, way in aggregation.PLAIN.items()}
    for count in STRONGEST:
        if count <= entries:
            ways["strongest", count] = partial(aggregation.top_mean, count=count)
    for window in windows:
        ways["masked", window] = partial(aggregation.masked, window=window)
    for name, way in aggregation.WITH_THRESHOLD.items():
        for threshold in thresholds:
            ways[name, threshold] = partial(way, threshold=threshold)
    return ways


def measure(
    model: BagNet,
    data: ImageNetDataModule,
    ways: Mapping[Way, Aggregation],
    windows: Mapping[int, int],
    console: Console,
) -> tuple[list[Row], list[Row]]:
    """Go through the validation images once; unreadable ones do not count.

    Args:
        model: The network.
        data: The data.
        ways: What to evaluate.
        windows: By the side of an attacked square in pixels, how many map entries in a row it touches.
        console: Where the progress is shown.

    Returns:
        The accuracies, a row for each way; and the certified accuracies, a row for each attack. Shares, 0 to 1.
    """
    device = model.fc.weight.device
    certifiers = {"tanh": certify_clipped, "masked": certify_masked}
    metrics = {way: ClassificationMetrics().to(device) for way in ways}
    certified = {(px, name): MeanMetric().to(device) for px in windows for name in certifiers}
    loader = data.val_dataloader()
    batches = track(loader, "aggregation", total=len(loader), console=console, transient=True)
    for images, labels, _ in batches:
        readable = labels != UNREADABLE
        labels = labels[readable].to(device)
        evidence = evidence_map(model, normalize(images[readable].to(device)))
        for way, aggregate in ways.items():
            metrics[way].update(aggregate(evidence), labels)
        for pixels, window in windows.items():
            for name, certify in certifiers.items():
                certified[pixels, name].update(certify(evidence, labels, window))

    rows: list[Row] = []
    for name, parameter in ways:
        row: Row = {
            "aggregation": name,
            "parameter": "" if parameter is None else f"{parameter:g}",
        }
        figures = metrics[name, parameter].compute()
        row |= {top: figures[top].item() for top in ("top1", "top5")}
        rows.append(row)
    attacks: list[Row] = []
    for pixels, window in windows.items():
        row = {"attack_px": pixels, "window": window}
        for name in certifiers:
            row[f"{name}_certified"] = certified[pixels, name].compute().item()
        attacks.append(row)
    return rows, attacks


def threshold_figure(rows: Sequence[Row]) -> Figure:
    """Accuracy against the threshold, for clamped and binarised evidence, and that of the mean."""
    figure = Figure(figsize=(6, 4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for k, style in (("top5", "-"), ("top1", "--")):
        for name, colour in (("clamp", "#2166ac"), ("binarise", "#b2182b")):
            swept = [row for row in rows if row["aggregation"] == name]
            thresholds = [float(row["parameter"]) for row in swept]
            shares = [float(row[k]) for row in swept]
            axes.plot(thresholds, shares, style, color=colour, label=f"{name}, {k}")
        (mean,) = (float(row[k]) for row in rows if row["aggregation"] == "mean")
        axes.axhline(mean, linestyle=style, color="0.5", linewidth=1, label=f"mean, {k}")
    axes.set(xlabel="threshold (logits)", ylabel="validation accuracy", ylim=(0, 1))
    axes.legend(fontsize=8)
    return figure


def _markdown(rows: Sequence[Row]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    for row in rows:
        lines.append([f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
