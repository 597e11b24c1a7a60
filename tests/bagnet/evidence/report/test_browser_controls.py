"""The report in a real browser: pointer, keys and touch, on any screen."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.bagnet.evidence.report.reported import CLASSES, IMAGES, NAMES, chosen, place, point

pytestmark = pytest.mark.browser


def resize(page: Page, width: int) -> None:
    """Like `set_viewport_size`, but narrow windows are phones."""
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 600}
    page.context.new_cdp_session(page).send("Emulation.setDeviceMetricsOverride", size)


def test_arrow_keys_move_the_patch_and_stop_at_the_edge(page: Page) -> None:
    page.mouse.move(*point(page, 2, 2))
    places = {"Left": [(2, 1)], "Up": [(1, 1)], "Right": [(1, 2)]}
    places["Down"] = [(2, 2), (3, 2), (4, 2), (4, 2)]
    for key, expected in places.items():
        for entry in expected:
            page.keyboard.press(f"Arrow{key}")
            assert page.inner_text("#pixels") == place(*entry)
    strongest = CLASSES[IMAGES[0].evidence[:, 4, 2].argmax()]
    assert f"row 5, column 3: {strongest}" in page.text_content("#spoken")
    # After the keys moved it, the pointer no longer does; Escape releases it.
    page.mouse.move(*point(page, 0, 0))
    assert page.inner_text("#pixels") == place(4, 2)
    page.keyboard.press("Escape")
    page.mouse.move(*point(page, 0, 1))
    assert page.inner_text("#pixels") == place(0, 1)


def test_a_click_holds_the_patch(page: Page) -> None:
    for to, shown in (((0, 0), (2, 2)), ((1, 0), (1, 0))):  # held, then released
        page.click("#stage")
        assert page.inner_text("#pixels") == place(2, 2)
        page.mouse.move(*point(page, *to))
        assert page.inner_text("#pixels") == place(*shown)


def test_touch_moves_the_patch(page: Page) -> None:
    resize(page, 360)
    page.locator("#stage").evaluate("stage => stage.scrollIntoView()")
    page.touchscreen.tap(*point(page, 3, 1))
    assert page.inner_text("#pixels") == place(3, 1)
    touch = page.context.new_cdp_session(page)
    for kind, entry in (("Start", (3, 1)), ("Move", (2, 2)), ("Move", (1, 3)), ("End", None)):
        points = [dict(zip("xy", point(page, *entry), strict=True))] if entry else []
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    assert page.inner_text("#pixels") == place(1, 3)


def test_the_image_can_be_seen_alone_and_so_can_its_evidence(page: Page) -> None:
    for number, expected in ((2, (True, True)), (1, (True, False)), (3, (False, True))):
        page.click(f"#view label:nth-child({number})")
        assert (page.is_visible("#image"), page.is_visible("#heat")) == expected


def test_keys_turn_the_images_whose_names_stay_text(page: Page) -> None:
    for key, number in (("n", 1), ("PageDown", 2), ("n", 2), ("p", 1), ("PageUp", 0), ("p", 0)):
        page.keyboard.press(key)
        image = IMAGES[number]
        assert page.inner_text("#name") == image.name
        assert page.inner_text("#verdict").startswith(f"predicted {CLASSES[image.predicted]}")
        assert chosen(page) == image.predicted
        assert page.evaluate("thumbs.findIndex(thumb => thumb.ariaCurrent === 'true')") == number
        assert page.locator("[onerror], [src=x], u").count() == 0


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    """Tab reaches every control, and each shows that it has the focus."""
    reached = []
    before = page.inner_text("#pixels")
    while not reached or reached[-1] != "BODY":
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "(e => [e.id || e.name || e.tagName + (e.dataset.class ?? ''),"
            " getComputedStyle(e.name === 'view' ? e.nextSibling : e).outlineStyle])"
            "(document.activeElement)"
        )
        assert outline == "solid" or name == "BODY"
        assert len(reached) < 60
        reached.append(name)
        if name == "step":
            page.keyboard.press("ArrowRight")
            assert page.inner_text("#rule").startswith("t = 0.00")
            page.keyboard.press("PageUp")  # keys that the slider uses itself
            assert not page.inner_text("#rule").startswith("t = 0.00")
            assert page.inner_text("#name") == NAMES[0]
            assert page.inner_text("#pixels") == before
    second = int(IMAGES[0].logits.argsort(descending=True)[1])
    assert {"SUMMARY", "errors", "stage", "view", "step", f"BUTTON{second}"} <= set(reached)
    page.press(f"#classes [data-class='{second}']", "Enter")
    assert chosen(page) == second
    assert page.evaluate("document.activeElement.dataset.class") == str(second)


def test_right_and_wrong_images_are_marked_and_filtered(page: Page) -> None:
    assert page.locator(".mark").all_text_contents() == ["✗", "✓", "✗"]
    assert "1 of 3 right" in page.inner_text("#summary")
    page.check("#errors")
    assert [item.is_visible() for item in page.locator("#thumbs li").all()] == [True, False, True]
    for number in (0, 2, 2):
        assert page.inner_text("#name") == NAMES[number]
        assert f"true class {CLASSES[IMAGES[number].label]}" in page.inner_text("#verdict")
        page.keyboard.press("n")
    assert page.inner_text("#position") == "2 of 2"


def test_the_page_fits_any_screen(page: Page) -> None:
    for width in (360, 800, 1280):
        resize(page, width)
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_schemes_are_readable(page: Page, scheme: str) -> None:
    """All plain text has a contrast of at least 4.5 to its background (WCAG AA)."""
    page.emulate_media(color_scheme=scheme)
    colours = page.evaluate(
        "['#name', '#caption', '#verdict b', '#score', '.legend p', 'footer', '.tag']"
        ".map(s => { const e = document.querySelector(s); let below = e, back;"
        " do { back = getComputedStyle(below).backgroundColor; below = below.parentElement; }"
        " while (back === 'rgba(0, 0, 0, 0)');"
        " return [getComputedStyle(e).color, back]; })"
    )
    for pair in colours:
        low, high = sorted(map(luminance, pair))
        assert (high + 0.05) / (low + 0.05) >= 4.5
    assert (luminance(colours[0][1]) < 0.1) == (scheme == "dark")


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    channels = np.array([float(c) for c in colour[4:-1].split(",")]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
