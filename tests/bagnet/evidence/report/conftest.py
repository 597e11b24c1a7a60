"""Reports in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

from bagnet.evidence.report.html_file import write_report
from bagnet.evidence.report.votes import ImageVotes
from tests.bagnet.evidence.report.reported import CLASSES, IMAGES, MODEL


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
def show(chromium: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens a report on some images, which must not cause any error or request."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900}, has_touch=True)
    page.set_default_timeout(60_000)  # the machine may be busy
    errors: list[str] = []
    requests: list[Request] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request))

    def run(*images: ImageVotes) -> Page:
        path = tmp_path / "report.html"
        write_report(path, images, CLASSES[: len(images[0].logits)], MODEL, "x.ckpt", "32 px")
        page.goto(path.as_uri())
        return page

    yield run
    assert page.title() == "Which patches decide"
    assert errors == []
    assert all(request.is_navigation_request() for request in requests)
    page.close()


@pytest.fixture
def page(show: Callable[..., Page]) -> Page:
    return show(*IMAGES)
