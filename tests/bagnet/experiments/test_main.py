"""The command line of the experiments."""

from __future__ import annotations

import pytest

from bagnet.experiments.__main__ import EXPERIMENTS, main


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_help_of_each_experiment_is_its_protocol(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert (EXPERIMENTS[name].__doc__ or "").strip().splitlines()[-1] in out
    assert "--out DIR" in out


def test_the_list_of_experiments_has_a_line_for_each(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"    {name}" in out for name in EXPERIMENTS)


def test_what_is_stopped_says_how_to_go_on(monkeypatch, capsys):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(EXPERIMENTS["report"], "run", stop)
    assert main(["report", "--out", "x"]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on with what is left\n"
