"""One browser and one report for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bagnet.evidence.report.browser import CHROMIUM, Browser
from tests.bagnet.evidence.report.reported import Report, make_report


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page in (Debian: apt-get install chromium)")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report(tmp_path_factory.mktemp("report"))


@pytest.fixture
def browser(chromium: Browser, report: Report) -> Iterator[Browser]:
    """A browser that has just opened the report. No test may cause an error or a request."""
    chromium.open(report.page)
    yield chromium
    assert chromium.errors == []
    assert chromium.requests == [report.page.as_uri()]
    assert chromium.js("document.title") == "Which patches decide"
