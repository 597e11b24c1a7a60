"""Unusual reports in a real browser, and how much work a large one does."""

from __future__ import annotations

import pytest
import torch
from playwright.sync_api import Page

from tests.bagnet.evidence.report.reported import CLASSES, caption, random_evidence, rows, votes

pytestmark = pytest.mark.browser


def test_without_true_classes_nothing_is_right_or_wrong(show) -> None:
    page = show(votes(torch.randn(3, 2, 4)))
    assert page.inner_text("#verdict").endswith(", true class unknown")
    assert "true classes unknown" in page.inner_text("#summary")
    assert page.locator(".mark").count() == 0
    assert not page.is_visible("#filter")
    stage = page.locator("#stage").bounding_box()
    # The image is not square.
    assert stage["width"] / stage["height"] == pytest.approx(57 / 41, abs=0.01)


def test_without_votes_above_the_threshold_there_is_no_prediction(show) -> None:
    page = show(votes(-torch.ones(3, 2, 2)))
    page.fill("#step", "1")
    assert page.inner_text("#decision") == "No vote reaches t: no prediction"
    assert caption(page) == (0, -1)


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e7])
def test_numbers_keep_three_digits_at_any_scale(show, scale: float) -> None:
    page = show(votes(torch.tensor([[[1.0, 2.0]], [[-3.0, 4.13]]]) * scale))
    shown = [value for _, value in rows(page, "#votes")]
    assert shown == pytest.approx([4.13 * scale, 2 * scale], rel=1e-3)
    assert page.evaluate("document.documentElement.scrollWidth") == 1280


def test_classes_without_a_map_cannot_be_chosen(show) -> None:
    """Each patch votes for another class, which makes more classes than the report has maps."""
    page = show(votes(torch.eye(144).reshape(144, 12, 12)))
    for entry, kind in (((0, 0), "BUTTON"), ((11, 11), "DIV")):
        page.evaluate("([row, column]) => movePatch(row, column, true)", entry)
        assert rows(page, "#votes")[0] == (CLASSES[12 * entry[0] + entry[1]], 1)
        row = page.locator("#votes li > *").first
        assert row.evaluate("row => row.tagName") == kind
        assert ("has no map of it" in row.get_attribute("title")) == (kind == "DIV")


def test_the_work_for_an_input_does_not_grow_with_images_and_classes(show) -> None:
    """Work is counted in maps that are read and in elements that are made."""
    inputs = {
        "patch": "document.body.dispatchEvent(new KeyboardEvent('keydown', "
        "{key: 'ArrowRight', bubbles: true}))",
        "class": "document.querySelector('#classes li:nth-child(3) button').click()",
        "threshold": "(s => { s.value = 3; s.dispatchEvent(new Event('input')) })"
        "(document.querySelector('#step'))",
        "image": "document.querySelectorAll('#thumbs button')[1].click()",
    }
    few = random_evidence(100, 24)
    many = torch.cat([few, torch.full((900, 24, 24), -20.0)])
    work = []
    for evidence, count in ((few, 2), (many, 50)):
        page = show(*[votes(evidence, label=0)] * count)
        work.append([work_of(page, action) for action in inputs.values()])
    assert work[0] == work[1]
    assert all(maps <= 40 and elements <= 200 for maps, elements in work[0])


def work_of(page: Page, action: str) -> list[int]:
    """Numbers of maps that an input reads and of elements that it adds."""
    return page.evaluate(
        "(() => { const original = evidence; let maps = 0;"
        " evidence = (id) => { maps++; return original(id); };"
        " const observer = new MutationObserver(() => {});"
        " observer.observe(document.body, {childList: true, subtree: true});"
        f" {action};"
        " const added = observer.takeRecords().flatMap(record => [...record.addedNodes]);"
        " observer.disconnect(); evidence = original;"
        " const size = (node) => 1 + (node.querySelectorAll?.('*').length ?? 0);"
        " return [maps, added.reduce((sum, node) => sum + size(node), 0)]; })()"
    )
