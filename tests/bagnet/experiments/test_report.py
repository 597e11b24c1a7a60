"""The page of all results."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from bagnet.experiments.__main__ import main
from bagnet.experiments.measuring.results import save_figure, write_table


class Page(HTMLParser):
    """The text of a page, its tags, and whether they are closed as they should."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def write(folder, label: str) -> None:
    write_table(
        [{"model": label, "n": 0.5}],
        {"model": ("network", ""), "n": ("n", ".0%")},
        folder / "table",
    )
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    save_figure(figure, folder / "figure")


def test_the_page_holds_all_results_that_exist_and_needs_nothing_else(tmp_path):
    write(tmp_path / "errors", "vgg16")
    write(tmp_path / "accuracy", "<script>alert(1)</script> & co")
    (tmp_path / "something else").mkdir()
    assert main(["report", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == ["accuracy", "errors"]
    assert "<script>alert(1)</script> & co" in page.text  # as text, that is
    assert "script" not in {tag for tag, _ in page.tags}
    assert "50%" in page.text
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2
    assert all(source and source.startswith("data:image/png;base64,iVBOR") for source in images)
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert any("McNemar" in words for words in page.text)  # the protocol


def test_the_page_says_what_was_measured(command, tmp_path):
    from bagnet.experiments.measuring import networks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "SECONDS", 0.0)
        assert main(["accuracy", *command]) == 0
    assert main(["report", "--out", str(tmp_path / "out")]) == 0
    text = Page((tmp_path / "out" / "report.html").read_text()).text
    assert "Predictions()" in text
    assert "36, then 33" in text


def test_without_results_it_says_what_to_run(tmp_path, capsys):
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "has no results to report: run an experiment first" in capsys.readouterr().err
