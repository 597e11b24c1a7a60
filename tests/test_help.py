"""The help of every command fits a terminal of 80 columns; only train.py's lists Lightning's."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pytest

from bagnet.bench.__main__ import BENCHMARKS
from bagnet.evidence.__main__ import COMMANDS as EVIDENCE
from bagnet.experiments.__main__ import COMMANDS as EXPERIMENTS
from bagnet.training.command_line.flags import short_help
from datamodules.audit.__main__ import COMMAND as AUDIT
from datamodules.common.commands import Command, main
from datamodules.demo.__main__ import COMMAND as DEMO
from datamodules.pack.__main__ import COMMANDS as PACK

MANY: dict[str, Mapping[str, Command]] = {
    "bagnet.bench": BENCHMARKS,
    "bagnet.evidence": EVIDENCE,
    "bagnet.experiments": EXPERIMENTS,
    "datamodules.pack": PACK,
}
EACH: list[tuple[str, Mapping[str, Command] | Command, list[str]]] = [
    ("datamodules.audit", AUDIT, []),
    ("datamodules.demo", DEMO, []),
    *((program, commands, []) for program, commands in MANY.items()),
    *((program, commands, [name]) for program, commands in MANY.items() for name in commands),
]


@pytest.mark.parametrize(("program", "commands", "words"), EACH)
def test_the_help_of_a_command_fits_80_columns(program, commands, words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.suppress(SystemExit):
        main(f"python -m {program}", commands, [*words, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: python -m {program}")
    assert max(map(len, lines)) <= 80


def test_the_help_of_a_training_fits_80_columns():
    assert max(map(len, short_help().splitlines())) <= 80
