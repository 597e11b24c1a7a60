"""Texts of YAML are read within bounds, whatever their aliases stand for."""

from __future__ import annotations

import pytest
import yaml
from jsonargparse import ArgumentParser, get_loader

from bagnet.training.command_line.settings import MOST_CHARACTERS, bound_yaml


@pytest.fixture
def read():
    bound_yaml()
    bound_yaml()  # twice is once
    return get_loader("yaml")


def doubled(times: int) -> str:
    """A text of few bytes that stands for 2^times values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, times + 1)]
    return "\n".join(lines)


def test_ordinary_aliases_are_what_they_stand_for(read):
    assert read("a: &a {b: [1, 2e-3]}\nc: *a") == {"a": {"b": [1, 0.002]}, "c": {"b": [1, 0.002]}}
    assert read("a: &a {b: 1}\nc: {<<: *a, d: 2}")["c"] == {"b": 1, "d": 2}
    assert len(read(doubled(10))) == 11


@pytest.mark.parametrize("times", [20, 60])
def test_what_grows_beyond_bounds_is_refused(read, times):
    with pytest.raises(yaml.YAMLError, match="aliases stand for more than 100,000 values"):
        read(doubled(times))


def test_other_bounds(read):
    with pytest.raises(yaml.YAMLError, match="line 3 has an alias of what it is in"):
        read("a: 1\nb: &b\n  c: *b")
    with pytest.raises(yaml.YAMLError, match="line 1 has an alias of what it is in"):
        read("&a [*a]")
    for levels in (51, 900, 100_000):  # the last ends the process if it is read by recursion
        with pytest.raises(yaml.YAMLError, match="more than 50 levels"):
            read("[" * levels + "]" * levels)
    with pytest.raises(yaml.YAMLError, match="more than 1,000,000 characters"):
        read("a" * (MOST_CHARACTERS + 1))


def test_a_config_is_bounded(read, tmp_path, capsys):
    (tmp_path / "bomb.yaml").write_text(doubled(60))
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--a0", type=list[str])
    with pytest.raises(SystemExit):
        parser.parse_args(["--config", str(tmp_path / "bomb.yaml")])
    assert "100,000 values" in capsys.readouterr().err
