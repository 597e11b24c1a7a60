"""`import bagnet` and `import datamodules`: fast, and with examples that run."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import bagnet
import datamodules

REPOSITORY = Path(__file__).parent.parent
PUBLIC = [(package, name) for package in (bagnet, datamodules) for name in package.__all__]


@pytest.mark.parametrize(
    ("package", "name"), PUBLIC, ids=[f"{package.__name__}.{name}" for package, name in PUBLIC]
)
def test_the_example_in_the_docstring_runs(package, name):
    value = getattr(package, name)
    module = importlib.import_module(value.__module__)
    (found,) = doctest.DocTestFinder(recurse=False).find(value, name, globs=vars(module).copy())
    assert found.examples
    assert doctest.DocTestRunner(verbose=False).run(found).failed == 0


def test_imports_are_light_and_complete():
    code = (
        "import sys, bagnet, datamodules\n"
        "print([name for name in ('torch', 'numpy', 'pytorch_lightning') if name in sys.modules])\n"
        "print(set(bagnet.__all__) <= set(dir(bagnet)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "True", ""]


@pytest.mark.parametrize("package", [bagnet, datamodules])
def test_other_names_are_attribute_errors(package):
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_the_version_is_that_of_the_installation(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert bagnet.__version__ == "0+unknown"  # a checkout that is not installed
    (tmp_path / "bagnet-1.2.dist-info").mkdir()
    (tmp_path / "bagnet-1.2.dist-info" / "METADATA").write_text("Name: bagnet\nVersion: 1.2\n")
    assert bagnet.__version__ == "1.2"
