"""What the project says of itself is true: its requirements, its configs, its README."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path
from unittest.mock import Mock

import pytest

from bagnet.training.command_line.command import WITHOUT_TRAINER
from datamodules.common import commands
from train import main

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
SWEEP = REPOSITORY / "configs" / "sweep.yaml"  # for W&B, not for train.py
CONFIGS = sorted({*(REPOSITORY / "configs").glob("*.yaml")} - {SWEEP})


def lines(name: str) -> list[str]:
    text = (REPOSITORY / name).read_text()
    return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_the_package_needs_what_requirements_txt_lists_in_the_same_ranges():
    assert set(project()["project"]["dependencies"]) <= set(lines("requirements.txt"))


def test_every_folder_with_code_is_a_package_that_gets_installed():
    assert project()["tool"]["setuptools"]["packages"]["find"]["include"] == [
        "bagnet*",
        "datamodules*",
    ]
    for top in ("bagnet", "datamodules"):
        for file in (REPOSITORY / top).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


def test_datamodules_never_imports_bagnet():
    for file in (REPOSITORY / "datamodules").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) bagnet", file.read_text(), re.MULTILINE), file


def test_each_folder_says_what_belongs_there_and_what_does_not():
    for top in ("bagnet", "datamodules"):
        for file in (REPOSITORY / top).rglob("__init__.py"):
            docstring = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split())
            assert "Here: " in docstring, file
            assert "Not here: " in docstring, file


def test_console_scripts_exist():
    for target in project()["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "slurm/*.md", "benchmarks/*.md", "tests/**/*.md")
    for path in REPOSITORY.glob(pattern)
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_prose_fits_100_columns_and_links_lead_somewhere(page):
    text = page.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for line in prose.splitlines():
        assert len(line) <= 100 or line.lstrip().startswith(("|", "<")), line
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_paths_that_a_page_names_exist(page):
    names = re.findall(
        r"`((?:bagnet|datamodules|configs|slurm|tests|docs)/[\w./-]+)`", page.read_text()
    )
    for name in names:
        assert (REPOSITORY / name).exists(), name


def test_the_architecture_answers_twenty_questions():
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    questions = [line for line in page.splitlines() if re.match(r"\| .*\? \|", line)]
    assert len(questions) == 20
    assert all(re.search(r"\]\(\.\./(bagnet|datamodules)/", line) for line in questions)


def accepted(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The configuration that a command resolves to, without running it."""
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--print_config"])
    captured = capsys.readouterr()
    assert exit_.value.code == 0, captured.err
    return captured.out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_resolves(config, capsys):
    assert "max_epochs" in accepted(["--config", str(config)], capsys)


def commands_of(page: str) -> list[str]:
    """The lines of a page's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)
    commands = re.sub(r"\\\n\s*", "", "".join(blocks)).splitlines()
    return [command.split("  #")[0].strip() for command in commands if command.strip()]


def training_commands() -> list[str]:
    """All commands of all pages that train, evaluate, predict or export."""
    pages = (str(page.relative_to(REPOSITORY)) for page in PAGES)
    found = {command for page in pages for command in commands_of(page) if "$" not in command}
    return sorted(
        line for line in found if re.match(r"(OMP_\S+ )?(python|torchrun.*) train.py", line)
    )


@pytest.mark.parametrize("command", training_commands())
def test_the_training_commands_of_all_pages_are_accepted(command, capsys, monkeypatch, tmp_path):
    # The runs that pages evaluate, and the configs that they name.
    settings = accepted(["--patch", "33", "--data.root", "/data/shards"], capsys)
    for name in ("bagnet33", "scans", "demo"):
        run = tmp_path / "runs" / name / "config.yaml"
        run.parent.mkdir(parents=True)
        run.write_text(settings)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command, comments=True)
    arguments = words[words.index("train.py") + 1 :]
    if "--help" in arguments:
        assert main(arguments) == 0
    elif arguments[0] in WITHOUT_TRAINER:
        options = importlib.import_module(WITHOUT_TRAINER[arguments[0]])
        assert commands.parse(arguments[0], options.COMMAND, arguments[1:])
    else:
        accepted(arguments, capsys)


def page_commands() -> list[str]:
    """All commands of packages that stand on a line of their own, in fenced or indented blocks."""
    command = re.compile(r"^(?: {4})?python -m (?=bagnet|datamodules)(.*?)(?:  .*)?$", re.MULTILINE)
    variable = re.compile(r"^(?: {4})?([A-Z]+)=\"(.*)\"$", re.MULTILINE)
    found = set()
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        for name, value in variable.findall(text):
            text = text.replace(f"${name}", value)
        found |= set(command.findall(text))
    return sorted(found)


@pytest.mark.parametrize("command", page_commands())
def test_the_commands_of_all_pages_are_accepted(command, capsys, monkeypatch):
    package, *words = shlex.split(command, comments=True)
    run = Mock(return_value=0)
    name = package if package == "datamodules.mixing" else f"{package}.__main__"
    entry = importlib.import_module(name).main
    monkeypatch.setattr(commands.importlib, "import_module", lambda name: Mock(run=run))
    assert entry(words) == 0, capsys.readouterr().err
    run.assert_called_once()


def test_the_readme_shows_the_two_commands():
    assert {"make demo", "make test"} <= set(commands_of("README.md"))


def test_the_readme_has_at_most_900_words():
    """By `wc -w`: blocks of code and the lines of tables count, too."""
    assert len(README.split()) <= 900
