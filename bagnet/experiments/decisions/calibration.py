"""Whether a network is as often right as it is confident, before and after temperature scaling.

`accuracy` says how each figure is defined, and draws them with the functions of this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyarrow.compute import list_flatten
from rich.console import Console
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from torch import Tensor

from bagnet.experiments.measuring.figures import WIDTH, Colours, Rows
from bagnet.experiments.measuring.statistics import FEWEST, Interval, bootstrap, mean, share
from datamodules.common.progress import progress

BINS = 15
TEMPERATURES = 2 ** (np.arange(-8, 13) / 4)
"""From 0.25 to 8. At any other between them, a cubic spline over their logarithms gives the
confidence of an image to 0.0003, and the mean over many images to 0.00001."""
UNSCALED = 8  # the place of temperature 1

COLUMNS = {
    "model": ("network", ""),
    "images": ("images", ","),
    "top1": ("top-1", ".1%"),
    "confidence": ("confidence", ".1%"),
    "ece": ("ECE", ".1%"),
    "loss": ("loss", ".3f"),
    "temperature": ("temperature", ".2f"),
    "scaled_ece": ("ECE, scaled", ".1%"),
    "scaled_loss": ("loss, scaled", ".3f"),
}


def at_temperatures(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What scaling needs to know of each image, in float32.

    Args:
        logits: float64 (B, classes), of classes that cannot win -inf.
        labels: int64 (B,).

    Returns:
        losses and confidences, (B, temperatures): the negative log-probability of the true class,
        and the probability of the leading class, with the logits divided by each of `TEMPERATURES`.
    """
    temperatures = torch.from_numpy(TEMPERATURES).to(logits.device)
    # One after the other: all at once would take a copy of the logits for each.
    total = torch.stack([(logits / t).logsumexp(1) for t in temperatures], 1)
    true, leading = logits.gather(1, labels[:, None]), logits.amax(1, keepdim=True)
    return {
        "losses": (total - true / temperatures).float(),
        "confidences": (leading / temperatures - total).exp().float(),
    }


def at(temperature: float, values: np.ndarray) -> np.ndarray:
    """Losses or confidences at a temperature from those at `TEMPERATURES`, (n, 21) -> (n,)."""
    found: np.ndarray = CubicSpline(np.log(TEMPERATURES), values, axis=1)(np.log(temperature))
    return found


def best_temperature(losses: np.ndarray) -> float:
    """The temperature, from 0.25 to 8, at which the mean of losses (n, 21) is least."""
    mean_loss = CubicSpline(np.log(TEMPERATURES), losses.mean(0))
    limits = np.log(TEMPERATURES[[0, -1]])
    return math.exp(minimize_scalar(mean_loss, bounds=limits, method="bounded").x)


@dataclass(frozen=True)
class Calibration:
    """The confidences of a network on n images.

    Attributes:
        model: Label of the network.
        right: Whether the leading class is the true one, bool (n,).
        confidence: Probability of the leading class, (n,).
        loss: Negative log-probability of the true class, (n,).
        temperature: The one with the least loss for all images.
        scaled_confidence: As `confidence`, with the temperature that is best for the half of the
            images that this image does not belong to.
        scaled_loss: As `loss`, with the same temperature.
    """

    model: str
    right: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray
    temperature: float
    scaled_confidence: np.ndarray
    scaled_loss: np.ndarray

    @classmethod
    def of(cls, model: str, table: pa.Table) -> Calibration:
        """Make one from a table of `accuracy`."""
        losses, confidences = (
            list_flatten(table[name]).to_numpy().reshape(-1, len(TEMPERATURES)).astype(float)
            for name in ("losses", "confidences")
        )
        scaled_loss, scaled_confidence = losses[:, UNSCALED].copy(), confidences[:, UNSCALED].copy()
        half = np.random.default_rng(0).permutation(len(losses)) % 2
        for own in (0, 1):
            temperature = best_temperature(losses[half != own])
            scaled_loss[half == own] = at(temperature, losses[half == own])
            scaled_confidence[half == own] = at(temperature, confidences[half == own]).clip(0, 1)
        return cls(
            model,
            right=table["rank"].to_numpy() < 1,
            confidence=confidences[:, UNSCALED],
            loss=losses[:, UNSCALED],
            temperature=best_temperature(losses),
            scaled_confidence=scaled_confidence,
            scaled_loss=scaled_loss,
        )

    def row(self) -> dict[str, Any]:
        """The row of the table, which needs `statistics.FEWEST` images."""
        return {
            "model": self.model,
            "images": len(self.right),
            "top1": share(self.right),
            "confidence": mean(self.confidence),
            "ece": calibration_error(self.confidence, self.right),
            "loss": mean(self.loss),
            "temperature": self.temperature,
            "scaled_ece": calibration_error(self.scaled_confidence, self.right),
            "scaled_loss": mean(self.scaled_loss),
        }


def calibrations(tables: Mapping[str, pa.Table]) -> list[Calibration]:
    """Those of the tables of `accuracy` that have enough images."""
    return [Calibration.of(*item) for item in tables.items() if item[1].num_rows >= FEWEST]


def rows_of(networks: Sequence[Calibration]) -> list[dict[str, Any]]:
    """The rows of the table."""
    rows = []
    with progress(Console(stderr=True), "calibration", len(networks), "networks") as update:
        for network in networks:
            rows.append(network.row())
            update(len(rows))
    return rows


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, 0 to `BINS` - 1; a limit between two belongs to the lower."""
    return np.searchsorted(np.arange(1, BINS) / BINS, confidence)


def ece(bins: np.ndarray, gap: np.ndarray) -> float:
    """Expected calibration error: the mean over bins, by size, of |confidence - accuracy|.

    Args:
        bins: The bin of each image, int (n,).
        gap: Its confidence, minus 1 if it is right, (n,).
    """
    return float(np.abs(np.bincount(bins, gap)).sum() / len(gap))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> Interval:
    """`ece` with an interval that allows for its bias.

    In each bin, chance alone makes a difference between confidence and accuracy, so ECE is above
    0 even if the network is calibrated. Images drawn with replacement add to this as much again:
    percentiles of the draws would lie too high, and never hold 0. The interval is therefore the
    basic one (Davison and Hinkley 1997, section 5.2), which mirrors the draws at the estimate; and
    it begins at 0 if calibrated predictions with these confidences often have as high an ECE. With
    few images, the estimate may lie above it.
    """
    bins = bins_of(confidence)
    drawn = bootstrap(ece, bins, confidence - right)
    rng = np.random.default_rng(0)
    calibrated = [ece(bins, confidence - (rng.random(len(bins)) < confidence)) for _ in range(500)]
    value = drawn.value
    low = 2 * value - drawn.high if value > np.percentile(calibrated, 97.5) else 0.0
    return Interval(value, max(0.0, low), max(0.0, 2 * value - drawn.low))


def draw(networks: Sequence[Calibration], rows: Rows, colours: Colours) -> Figure:
    """Draw a reliability diagram for each network, and how many images are in each bin.

    Args:
        networks: The networks.
        rows: Their rows of the table.
        colours: The colours of the networks.
    """
    columns = 2 if len(networks) == 4 else min(3, len(networks))  # full rows
    lines = -(-len(networks) // columns)
    size = min(WIDTH, 0.6 + 3.4 * columns), 0.5 + 3.5 * lines
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    heights = {"height_ratios": [4, 1] * lines}
    grid = figure.subplots(2 * lines, columns, squeeze=False, sharex=True, gridspec_kw=heights)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, (network, row) in enumerate(zip(networks, rows, strict=True)):
        line, column = divmod(number, columns)
        upper, lower = grid[2 * line : 2 * line + 2, column]
        colour = colours[network.model]
        upper.plot((0, 100), (0, 100), color="0.8", linewidth=1, zorder=0)
        _diagram(upper, lower, network.confidence, network.right, colour, "as it is")
        _diagram(upper, lower, network.scaled_confidence, network.right, "0.3", "scaled")
        upper.set_title(
            f"{network.model}\nECE {row['ece'].value:.1%}; with temperature "
            f"{network.temperature:.2f}, {row['scaled_ece'].value:.1%}",
            fontsize=8,
        )
        upper.set(xlim=(0, 100), ylim=(0, 100))
        lower.set(ylim=(0, None))
        for axes in (upper, lower):
            axes.set_axis_on()
            axes.spines[["top", "right"]].set_visible(False)
        upper.tick_params(labelbottom=False)
        lower.set_xlabel("confidence, %")
        lower.tick_params(labelbottom=True)
        if column == 0:
            upper.set_ylabel("top-1 accuracy, %")
            lower.set_ylabel("images, %")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _diagram(
    upper: Axes, lower: Axes, confidence: np.ndarray, right: np.ndarray, colour: str, name: str
) -> None:
    """Draw the accuracy of each bin that has images, and the share of images in all bins."""
    bins = bins_of(confidence)
    filled = np.unique(bins)
    places = [100 * confidence[bins == each].mean() for each in filled]
    shares = [astuple(share(right[bins == each])) for each in filled]
    value, low, high = 100 * np.array(shares).T
    face = colour if name == "as it is" else "white"
    style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 4, "mfc": face, "lw": 1}
    style["clip_on"] = False  # whole dots at 100%
    upper.errorbar(places, value, np.abs([low - value, high - value]), label=name, **style)
    edges = 100 * np.arange(BINS + 1) / BINS
    fill = {"fill": True, "alpha": 0.5} if name == "as it is" else {"fill": False}
    lower.stairs(100 * np.bincount(bins, minlength=BINS) / len(bins), edges, color=colour, **fill)
