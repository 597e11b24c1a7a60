"""Calibration against torchmetrics, plain loops, and predictions whose calibration is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.optimize import minimize_scalar
from torchmetrics.functional.classification import multiclass_calibration_error

from bagnet.experiments.decisions.calibration import (
    TEMPERATURES,
    UNSCALED,
    Calibration,
    at,
    at_temperatures,
    bins_of,
    calibration_error,
    draw,
    ece,
)
from bagnet.training.metrics import among, rank_of_label


def predictions(
    count: int, temperature: float = 1, classes: int = 7, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that are drawn with the probabilities of logits / temperature."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, dtype=torch.float64, generator=generator)
    drawn = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)
    return logits, drawn[:, 0]


def table(logits: torch.Tensor, labels: torch.Tensor) -> pa.Table:
    """What `accuracy` would measure."""
    columns = {
        name: list(column.numpy()) for name, column in at_temperatures(logits, labels).items()
    }
    return pa.table({"rank": rank_of_label(logits, labels).numpy(), **columns})


def test_losses_and_confidences_are_those_of_the_scaled_logits():
    logits, labels = predictions(30)
    logits[0] *= 1000  # its probabilities are 0 and 1
    found = at_temperatures(logits, labels)
    assert TEMPERATURES[UNSCALED] == 1
    assert (TEMPERATURES[0], TEMPERATURES[-1]) == (0.25, 8)
    for place, temperature in enumerate(TEMPERATURES):
        scaled = (logits / temperature).log_softmax(1)
        loss = torch.nn.functional.nll_loss(scaled, labels, reduction="none")
        assert found["losses"][:, place].numpy() == pytest.approx(loss.numpy(), rel=1e-5)
        confidence = scaled.exp().amax(1).numpy()
        assert found["confidences"][:, place].numpy() == pytest.approx(confidence, rel=1e-5)


def test_classes_that_cannot_win_have_no_share_at_any_temperature():
    logits, labels = predictions(20)
    present = torch.tensor([1, 2, 5])
    labels = present[labels % 3]
    few = at_temperatures(logits[:, present], torch.searchsorted(present, labels))
    masked = at_temperatures(among(logits, present), labels)
    for name, values in few.items():
        assert masked[name].numpy() == pytest.approx(values.numpy())


def test_ece_is_that_of_torchmetrics():
    logits, labels = predictions(500, 1.5)
    own = Calibration.of("a", table(logits, labels))
    theirs = multiclass_calibration_error(logits.softmax(1), labels, 7, n_bins=15, norm="l1")
    assert own.row()["ece"].value == pytest.approx(float(theirs), abs=1e-6)


def test_ece_is_that_of_its_definition_with_limits_in_the_lower_bin():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.random(50), np.arange(16) / 15, [1.0, 1.0]])
    right = rng.random(len(confidence)) < 0.5
    total = 0.0
    for n in range(15):
        inside = [n / 15 < c <= (n + 1) / 15 or n == c == 0 for c in confidence]
        if any(inside):
            total += sum(inside) * abs(confidence[inside].mean() - right[inside].mean())
    assert ece(bins_of(confidence), confidence - right) == pytest.approx(total / len(confidence))
    assert ece(np.array([3, 3, 9]), np.array([0.2, -0.1, -0.5])) == pytest.approx(0.6 / 3)


@pytest.mark.parametrize("temperature", [0.7, 1, 3])
def test_the_temperature_is_the_one_that_the_labels_were_drawn_with(temperature):
    logits, labels = predictions(4000, temperature)
    own = Calibration.of("a", table(logits, labels))

    def loss(t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / t, labels))

    best = minimize_scalar(loss, bounds=(0.25, 8), method="bounded")
    assert own.temperature == pytest.approx(best.x, rel=1e-3)
    scaled = (logits / best.x).softmax(1)
    right = logits.argmax(1) == labels
    theirs = multiclass_calibration_error(scaled, labels, 7, n_bins=15, norm="l1")
    losses, confidences = (values.numpy() for values in at_temperatures(logits, labels).values())
    confidence = at(best.x, confidences)
    assert confidence == pytest.approx(scaled.amax(1).numpy(), abs=3e-4)
    found = ece(bins_of(confidence), confidence - right.numpy())
    assert found == pytest.approx(float(theirs), abs=2e-3)
    assert at(best.x, losses).mean() == pytest.approx(best.fun, abs=1e-5)
    assert own.temperature == pytest.approx(temperature, rel=0.1)
    row = own.row()
    assert row["scaled_loss"].value == pytest.approx(best.fun, abs=2e-3)
    assert row["scaled_ece"].low == 0
    if temperature != 1:
        assert row["scaled_ece"].value < row["ece"].low
        assert row["scaled_loss"].value < row["loss"].value
        assert (row["confidence"].value > row["top1"].value) == (temperature > 1)


def test_no_image_is_scaled_by_a_temperature_that_it_had_a_part_in():
    half = np.random.default_rng(0).permutation(10) % 2
    logits = torch.tensor([[0.0, 2.0]] * 10, dtype=torch.float64)
    # The first half is always right, and the second never: they choose the ends.
    own = Calibration.of("a", table(logits, torch.from_numpy(1 - half)))
    used = 2 / np.log(own.scaled_confidence / (1 - own.scaled_confidence))
    assert used == pytest.approx(np.where(half == 0, 8, 0.25), rel=1e-3)
    assert own.scaled_loss == pytest.approx(
        np.where(half == 0, np.log1p(np.exp(-2 / 8)), np.log1p(np.exp(2 / 0.25))), rel=1e-3
    )


@pytest.mark.parametrize(("excess", "begins_at_0"), [(0.0, True), (0.2, False)])
def test_the_interval_of_ece_holds_the_truth_although_chance_makes_it_too_high(excess, begins_at_0):
    rng = np.random.default_rng(3)
    held, starts, estimates = [], [], []
    for _ in range(20):
        confidence = 0.4 + 0.6 * rng.beta(4, 2, 300)
        right = rng.random(300) < confidence - excess
        interval = calibration_error(confidence, right)
        held.append(interval.low <= excess <= interval.high)
        starts.append(interval.low == 0)
        estimates.append(interval.value)
    assert np.mean(held) >= 0.8
    assert np.mean(starts) >= 0.9 if begins_at_0 else not any(starts)
    assert np.mean(estimates) > excess


def test_the_diagram_has_the_accuracy_of_each_bin_and_the_share_of_images_in_it():
    networks = [
        Calibration.of(name, table(*predictions(300, 2, seed=n))) for n, name in enumerate("ab")
    ]
    colours = dict.fromkeys("ab", "red")
    figure = draw(networks, [network.row() for network in networks], colours)
    upper, _, lower, _ = figure.axes
    own = networks[0]
    line = upper.containers[0].lines[0]
    bins = bins_of(own.confidence)
    filled = np.unique(bins)
    assert line.get_ydata() == pytest.approx([100 * own.right[bins == b].mean() for b in filled])
    assert line.get_xdata() == pytest.approx(
        [100 * own.confidence[bins == b].mean() for b in filled]
    )
    heights = lower.patches[0].get_data().values
    assert heights.sum() == pytest.approx(100)
    assert heights[filled[-1]] == pytest.approx(100 * (bins == filled[-1]).mean())
    assert f"temperature {own.temperature:.2f}" in upper.get_title()
