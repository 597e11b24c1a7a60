"""Unusual reports in a real browser, and how much work a large one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bagnet.evidence.report.html_file import write_report
from bagnet.evidence.report.votes import ImageVotes
from bagnet.model.network import BagNet
from tests.bagnet.evidence.report.browser import Browser
from tests.bagnet.evidence.report.controls import numbers_of_caption, rows_of, set_step

pytestmark = pytest.mark.browser


def open_report(
    chromium: Browser,
    folder: Path,
    evidence: torch.Tensor,
    label: int | None = None,
    count: int = 1,
) -> None:
    """Open a report of an image, or of several equal ones, with this evidence."""
    pixels = torch.zeros(3, 33 + 8 * (evidence.shape[1] - 1), 33 + 8 * (evidence.shape[2] - 1))
    image = ImageVotes("x.png", label, pixels.byte(), evidence.mean((1, 2)), evidence)
    names = [f"class {number}" for number in range(len(evidence))]
    model = BagNet(33, num_classes=2, width=2)
    write_report(folder / "report.html", [image] * count, names, model, "x.ckpt")
    chromium.open(folder / "report.html")


def test_without_true_classes_nothing_is_right_or_wrong(chromium: Browser, tmp_path: Path) -> None:
    open_report(chromium, tmp_path, torch.randn(3, 2, 4))
    assert chromium.text("#verdict").endswith(", true class unknown")
    assert "true classes unknown" in chromium.text("#summary")
    assert chromium.js("document.querySelectorAll('.mark').length") == 0
    assert not any(chromium.box("#filter"))
    _, _, width, height = chromium.box("#stage")
    assert width / height == pytest.approx(57 / 41, abs=0.01)  # an image that is not square
    assert chromium.errors == []


def test_without_votes_above_the_threshold_there_is_no_prediction(
    chromium: Browser, tmp_path: Path
) -> None:
    open_report(chromium, tmp_path, -torch.ones(3, 2, 2))
    set_step(chromium, 1)
    assert chromium.text("#decision") == "No vote reaches t: no prediction"
    assert numbers_of_caption(chromium) == (0, -1)
    assert chromium.errors == []


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e7])
def test_numbers_keep_three_digits_at_any_scale(
    chromium: Browser, tmp_path: Path, scale: float
) -> None:
    evidence = torch.tensor([[[1.0, 2.0]], [[-3.0, 4.13]]]) * scale
    open_report(chromium, tmp_path, evidence)
    shown = [value for _, value in rows_of(chromium, "#votes")]
    assert shown == pytest.approx([4.13 * scale, 2 * scale], rel=1e-3)
    assert chromium.js("document.documentElement.scrollWidth") == 1280


def test_classes_without_a_map_cannot_be_chosen(chromium: Browser, tmp_path: Path) -> None:
    """Each patch votes for another class, which makes more classes than the report has maps."""
    evidence = torch.eye(144).reshape(144, 12, 12)
    open_report(chromium, tmp_path, evidence)
    kinds = set()
    for row, column in ((0, 0), (11, 11)):
        chromium.js(f"movePatch({row}, {column}, true)")
        number = 12 * row + column
        assert rows_of(chromium, "#votes")[0] == (f"class {number}", 1)
        kind, title = chromium.js(
            "(row => [row.tagName, row.title])(document.querySelector('#votes li').firstChild)"
        )
        kinds.add(kind)
        assert ("has no map of it" in title) == (kind == "DIV")
    assert kinds == {"BUTTON", "DIV"}
    assert chromium.errors == []


def test_the_work_for_an_input_does_not_grow_with_images_and_classes(
    chromium: Browser, tmp_path: Path
) -> None:
    """Work is counted in maps that are read and in elements that are made."""
    inputs = {
        "patch": "document.body.dispatchEvent(new KeyboardEvent('keydown', "
        "{key: 'ArrowRight', bubbles: true}))",
        "class": "document.querySelector('#classes li:nth-child(3) button').click()",
        "threshold": "(s => { s.value = 3; s.dispatchEvent(new Event('input')) })"
        "(document.querySelector('#step'))",
        "image": "document.querySelectorAll('#thumbs button')[1].click()",
    }
    few = torch.randn(100, 24, 24, generator=torch.Generator().manual_seed(0)) * 3
    many = torch.cat([few, torch.full((900, 24, 24), -20.0)])
    work = []
    for evidence, count in ((few, 2), (many, 50)):
        open_report(chromium, tmp_path, evidence, label=0, count=count)
        work.append({name: work_of(chromium, action) for name, action in inputs.items()})
        assert chromium.errors == []
    assert work[0] == work[1]
    assert all(maps <= 40 and elements <= 200 for maps, elements in work[0].values())


def work_of(chromium: Browser, action: str) -> list[int]:
    """Numbers of maps that an input reads and of elements that it adds."""
    return chromium.js(
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
