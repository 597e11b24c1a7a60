"""The report in a real browser: it shows what Python computes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bagnet.evidence.report.browser import Browser
from tests.bagnet.evidence.report.controls import (
    choose,
    is_chosen,
    numbers_of_caption,
    point_at,
    rows_of,
    set_step,
    to_number,
)
from tests.bagnet.evidence.report.reported import CLASSES, FILES, SIDE, Report

pytestmark = pytest.mark.browser


def alpha_at(browser: Browser, x: int, y: int) -> list[int]:
    """Colour and opacity of the evidence at a pixel of the image."""
    return browser.js(
        "Object.values(document.querySelector('#heat').getContext('2d')"
        f".getImageData({2 * x}, {2 * y}, 1, 1).data)"
    )


def test_every_patch_shows_its_box_and_its_top_classes(browser: Browser, report: Report) -> None:
    for row, column in np.ndindex(5, 5):
        browser.hover(*point_at(browser, report, row, column))
        assert browser.text("#pixels") == report.pixels(row, column)
        votes = report.evidence[0, :, row, column]
        shown = rows_of(browser, "#votes")
        assert [name for name, _ in shown] == [CLASSES[c] for c in (-votes).argsort()[:5]]
        expected = sorted(votes, reverse=True)[:5]
        np.testing.assert_allclose([value for _, value in shown], expected, atol=0.00501)
        # The frame is on exactly these pixels.
        stage, frame = browser.box("#stage"), browser.box("#box")
        top, left, bottom, _ = report.model.box(row, column)
        scale = stage[2] / SIDE
        position = [frame[0] - stage[0], frame[1] - stage[1], frame[2]]
        np.testing.assert_allclose(position, np.array([left, top, bottom - top]) * scale, atol=0.51)


def test_the_cells_have_the_evidences_sign_and_strength_around_the_patches_centres(
    browser: Browser, report: Report
) -> None:
    predicted = report.predicted[0]
    limit = np.percentile(np.abs(report.evidence[0, [predicted, report.labels[0]]]), 99)
    assert to_number(browser.text("#high").removeprefix("≥ ")) == pytest.approx(limit, abs=0.00501)
    assert browser.text("#low") == "≤ −" + browser.text("#high").removeprefix("≥ ")
    signs = set()
    for row, column in np.ndindex(5, 5):
        vote = report.evidence[0, predicted, row, column]
        top, left, bottom, right = report.model.box(row, column)
        red, _, blue, alpha = alpha_at(browser, (left + right) // 2, (top + bottom) // 2)
        assert alpha == pytest.approx(0.85 * 255 * min(abs(vote) / limit, 1), abs=1)
        if alpha > 20:
            assert (red > blue) == (vote > 0)
            signs.add(vote > 0)
    assert signs == {True, False}
    assert alpha_at(browser, 5, 5)[3] == 0  # the edge


def test_the_image_can_be_seen_alone_and_so_can_its_evidence(browser: Browser) -> None:
    seen = "['#image', '#heat'].map(s => getComputedStyle(document.querySelector(s)).visibility)"
    assert browser.js(seen) == ["visible", "visible"]
    for number, expected in ((1, ["visible", "hidden"]), (3, ["hidden", "visible"])):
        browser.click(f"#view label:nth-child({number})")
        assert browser.js(seen) == expected


def test_choosing_a_class_shows_its_evidence_and_the_mean_is_the_logit(
    browser: Browser, report: Report
) -> None:
    order = (-report.logits[0]).argsort()
    listed = [name for name, _ in rows_of(browser, "#classes")]
    assert listed[:10] == [CLASSES[c] for c in order[:10]]
    assert CLASSES[report.labels[0]] in listed
    pictures = set()
    for name in listed:
        choose(browser, name)
        logit = report.logits[0, CLASSES.index(name)]
        assert numbers_of_caption(browser) == pytest.approx((logit, logit), abs=0.00501)
        assert is_chosen(browser, name)
        assert browser.text("#shown") == name
        pictures.add(browser.js("document.querySelector('#heat').toDataURL()"))
    assert len(pictures) == len(listed)


def test_a_class_of_a_patch_can_be_chosen(browser: Browser, report: Report) -> None:
    browser.hover(*point_at(browser, report, 2, 2))
    second = int((-report.evidence[0, :, 2, 2]).argsort()[1])
    browser.click("#votes li:nth-child(2) button")
    assert is_chosen(browser, CLASSES[second])
    vote = to_number(browser.text("#vote").split(" for ")[0])
    assert vote == pytest.approx(report.evidence[0, second, 2, 2], abs=0.00501)


def test_the_threshold_decides_as_the_clipped_mean_does(browser: Browser, report: Report) -> None:
    predictions = set()
    for image in range(len(FILES)):
        steps = browser.js("now.image.thresholds")
        assert steps[0] == 0
        assert browser.js("Number(document.querySelector('#step').max)") == len(steps)
        assert browser.text("#rule") == "off: all votes count"
        votes = report.evidence[image].astype(np.float64)
        before = report.predicted[image]
        for step, threshold in [(0, -np.inf), *enumerate(steps, 1)]:
            set_step(browser, step)
            scores = np.where(votes >= threshold, votes, 0).mean((1, 2))
            after = int(scores.argmax())
            text = browser.text("#decision")
            assert text.startswith(f"Prediction: {CLASSES[after]}")
            assert ("changed from" in text) == (after != before)
            mean, logit = numbers_of_caption(browser)
            assert mean == pytest.approx(scores[before], abs=0.00501)
            assert logit == pytest.approx(report.logits[image, before], abs=0.00501)
            for name, value in rows_of(browser, "#classes"):
                assert value == pytest.approx(scores[CLASSES.index(name)], abs=0.00501)
            assert CLASSES[after] in [name for name, _ in rows_of(browser, "#classes")]
            predictions.add((image, after))
        browser.press("n")
    assert len(predictions) > len(FILES)  # some decisions changed


def test_below_the_threshold_there_is_no_colour(browser: Browser, report: Report) -> None:
    steps = browser.js("now.image.thresholds")
    set_step(browser, len(steps) // 2)
    votes = report.evidence[0, report.predicted[0]]
    for row, column in np.ndindex(5, 5):
        top, left, bottom, right = report.model.box(row, column)
        alpha = alpha_at(browser, (left + right) // 2, (top + bottom) // 2)[3]
        assert (alpha > 0) == (votes[row, column] >= steps[len(steps) // 2 - 1])
