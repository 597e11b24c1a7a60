"""What the report page says, and its controls, for the tests that open it."""

from __future__ import annotations

from tests.bagnet.evidence.report.browser import Browser


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
