"""Texts of YAML are read within bounds, whatever their aliases stand for."""

from __future__ import annotations

import pytest
import yaml

from datamodules.common.yaml_texts import MOST_CHARACTERS, check_yaml, read_yaml


def read(text):
    check_yaml(text)
    return yaml.safe_load(text)


def doubled(times: int) -> str:
    """A text of few bytes that stands for 2^times values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, times + 1)]
    return "\n".join(lines)


def test_ordinary_aliases_are_what_they_stand_for():
    assert read("a: &a {b: [1, 2.0e-3]}\nc: *a") == {"a": {"b": [1, 0.002]}, "c": {"b": [1, 0.002]}}
    assert read("a: &a {b: 1}\nc: {<<: *a, d: 2}")["c"] == {"b": 1, "d": 2}
    assert len(read(doubled(10))) == 11


@pytest.mark.parametrize("times", [20, 60])
def test_what_grows_beyond_bounds_is_refused(times):
    with pytest.raises(yaml.YAMLError, match="aliases stand for more than 100,000 values"):
        read(doubled(times))


def test_other_bounds():
    with pytest.raises(yaml.YAMLError, match="line 3 has an alias of what it is in"):
        read("a: 1\nb: &b\n  c: *b")
    with pytest.raises(yaml.YAMLError, match="line 1 has an alias of what it is in"):
        read("&a [*a]")
    for levels in (51, 900, 100_000):  # the last ends the process if it is read by recursion
        with pytest.raises(yaml.YAMLError, match="more than 50 levels"):
            read("[" * levels + "]" * levels)
    with pytest.raises(yaml.YAMLError, match="more than 1,000,000 characters"):
        read("a" * (MOST_CHARACTERS + 1))


def test_errors_name_the_file(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("a: [1, 2]")
    assert read_yaml(file) == {"a": [1, 2]}
    for text in ("a: [1, 2", doubled(60)):
        file.write_text(text)
        with pytest.raises(ValueError, match="some.yaml is no YAML that can be read") as caught:
            read_yaml(file)
        assert "\n" not in str(caught.value)


def test_a_date_that_does_not_exist_is_one_line_with_the_file(tmp_path):
    (tmp_path / "a.yaml").write_text("trainer: 2001-99-99\n")
    with pytest.raises(ValueError, match="a.yaml is no YAML that can be read .month must be in"):
        read_yaml(tmp_path / "a.yaml")
