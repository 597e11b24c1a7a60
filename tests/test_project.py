"""What the project says of itself is true: its requirements, its configs, its README."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from train import main

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


def lines(name: str) -> list[str]:
    text = (REPOSITORY / name).read_text()
    return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_the_package_needs_what_requirements_txt_lists_in_the_same_ranges():
    assert set(project()["project"]["dependencies"]) <= set(lines("requirements.txt"))


def test_constraints_pin_every_requirement_and_never_the_torch_that_torchvision_cannot_load_beside():
    pinned = {line.split("==")[0].lower() for line in lines("constraints.txt")}
    required = {re.split(r"[<>=!\[]", line)[0].lower() for line in lines("requirements.txt")}
    assert required <= pinned
    assert not any(line.startswith("torch==2.13.0") for line in lines("constraints.txt"))


def test_every_folder_with_code_is_a_package_that_gets_installed():
    assert project()["tool"]["setuptools"]["packages"]["find"]["include"] == [
        "bagnet*",
        "datamodules*",
    ]
    for top in ("bagnet", "datamodules"):
        for file in (REPOSITORY / top).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


def test_the_floors_hold():
    """bagnet and datamodules never import each other; only experiments and bench stand on both."""
    for file in (REPOSITORY / "datamodules").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) bagnet", file.read_text(), re.MULTILINE), file
    for file in (REPOSITORY / "bagnet").rglob("*.py"):
        if file.relative_to(REPOSITORY / "bagnet").parts[0] not in ("experiments", "bench"):
            assert not re.search(
                r"^\s*(from|import) datamodules", file.read_text(), re.MULTILINE
            ), file


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


def readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    commands = "".join(blocks).replace("\\\n", " ").splitlines()
    return [command.split("  #")[0].strip() for command in commands if command.strip()]


@pytest.mark.parametrize(
    "command", [command for command in readme_commands() if "python train.py" in command]
)
def test_the_readmes_training_commands_are_accepted(command, capsys, monkeypatch, tmp_path):
    # The run that the README evaluates, and the configs that it names.
    run = tmp_path / "runs" / "bagnet33" / "config.yaml"
    run.parent.mkdir(parents=True)
    run.write_text(accepted(["--patch", "33", "--data.root", "/data/shards"], capsys))
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command, comments=True)
    arguments = words[words.index("train.py") + 1 :]
    if "--help" in arguments:
        assert main(arguments) == 0
    else:
        accepted(arguments, capsys)


def test_the_readme_shows_the_two_commands():
    assert "make demo" in readme_commands()
    assert "make test" in readme_commands()
