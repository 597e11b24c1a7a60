"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["maps", "dense", "explainer"])
def test_the_examples_of_a_module_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"bagnet.evidence.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
