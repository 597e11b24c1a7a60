"""The report page in a real browser: what people see is what Python computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bagnet.evidence import evidence_map
from bagnet.evidence.__main__ import main
from bagnet.models import normalize
from bagnet.network import BagNet
from datamodules.transforms import EvalTransform
from tests.bagnet.evidence.browser import Browser
from tests.bagnet.evidence.controls import numbers_of_caption, rows_of, set_step, to_number

pytestmark = pytest.mark.browser

SIDE = 65  # pixels; 5 x 5 patches of 33
CLASSES = [f"class-<u>{number}" for number in range(12)]
EVIL = "<img src=x onerror=document.title='evil'>.png"
FILES = ("b.png", "c.png", EVIL)


@dataclass(frozen=True)
class Report:
    """A page, and for each of its images, in order, what Python says of it."""

    page: Path
    model: BagNet
    names: list[str]
    labels: list[int]
    logits: np.ndarray  # (images, classes)
    evidence: np.ndarray  # (images, classes, 5, 5)

    @property
    def predicted(self) -> list[int]:
        return self.logits.argmax(1).tolist()

    def box(self, image: int, row: int, column: int) -> str:
        top, left, bottom, right = self.model.box(row, column)
        return f"pixels x {left} to {right - 1}, y {top} to {bottom - 1}"


@pytest.fixture(scope="module")
def report(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The second image is right, the others are wrong."""
    folder = tmp_path_factory.mktemp("report")
    torch.manual_seed(1)
    model = BagNet(33, num_classes=len(CLASSES), width=4).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    rng = np.random.default_rng(0)
    pictures = []
    for file in FILES:
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((80, 70), Image.Resampling.BICUBIC)
        picture.save(folder / "x.png")
        seen = EvalTransform(SIDE, SIDE)((folder / "x.png").read_bytes())
        pictures.append((file, picture, normalize(seen[None])))
    inputs = torch.cat([each for *_, each in pictures])
    with torch.no_grad():  # scores of a few logits, as those of trained networks are
        features = model.features(inputs).mean((2, 3))
        model.fc.bias.sub_(model(inputs).mean(0))
        model.fc.weight.mul_(30 / features.norm())
        model.fc.bias.sub_(model(inputs).mean(0))
        logits = model(inputs)
    evidence = evidence_map(model, inputs)
    entries = []
    for row, (file, picture, _) in enumerate(pictures):
        label = (int(logits[row].argmax()) + (row != 1)) % len(CLASSES)
        path = folder / "images" / CLASSES[label] / file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        entries.append((path, label, row))
    entries.sort()
    settings = {"name": "bagnet33", "width": 4, "num_classes": len(CLASSES)}
    content = {"state_dict": model.state_dict(), "hyper_parameters": settings}
    torch.save(content, folder / "tiny.ckpt")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    command = ["report", folder / "images", "--checkpoint", folder / "tiny.ckpt"]
    command += ["--classes", folder / "classes.txt", "--out", folder / "report.html"]
    sizes = ["--image-size", str(SIDE), "--resize-size", str(SIDE)]
    assert main([*map(str, command), *sizes]) == 0
    order = [row for *_, row in entries]
    return Report(
        folder / "report.html",
        model,
        [path.relative_to(folder / "images").as_posix() for path, *_ in entries],
        [label for _, label, _ in entries],
        logits.numpy()[order],
        evidence.numpy()[order],
    )


@pytest.fixture
def browser(chromium: Browser, report: Report) -> Iterator[Browser]:
    """The page, freshly opened. No test may cause an error or a request."""
    chromium.open(report.page)
    yield chromium
    assert chromium.errors == []
    assert chromium.requests == [report.page.as_uri()]
    assert chromium.js("document.title") == "Which patches decide"


def is_chosen(browser: Browser, name: str) -> bool:
    rows = "#classes [aria-pressed=true] .name"
    return browser.js(f"document.querySelector('{rows}').firstChild.textContent") == name


def choose(browser: Browser, name: str) -> None:
    """Click a class of the image's list."""
    number = CLASSES.index(name)
    browser.click(f"#classes [data-class='{number}']")


def point_at(browser: Browser, report: Report, row: int, column: int) -> tuple[float, float]:
    """Where in the window the centre of a patch is."""
    left, top, width, height = browser.box("#stage")
    y0, x0, y1, x1 = report.model.box(row, column)
    return left + (x0 + x1) / 2 / SIDE * width, top + (y0 + y1) / 2 / SIDE * height


def alpha_at(browser: Browser, x: int, y: int) -> list[int]:
    """Colour and opacity of the evidence at a pixel of the image."""
    return browser.js(
        "Object.values(document.querySelector('#heat').getContext('2d')"
        f".getImageData({2 * x}, {2 * y}, 1, 1).data)"
    )


def test_every_patch_shows_its_box_and_its_top_classes(browser: Browser, report: Report) -> None:
    for row, column in np.ndindex(5, 5):
        browser.hover(*point_at(browser, report, row, column))
        assert browser.text("#pixels") == report.box(0, row, column)
        votes = report.evidence[0, :, row, column]
        shown = rows_of(browser, "#votes")
        assert [name for name, _ in shown] == [CLASSES[c] for c in (-votes).argsort()[:5]]
        expected = sorted(votes, reverse=True)[:5]
        np.testing.assert_allclose([value for _, value in shown], expected, atol=0.00501)
        # The frame lies on these very pixels.
        stage, frame = browser.box("#stage"), browser.box("#box")
        top, left, bottom, _ = report.model.box(row, column)
        scale = stage[2] / SIDE
        position = [frame[0] - stage[0], frame[1] - stage[1], frame[2]]
        np.testing.assert_allclose(position, np.array([left, top, bottom - top]) * scale, atol=0.51)


def test_the_cells_have_the_evidences_sign_and_strength_around_the_patches_centres(
    browser: Browser, report: Report
) -> None:
    predicted = report.predicted[0]
    limit = np.percentile(np.abs(report.evidence[0, [predicted, report.labels[0]]]), 99)
    assert to_number(browser.text("#high").removeprefix("≥ ")) == pytest.approx(limit, abs=0.00501)
    assert browser.text("#low") == "≤ −" + browser.text("#high").removeprefix("≥ ")
    signs = set()
    for row, column in np.ndindex(5, 5):
        vote = report.evidence[0, predicted, row, column]
        top, left, bottom, right = report.model.box(row, column)
        red, _, blue, alpha = alpha_at(browser, (left + right) // 2, (top + bottom) // 2)
        assert alpha == pytest.approx(0.85 * 255 * min(abs(vote) / limit, 1), abs=1)
        if alpha > 20:
            assert (red > blue) == (vote > 0)
            signs.add(vote > 0)
    assert signs == {True, False}
    assert alpha_at(browser, 5, 5)[3] == 0  # the rim


def test_the_image_can_be_seen_alone_and_so_can_its_evidence(browser: Browser) -> None:
    seen = "['#image', '#heat'].map(s => getComputedStyle(document.querySelector(s)).visibility)"
    assert browser.js(seen) == ["visible", "visible"]
    for number, expected in ((1, ["visible", "hidden"]), (3, ["hidden", "visible"])):
        browser.click(f"#view label:nth-child({number})")
        assert browser.js(seen) == expected


def test_choosing_a_class_shows_its_evidence_and_the_mean_is_the_logit(
    browser: Browser, report: Report
) -> None:
    order = (-report.logits[0]).argsort()
    listed = [name for name, _ in rows_of(browser, "#classes")]
    assert listed[:10] == [CLASSES[c] for c in order[:10]]
    assert CLASSES[report.labels[0]] in listed
    pictures = set()
    for name in listed:
        choose(browser, name)
        logit = report.logits[0, CLASSES.index(name)]
        assert numbers_of_caption(browser) == pytest.approx((logit, logit), abs=0.00501)
        assert is_chosen(browser, name)
        assert browser.text("#shown") == name
        pictures.add(browser.js("document.querySelector('#heat').toDataURL()"))
    assert len(pictures) == len(listed)


def test_a_class_of_a_patch_can_be_chosen(browser: Browser, report: Report) -> None:
    browser.hover(*point_at(browser, report, 2, 2))
    second = int((-report.evidence[0, :, 2, 2]).argsort()[1])
    browser.click("#votes li:nth-child(2) button")
    assert is_chosen(browser, CLASSES[second])
    vote = to_number(browser.text("#vote").split(" for ")[0])
    assert vote == pytest.approx(report.evidence[0, second, 2, 2], abs=0.00501)


def test_the_threshold_decides_as_the_clipped_mean_does(browser: Browser, report: Report) -> None:
    predictions = set()
    for image in range(len(FILES)):
        steps = browser.js("now.image.thresholds")
        assert steps[0] == 0
        assert browser.js("Number(document.querySelector('#step').max)") == len(steps)
        assert browser.text("#rule") == "off: all votes count"
        votes = report.evidence[image].astype(np.float64)
        before = report.predicted[image]
        for step, threshold in [(0, -np.inf), *enumerate(steps, 1)]:
            set_step(browser, step)
            scores = np.where(votes >= threshold, votes, 0).mean((1, 2))
            after = int(scores.argmax())
            text = browser.text("#decision")
            assert text.startswith(f"Prediction: {CLASSES[after]}")
            assert ("changed from" in text) == (after != before)
            mean, logit = numbers_of_caption(browser)
            assert mean == pytest.approx(scores[before], abs=0.00501)
            assert logit == pytest.approx(report.logits[image, before], abs=0.00501)
            for name, value in rows_of(browser, "#classes"):
                assert value == pytest.approx(scores[CLASSES.index(name)], abs=0.00501)
            assert CLASSES[after] in [name for name, _ in rows_of(browser, "#classes")]
            predictions.add((image, after))
        browser.press("n")
    assert len(predictions) > len(FILES)  # some did change


def test_below_the_threshold_there_is_no_colour(browser: Browser, report: Report) -> None:
    steps = browser.js("now.image.thresholds")
    set_step(browser, len(steps) // 2)
    votes = report.evidence[0, report.predicted[0]]
    for row, column in np.ndindex(5, 5):
        top, left, bottom, right = report.model.box(row, column)
        alpha = alpha_at(browser, (left + right) // 2, (top + bottom) // 2)[3]
        assert (alpha > 0) == (votes[row, column] >= steps[len(steps) // 2 - 1])


def test_arrow_keys_move_the_patch_and_stop_at_the_rim(browser: Browser, report: Report) -> None:
    browser.hover(*point_at(browser, report, 2, 2))
    for key, place in (
        ("ArrowLeft", (2, 1)),
        ("ArrowUp", (1, 1)),
        ("ArrowRight", (1, 2)),
        ("ArrowDown", (2, 2)),
        *[("ArrowDown", (min(2 + i, 4), 2)) for i in range(1, 4)],
    ):
        browser.press(key)
        assert browser.text("#pixels") == report.box(0, *place)
    strongest = CLASSES[report.evidence[0, :, 4, 2].argmax()]
    assert f"row 5, column 3: {strongest}" in browser.js(
        "document.querySelector('#spoken').textContent"
    )
    # The keys have moved it, so the pointer no longer does; Escape lets it go.
    browser.hover(*point_at(browser, report, 0, 0))
    assert browser.text("#pixels") == report.box(0, 4, 2)
    browser.press("Escape")
    browser.hover(*point_at(browser, report, 0, 1))
    assert browser.text("#pixels") == report.box(0, 0, 1)


def test_a_click_holds_the_patch(browser: Browser, report: Report) -> None:
    browser.click("#stage")
    assert browser.text("#pixels") == report.box(0, 2, 2)
    browser.hover(*point_at(browser, report, 0, 0))
    assert browser.text("#pixels") == report.box(0, 2, 2)
    browser.click("#stage")
    browser.hover(*point_at(browser, report, 1, 0))
    assert browser.text("#pixels") == report.box(0, 1, 0)


def test_touch_moves_the_patch(browser: Browser, report: Report) -> None:
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.resize(360, 740)
    browser.js("document.querySelector('#stage').scrollIntoView()")
    browser.touch(point_at(browser, report, 3, 1))
    assert browser.text("#pixels") == report.box(0, 3, 1)
    path = [(3, 1), (2, 2), (1, 3)]
    browser.touch(*[point_at(browser, report, *place) for place in path])
    assert browser.text("#pixels") == report.box(0, 1, 3)
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
            browser.press("PageUp")  # the slider needs these keys itself
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


def test_texts_from_outside_stay_texts(browser: Browser, report: Report) -> None:
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
    """All plain texts have a contrast of at least 4.5 to what they stand on (WCAG AA)."""
    for dark in (False, True):
        browser.prefer(dark)
        browser.settle()
        colours = browser.js(
            "['#name', '#caption', '#verdict b', '#score', '.legend p', 'footer', '.tag'].map(s => {"
            " const e = document.querySelector(s); let below = e, back;"
            " do { back = getComputedStyle(below).backgroundColor; below = below.parentElement; }"
            " while (back === 'rgba(0, 0, 0, 0)');"
            " return [getComputedStyle(e).color, back]; })"
        )
        for pair in colours:
            high, low = sorted((luminance(colour) for colour in pair), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5
        assert (luminance(colours[0][1]) < 0.1) == dark


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG defines it."""
    channels = np.array([float(c) for c in colour[4:-1].split(",")]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
