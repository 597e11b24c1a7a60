"""Each number on a study's page is one of the CSV that its table or its section names."""

from __future__ import annotations

import csv
import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("study*.md"))
TABLE = re.compile(r"<!-- (study/\S+\.csv) -->\n+((?:\|.*\n)+)")
NAMED = re.compile(r"(study/\S+\.csv)")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?%?")
NOT_PROSE = re.compile(r"```[^`]*```|<!--[^>]*-->|^\|[^\n]*$|`[^`]*`|\]\([^)]*\)", re.MULTILINE)
IN_PROSE = re.compile(r"(?<![\w.,])-?\d*\.\d+%?|(?<![\w.,])\d+%")
NOT_MEASURED_HERE = {
    "95%": "the level of the intervals",
    "10%": "chance, ten classes",
    "0.5%": "chance, 200 classes",
    "79.4%": "the paper's",
    "90.1%": "the paper's",
}


def tables(page: str) -> list[tuple[str, list[list[str]]]]:
    """The CSV of each table, and the cells of its rows, the head first."""
    return [
        (name, [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()])
        for name, text in TABLE.findall(page)
    ]


def shows(text: str, value: float) -> bool:
    """Whether a number on the page is a value, rounded to the digits that it has."""
    digits = text.rstrip("%").replace(",", "")
    value *= 100 if text.endswith("%") else 1
    mantissa, _, power = digits.partition("e")
    unit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
    return abs(float(digits) - value) <= unit / 2 * (1 + 1e-9)


def not_in(rows: list[dict[str, str]], cells: list[str]) -> list[str]:
    """The numbers of a table's row that are not in the rows of the CSV with the same words."""
    words = [cell for cell in cells if cell and not NUMBER.match(cell) and cell != "–"]
    own = [row for row in rows if set(words) <= set(row.values())]
    assert own, f"no row has {words}"
    values = []
    for row in own:
        for value in row.values():
            try:
                values.append(float(value))
            except ValueError:
                continue
    given = [text for cell in cells if cell not in words for text in NUMBER.findall(cell)]
    return [text for text in given if not any(shows(text, value) for value in values)]


def rows_of(name: str) -> list[dict[str, str]]:
    with (DOCS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def values_of(names: set[str]) -> list[float]:
    cells = (cell for name in names for row in rows_of(name) for cell in row.values())
    return [float(cell) for cell in cells if re.fullmatch(r"-?[\d.]+(?:e[+-]?\d+)?", cell)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_number_in_the_tables_is_in_its_csv(page):
    found = tables(page.read_text())
    assert len(found) >= 5
    for name, (_, _, *rows) in found:
        for cells in rows:
            assert not not_in(rows_of(name), cells), f"{name}: {cells}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_measured_number_in_the_text_is_in_a_csv_of_its_section(page):
    for section in page.read_text().split("\n## "):
        values = values_of(set(NAMED.findall(section)))
        for text in IN_PROSE.findall(NOT_PROSE.sub(" ", section)):
            known = text in NOT_MEASURED_HERE or any(shows(text, value) for value in values)
            assert known, f"{section.splitlines()[0]}: {text}"


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("46.5%", 0.465, True),
        ("46.5%", 0.46449, False),
        ("867,610", 867610.0, True),
        ("0.97", 0.9651, True),
        ("0.97", 0.9649, False),
        ("-0.02", -0.0151, True),
        ("9.4e-07", 9.382e-07, True),
        ("9.4e-07", 9.46e-07, False),
        ("5e-16", 5.4e-16, True),
    ],
)
def test_a_number_is_a_value_to_its_last_digit(text, value, shown):
    assert shows(text, value) is shown


def test_a_number_of_another_row_is_found_out():
    rows = [{"model": "a", "top1": "0.5"}, {"model": "b", "top1": "0.25"}]
    assert not_in(rows, ["a", "50.0%"]) == []
    assert not_in(rows, ["a", "25.0%"]) == ["25.0%"]
    with pytest.raises(AssertionError, match="no row"):
        not_in(rows, ["c", "50.0%"])


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_files_of_a_study_have_all_epochs_and_the_spread_over_seeds(tmp_path, monkeypatch):
    for seed, top1 in (("0", 0.5), ("1", 0.75)):
        rows = "epoch,train/loss,val/loss,val/top1,val/top5\n0,4,,,\n0,2,3,0.25,1\n"
        write(tmp_path / f"runs/few-bagnet9-{seed}/metrics.csv", rows)
        tables = {
            "accuracy": f"model,top1,top5\nbagnet9,{top1},1\n",
            "scrambling": f"model,order,same\nbagnet9,as it is,\nbagnet9,2x2,{top1}\n",
            "errors": f"first,second,consistency\nbagnet9,vgg11,{seed}\n",
        }
        for name, table in tables.items():
            write(tmp_path / f"results/few-{seed}/{name}/table.csv", table)
    program = DOCS.parent / "benchmarks" / "study_files.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(program), "few", "out"])
    runpy.run_path(str(program), run_name="__main__")
    assert (tmp_path / "out/accuracy.csv").read_text() == tables["accuracy"].replace("0.75", "0.5")
    assert (tmp_path / "out/training.csv").read_text().splitlines() == [
        "network,seed,epoch,train_loss,val_loss,top1,top5",
        "bagnet9,0,1,2,3,0.25,1",
        "bagnet9,1,1,2,3,0.25,1",
    ]
    spread = "0.625,0.1767766952966369"  # the mean and the sample standard deviation
    assert (tmp_path / "out/seeds.csv").read_text().splitlines() == [
        "figure,network,seed_0,seed_1,mean,deviation",
        f"top-1,bagnet9,0.5,0.75,{spread}",
        "top-5,bagnet9,1.0,1.0,1.0,0.0",
        f'"same class, 2x2",bagnet9,0.5,0.75,{spread}',
        'error consistency,"bagnet9, vgg11",0.0,1.0,0.5,0.7071067811865476',
    ]
