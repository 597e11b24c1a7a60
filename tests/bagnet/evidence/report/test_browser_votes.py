"""The report in a real browser: it shows what Python computes."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.bagnet.evidence.report.reported import (
    CLASSES,
    IMAGES,
    MODEL,
    caption,
    chosen,
    place,
    point,
    rows,
    to_number,
)

pytestmark = pytest.mark.browser


def close_to(values):
    """Equal in the two decimals that are shown."""
    return pytest.approx(values, abs=0.00501)


def colour(page: Page, y: int, x: int) -> list[int]:
    """Red, green, blue and opacity of the evidence at a pixel of the image."""
    return page.evaluate(
        f"[...document.querySelector('#heat').getContext('2d')"
        f".getImageData({2 * x}, {2 * y}, 1, 1).data]"
    )


def test_every_patch_shows_its_box_and_its_top_classes(page: Page) -> None:
    evidence = IMAGES[0].evidence.numpy()
    for row, column in np.ndindex(5, 5):
        page.mouse.move(*point(page, row, column))
        assert page.inner_text("#pixels") == place(row, column)
        logits = evidence[:, row, column]
        names, values = zip(*rows(page, "#votes"), strict=True)
        order = (-logits).argsort()[:5]
        assert list(names) == [CLASSES[label] for label in order]
        assert list(values) == close_to(logits[order])
        # The frame is on exactly these pixels.
        stage, frame = (page.locator(name).bounding_box() for name in ("#stage", "#box"))
        top, left, bottom, _ = MODEL.box(row, column)
        position = [frame["x"] - stage["x"], frame["y"] - stage["y"], frame["width"]]
        expected = np.array([left, top, bottom - top]) * stage["width"] / 65
        np.testing.assert_allclose(position, expected, atol=0.51)
    page.click("#votes li:nth-child(2) button")
    assert chosen(page) == order[1]
    assert to_number(page.inner_text("#vote").split(" for ")[0]) == close_to(logits[order[1]])


def test_the_cells_have_the_evidences_sign_and_strength_around_the_patches_centres(
    page: Page,
) -> None:
    image = IMAGES[0]
    evidence = image.evidence.numpy()
    limit = np.percentile(np.abs(evidence[[image.predicted, image.label]]), 99)
    assert to_number(page.inner_text("#high").removeprefix("≥ ")) == close_to(limit)
    assert page.inner_text("#low") == "≤ −" + page.inner_text("#high").removeprefix("≥ ")
    steps = page.evaluate("now.image.thresholds")
    signs = set()
    for step, threshold in ((0, -np.inf), (len(steps) // 2, steps[len(steps) // 2 - 1])):
        page.fill("#step", str(step))
        for entry in np.ndindex(5, 5):
            vote = evidence[image.predicted][entry]
            top, left, bottom, right = MODEL.box(*entry)
            red, _, blue, alpha = colour(page, (top + bottom) // 2, (left + right) // 2)
            strength = min(abs(vote) / limit, 1) if vote >= threshold else 0
            assert alpha == pytest.approx(0.85 * 255 * strength, abs=1)
            if alpha > 20:
                assert (red > blue) == (vote > 0)
                signs.add((step, vote > 0))
    assert len(signs) == 3  # above a threshold, nothing is negative
    assert colour(page, 5, 5)[3] == 0  # the edge


def test_choosing_a_class_shows_its_evidence_and_the_mean_is_the_logit(page: Page) -> None:
    image = IMAGES[0]
    order = (-image.logits).argsort().tolist()
    listed = [CLASSES.index(name) for name, _ in rows(page, "#classes")]
    assert listed[:10] == order[:10]
    assert image.label in listed
    pictures = set()
    for label in listed:
        page.click(f"#classes [data-class='{label}']")
        logit = float(image.logits[label])
        assert caption(page) == close_to((logit, logit))
        assert chosen(page) == label
        assert page.inner_text("#shown") == CLASSES[label]
        pictures.add(page.evaluate("document.querySelector('#heat').toDataURL()"))
    assert len(pictures) == len(listed)


def test_the_threshold_decides_as_the_clipped_mean_does(page: Page) -> None:
    predictions = set()
    for image in IMAGES:
        steps = page.evaluate("now.image.thresholds")
        assert steps[0] == 0
        assert page.get_attribute("#step", "max") == str(len(steps))
        assert page.inner_text("#rule") == "off: all votes count"
        evidence = image.evidence.double().numpy()
        for step, threshold in [(0, -np.inf), *enumerate(steps, 1)]:
            page.fill("#step", str(step))
            scores = np.where(evidence >= threshold, evidence, 0).mean((1, 2))
            after = int(scores.argmax())
            text = page.inner_text("#decision")
            assert text.startswith(f"Prediction: {CLASSES[after]}")
            assert ("changed from" in text) == (after != image.predicted)
            logit = float(image.logits[image.predicted])
            assert caption(page) == close_to((scores[image.predicted], logit))
            listed = dict(rows(page, "#classes"))
            assert listed == close_to({name: scores[CLASSES.index(name)] for name in listed})
            assert CLASSES[after] in listed
            predictions.add((image.name, after))
        page.keyboard.press("n")
    assert len(predictions) > len(IMAGES)  # some decisions changed
