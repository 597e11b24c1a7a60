"""The command line of the experiments."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bagnet.experiments import report
from bagnet.experiments.__main__ import COMMANDS, main
from datamodules.common.commands import docstring_of


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_experiment_is_its_protocol(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert " ".join(docstring_of(COMMANDS[name].module).split()) in out
    assert "--out PATH" in out
    # Every option is explained, also those that are inherited.
    assert ("Networks to measure" in out) == ("--models" in out)


def test_the_list_of_experiments_has_a_line_for_each_and_needs_no_torch():
    code = (
        "import sys; from bagnet.experiments.__main__ import main; "
        "main(['--help']); print('torch' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert all(f"  {name} " in out for name in COMMANDS)
    assert out.splitlines()[-1] == "False"


def test_a_stopped_command_says_that_it_can_be_resumed(monkeypatch, capsys):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "run", stop)
    assert main(["report", "--out", "x"]) == 130
    assert capsys.readouterr().err == "stopped; the same command resumes with what is left\n"
