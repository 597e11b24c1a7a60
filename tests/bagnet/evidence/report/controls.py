"""What the opened report says, and its controls."""

from __future__ import annotations

from tests.bagnet.evidence.report.browser import Browser
from tests.bagnet.evidence.report.reported import CLASSES, SIDE, Report


def rows_of(browser: Browser, selector: str) -> list[tuple[str, float]]:
    """Name and number of each row of a list of classes."""
    rows = browser.js(
        f"[...document.querySelectorAll('{selector} li')].map(row => "
        "[row.querySelector('.name').firstChild.textContent,"
        " row.querySelector('.number').textContent])"
    )
    return [(name, to_number(number)) for name, number in rows]


def to_number(text: str) -> float:
    return float(text.replace("−", "-"))


def numbers_of_caption(browser: Browser) -> tuple[float, float]:
    text = browser.text("#caption").removesuffix(" (of all votes)")
    mean, logit = text.removeprefix("mean of the shown evidence = ").split(", ")
    return to_number(mean), to_number(logit.removeprefix("logit = "))


def set_step(browser: Browser, step: int) -> None:
    browser.js(
        f"(s => {{ s.value = {step}; s.dispatchEvent(new Event('input')) }})"
        "(document.querySelector('#step'))"
    )
    browser.settle()


def choose(browser: Browser, name: str) -> None:
    """Click a class of the image's list."""
    browser.click(f"#classes [data-class='{CLASSES.index(name)}']")


def is_chosen(browser: Browser, name: str) -> bool:
    rows = "#classes [aria-pressed=true] .name"
    return browser.js(f"document.querySelector('{rows}').firstChild.textContent") == name


def point_at(browser: Browser, report: Report, row: int, column: int) -> tuple[float, float]:
    """Where in the window the centre of a patch is."""
    left, top, width, height = browser.box("#stage")
    y0, x0, y1, x1 = report.model.box(row, column)
    return left + (x0 + x1) / 2 / SIDE * width, top + (y0 + y1) / 2 / SIDE * height
