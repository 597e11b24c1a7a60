"""The report in a real browser: pointer, keys and touch, on any screen."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bagnet.evidence.report.browser import Browser
from tests.bagnet.evidence.report.controls import is_chosen, point_at
from tests.bagnet.evidence.report.reported import CLASSES, EVIL, Report

pytestmark = pytest.mark.browser


def test_arrow_keys_move_the_patch_and_stop_at_the_edge(browser: Browser, report: Report) -> None:
    browser.hover(*point_at(browser, report, 2, 2))
    for key, place in (
        ("ArrowLeft", (2, 1)),
        ("ArrowUp", (1, 1)),
        ("ArrowRight", (1, 2)),
        ("ArrowDown", (2, 2)),
        *[("ArrowDown", (min(2 + i, 4), 2)) for i in range(1, 4)],
    ):
        browser.press(key)
        assert browser.text("#pixels") == report.pixels(*place)
    strongest = CLASSES[report.evidence[0, :, 4, 2].argmax()]
    assert f"row 5, column 3: {strongest}" in browser.js(
        "document.querySelector('#spoken').textContent"
    )
    # After the keys moved it, the pointer no longer does; Escape releases it.
    browser.hover(*point_at(browser, report, 0, 0))
    assert browser.text("#pixels") == report.pixels(4, 2)
    browser.press("Escape")
    browser.hover(*point_at(browser, report, 0, 1))
    assert browser.text("#pixels") == report.pixels(0, 1)


def test_a_click_holds_the_patch(browser: Browser, report: Report) -> None:
    browser.click("#stage")
    assert browser.text("#pixels") == report.pixels(2, 2)
    browser.hover(*point_at(browser, report, 0, 0))
    assert browser.text("#pixels") == report.pixels(2, 2)
    browser.click("#stage")
    browser.hover(*point_at(browser, report, 1, 0))
    assert browser.text("#pixels") == report.pixels(1, 0)


def test_touch_moves_the_patch(browser: Browser, report: Report) -> None:
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.resize(360, 740)
    browser.js("document.querySelector('#stage').scrollIntoView()")
    browser.touch(point_at(browser, report, 3, 1))
    assert browser.text("#pixels") == report.pixels(3, 1)
    path = [(3, 1), (2, 2), (1, 3)]
    browser.touch(*[point_at(browser, report, *place) for place in path])
    assert browser.text("#pixels") == report.pixels(1, 3)
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_keys_turn_the_images(browser: Browser, report: Report) -> None:
    for key, image in (("n", 1), ("PageDown", 2), ("n", 2), ("p", 1), ("PageUp", 0), ("p", 0)):
        browser.press(key)
        assert browser.text("#name") == report.names[image]
        predicted = CLASSES[report.predicted[image]]
        assert browser.text("#verdict").startswith(f"predicted {predicted}")
        assert is_chosen(browser, predicted)
        current = "thumbs.findIndex(thumb => thumb.ariaCurrent === 'true')"
        assert browser.js(current) == image


def test_everything_can_be_done_with_the_keyboard(browser: Browser, report: Report) -> None:
    """Tab reaches every control, and each shows that it has the focus."""
    reached = []
    before = browser.text("#pixels")
    for _ in range(60):
        browser.press("Tab")
        reached.append(
            browser.js(
                "(e => e.id || e.name || e.tagName + (e.dataset.class ?? ''))"
                "(document.activeElement)"
            )
        )
        if reached[-1] == "step":
            browser.press("ArrowRight")
            assert browser.text("#rule").startswith("t = 0.00")
            browser.press("PageUp")  # keys that the slider uses itself
            assert not browser.text("#rule").startswith("t = 0.00")
            assert browser.text("#name") == report.names[0]
            assert browser.text("#pixels") == before
        if reached[-1] == "BODY":
            break
        outline = "(e => getComputedStyle(e.name === 'view' ? e.nextSibling : e).outlineStyle)"
        assert browser.js(f"{outline}(document.activeElement)") == "solid"
    second = int((-report.logits[0]).argsort()[1])
    for control in ("SUMMARY", "errors", "stage", "view", "step", f"BUTTON{second}"):
        assert control in reached
    browser.js(f"document.querySelector('#classes [data-class=\"{second}\"]').focus()")
    browser.press("Enter")
    assert is_chosen(browser, CLASSES[second])
    assert browser.js("document.activeElement.dataset.class") == str(second)


def test_right_and_wrong_images_are_marked_and_filtered(browser: Browser, report: Report) -> None:
    wrong = [p != label for p, label in zip(report.predicted, report.labels, strict=True)]
    assert sum(wrong) == 2
    marks = browser.js("[...document.querySelectorAll('.mark')].map(mark => mark.textContent)")
    assert marks == ["✗" if each else "✓" for each in wrong]
    assert "1 of 3 right" in browser.text("#summary")
    browser.click("#errors")
    visible = "[...document.querySelectorAll('#thumbs li')].map(li => !li.hidden)"
    assert browser.js(visible) == wrong
    shown = []
    for _ in range(3):
        shown.append(browser.text("#name"))
        assert "true class " + CLASSES[report.labels[report.names.index(shown[-1])]] in (
            browser.text("#verdict")
        )
        browser.press("n")
    errors = [name for name, each in zip(report.names, wrong, strict=True) if each]
    assert list(dict.fromkeys(shown)) == errors
    assert browser.text("#position") == "2 of 2"


def test_names_of_files_stay_text(browser: Browser, report: Report) -> None:
    index = next(i for i, name in enumerate(report.names) if name.endswith(EVIL))
    for _ in range(index):
        browser.press("n")
    assert browser.text("#name") == report.names[index]
    assert browser.js("document.querySelectorAll('[onerror], [src=x]').length") == 0


def test_the_page_fits_a_phone(browser: Browser) -> None:
    for width in (360, 800, 1280):
        browser.resize(width, 740)
        browser.settle()
        assert browser.js("document.documentElement.scrollWidth") == width


def test_light_and_dark_schemes_are_readable(browser: Browser) -> None:
    """All plain text has a contrast of at least 4.5 to its background (WCAG AA)."""
    for dark in (False, True):
        browser.prefer(dark)
        browser.settle()
        colours = browser.js(
            "['#name', '#caption', '#verdict b', '#score', '.legend p', 'footer', '.tag']"
            ".map(s => { const e = document.querySelector(s); let below = e, back;"
            " do { back = getComputedStyle(below).backgroundColor; below = below.parentElement; }"
            " while (back === 'rgba(0, 0, 0, 0)');"
            " return [getComputedStyle(e).color, back]; })"
        )
        for pair in colours:
            high, low = sorted((luminance(colour) for colour in pair), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5
        assert (luminance(colours[0][1]) < 0.1) == dark


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    channels = np.array([float(c) for c in colour[4:-1].split(",")]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
