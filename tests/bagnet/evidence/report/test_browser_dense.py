"""The report in a real browser: maps around every pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.report import dense
from bagnet.evidence.report.dense import dense_maps
from bagnet.evidence.report.votes import ImageVotes, compute_votes
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from tests.bagnet.evidence.report.reported import CLASSES, caption, chosen, to_number
from tests.bagnet.evidence.report.test_browser_controls import resize
from tests.bagnet.evidence.report.test_browser_votes import close_to, colour

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def network() -> BagNet:
    torch.manual_seed(0)
    return BagNet(33, 4, width=2).eval()


def picture(network: BagNet, number: int) -> ImageVotes:
    """An image of noise whose true class is not the predicted one, with its maps."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (3, 57, 73), dtype=torch.uint8, generator=generator)
    image = compute_votes(network, pixels, f"{number}.png", None)
    image = replace(image, label=(image.predicted + 1) % 4)
    return replace(image, dense=dense_maps(network, image, 2))


def test_every_pixel_has_the_colour_of_its_patch(show: Callable[..., Page], network) -> None:
    images = [picture(network, number) for number in range(2)]
    page = show(*images)
    page.click("#map label:nth-child(2)")
    for image in images:
        page.wait_for_function("now.image.levels")
        own = dense_evidence(network, normalize(image.pixels[None])[0], image.judged).numpy()
        for label, evidence in zip(image.judged, own, strict=True):
            page.click(f"#classes [data-class='{label}']")
            for y, x in ((0, 0), (56, 72), (28, 36), (5, 50), (44, 3)):
                red, _, blue, alpha = colour(page, y, x)
                strength = min(abs(evidence[y, x]) / image.limit, 1)
                assert alpha == pytest.approx(0.85 * 255 * strength, abs=2)
                if alpha > 20:
                    assert (red > blue) == (evidence[y, x] > 0)
            means = page.inner_text("#caption").removeprefix("mean over all pixels = ")
            mean, logit = map(to_number, means.split(", logit = mean of the votes = "))
            assert (mean, logit) == close_to((evidence.mean(), float(image.logits[label])))
            assert "not the logit, because patches at the rim" in page.inner_text("#rim")
        page.keyboard.press("n")


def test_other_classes_have_their_votes_and_so_has_the_first_choice(
    show: Callable[..., Page], network
) -> None:
    image = picture(network, 0)
    page = show(image)
    assert page.inner_text("#rim") == ""
    votes = page.evaluate("document.querySelector('#heat').toDataURL()")
    page.wait_for_function("now.image.levels")
    assert page.evaluate("document.querySelector('#heat').toDataURL()") == votes
    other = next(label for label in range(4) if label not in image.judged)
    page.click("#map label:nth-child(2)")
    assert page.evaluate("document.querySelector('#heat').toDataURL()") != votes
    page.click(f"#classes [data-class='{other}']")
    assert caption(page) == close_to((float(image.logits[other]),) * 2)
    assert "only the predicted and the true class" in page.inner_text("#rim")
    page.click(f"#classes [data-class='{image.predicted}']")
    page.click("#map label:nth-child(1)")
    assert page.evaluate("document.querySelector('#heat').toDataURL()") == votes


def test_a_coarse_map_says_so_and_covers_the_image(
    show: Callable[..., Page], network, monkeypatch
) -> None:
    monkeypatch.setattr(dense, "MAX_BYTES", 3000)
    image = picture(network, 1)
    step = image.dense.step
    assert step > 1
    page = show(image)
    page.click("#map label:nth-child(2)")
    page.wait_for_function("now.image.levels")
    assert f"one of {step} × {step} pixels" in page.inner_text("#rim")
    evidence = dense_evidence(network, normalize(image.pixels[None])[0], image.predicted).numpy()
    for y, x in ((0, 0), (step, 2 * step), (31, 47)):
        taken = evidence[y // step * step + step // 2, x // step * step + step // 2]
        strength = min(abs(taken) / image.limit, 1)
        assert colour(page, y, x)[3] == pytest.approx(0.85 * 255 * strength, abs=2)


def test_the_keyboard_reaches_the_choice_and_it_fits_a_phone(
    show: Callable[..., Page], network
) -> None:
    image = picture(network, 0)
    page = show(image)
    resize(page, 360)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.wait_for_function("now.image.levels")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "map":
            break
    outline = "getComputedStyle(document.activeElement.nextSibling).outlineStyle"
    assert page.evaluate(outline) == "solid"
    before = page.inner_text("#pixels")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#pixels") == before
    assert page.inner_text("#caption").startswith("mean over all pixels")
    assert chosen(page) == image.predicted
    assert page.locator("li.dense").count() == 1
    assert np.isfinite(image.dense.means).all()
    assert CLASSES[image.predicted] in page.inner_text("#shown")


def test_without_maps_there_is_no_choice(page: Page) -> None:
    for selector in ("#map", "#rim"):
        assert not page.is_visible(selector)
    page.click("summary")
    assert not page.is_visible("li.dense")
