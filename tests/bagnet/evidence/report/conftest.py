"""Reports in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

from tests.bagnet.evidence.report.reported import Report


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium to open the page in (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def blank(chromium: Browser) -> Iterator[Page]:
    """A page that must end as a report without any error or request."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900}, has_touch=True)
    page.set_default_timeout(60_000)  # the machine may be busy
    errors: list[str] = []
    requests: list[Request] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request))
    yield page
    assert page.title() == "Which patches decide"
    assert errors == []
    assert all(request.is_navigation_request() for request in requests)
    page.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report.write(tmp_path_factory.mktemp("report"))


@pytest.fixture
def page(blank: Page, report: Report) -> Page:
    """The report, just opened."""
    blank.goto(report.page.as_uri())
    return blank
