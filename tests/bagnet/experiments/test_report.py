"""The page of all results."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from matplotlib.figure import Figure

from bagnet.experiments.__main__ import main
from bagnet.experiments.measuring import networks
from bagnet.experiments.measuring.results import save_figure, write_table


def read(out: Path) -> ElementTree.Element:
    """Draw and parse the page: it is well-formed, and the parser loads no other file."""
    assert main(["report", "--out", str(out)]) == 0
    return ElementTree.parse(out / "report.html").getroot()


def write(folder: Path, label: str) -> None:
    write_table(
        [{"model": label, "n": 0.5}], {"model": ("", ""), "n": ("n", ".0%")}, folder / "table"
    )
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    save_figure(figure, folder / "figure")


def test_the_page_holds_all_results_that_exist_and_needs_nothing_else(tmp_path):
    write(tmp_path / "errors", "vgg16")
    write(tmp_path / "accuracy", "<script>alert(1)</script> & co")
    (tmp_path / "something else").mkdir()
    page = read(tmp_path)
    assert [title.text for title in page.iter("h2")] == ["accuracy", "errors"]
    cells = [cell.text for cell in page.iter("td")]
    assert cells == ["<script>alert(1)</script> & co", "50%", "vgg16", "50%"]
    assert len(list(page.iter("img"))) == 2
    links = [tag.get(name) for tag in page.iter() for name in ("src", "href") if tag.get(name)]
    assert all(link.startswith("data:image/png;base64,iVBOR") for link in links)
    assert any("McNemar" in about.text for about in page.iter("pre"))  # the protocol


def test_the_page_says_what_was_measured(command, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "SECONDS", 0.0)
    assert main(["accuracy", *command]) == 0
    text = [cell.text for cell in read(tmp_path / "out").iter("td")]
    assert "Predictions()" in text
    assert "36, then 33" in text


def test_without_results_it_says_what_to_run(tmp_path, capsys):
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "has no results to report: run an experiment first" in capsys.readouterr().err
