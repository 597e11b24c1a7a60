"""The page of all results."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from bagnet.experiments.__main__ import main
from bagnet.experiments.decisions import networks
from bagnet.experiments.measuring.models import ModelFile
from bagnet.experiments.measuring.parts import PartFiles
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
    assert links[:2] == ["#accuracy", "#errors"]  # the contents
    assert [section.get("id") for section in page.iter("section")] == ["accuracy", "errors"]
    assert all(link.startswith("data:image/png;base64,iVBOR") for link in links[2:])
    assert any("McNemar" in about.text for about in page.iter("pre"))  # the protocol


def test_the_page_is_dark_where_the_reader_wants_it(tmp_path):
    write(tmp_path / "errors", "vgg16")
    page = read(tmp_path)
    assert "prefers-color-scheme: dark" in next(page.iter("style")).text
    schemes = [meta.get("content") for meta in page.iter("meta") if meta.get("name")]
    assert "light dark" in schemes


def test_the_page_says_what_was_measured(command, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "SECONDS", 0.0)
    assert main(["accuracy", *command]) == 0
    out = tmp_path / "out"
    page = read(out)
    text = [cell.text for cell in page.iter("td")]
    assert "36, then 33" in text
    assert "Predictions" not in "".join(page.itertext())
    assert not [p for p in page.iter("p") if p.get("class") == "warning"]
    sizes = ["--data.image_size", "32", "--limit", "5", "--steps", "2"]
    assert main(["deletion", *command, *sizes]) == 0
    page = read(out)
    settings = "methods evidence, random; steps 2; cell 8; fill zero; pooling mean; seed 0; "
    assert f"{settings}integration_steps 32" in [cell.text for cell in page.iter("td")]
    (warning,) = (p.text for p in page.iter("p") if p.get("class") == "warning")
    assert warning == (
        "The images had different sizes. accuracy: 36, then 33 px; deletion: 36, then 32 px."
    )


def test_it_says_where_the_page_is(tmp_path, capsys):
    write(tmp_path / "accuracy", "bagnet9")
    read(tmp_path)
    assert capsys.readouterr().out.endswith(f"\n1 experiment: {tmp_path / 'report.html'}\n")


def test_without_results_it_says_what_to_run(tmp_path, capsys):
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "has no results to report: run an experiment first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "odd", [{"measurement": 5}, {"measurement": "f("}, {"weights": None}, {"weights": ["a"]}, {}]
)
def test_results_with_a_record_that_makes_no_sense_are_named(tmp_path, capsys, odd):
    write(tmp_path / "errors", "mine")
    record = {"measurement": "A(b=1)", "weights": "0", "data": "1", "images": 1, "image_size": 9}
    whole = {**record, "resize_size": 9}
    for name, own in {"fine": whole, "odd": {**(whole if odd else record), **odd}}.items():
        files = PartFiles(tmp_path / "errors", ModelFile(name, tmp_path), own)
        files.write(files.whole, [pa.table({"sample_id": [0]})])
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "errors/odd.parquet was not written by an experiment (" in capsys.readouterr().err
