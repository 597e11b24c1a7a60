"""Tables with ratios, and JSON files that say how the figures were measured."""

from __future__ import annotations

import json

import pytest
import torch

from bagnet.bench.lib.report import machine, report, short
from bagnet.bench.options import BenchOptions, StepOptions
from bagnet.run.provenance import git_commit


def test_ratios_are_of_medians_and_refer_to_the_reference(output):
    rates = {"slow": [1.0, 2.0, 90.0], "fast": [8.0, 7.0, 1.0]}
    options = BenchOptions()
    report(rates, options, "images")
    assert [line.split()[-1] for line in output().splitlines() if "fast" in line] == ["3.50"]
    report(rates, options, "images", reference="fast")
    assert [line.split()[-1] for line in output().splitlines() if "slow" in line] == ["0.29"]


def test_figures_come_with_settings_versions_commit_and_machine(tmp_path):
    options = StepOptions(out=tmp_path / "figures.json", batch_size=3)
    report({"way": [1.0]}, options, "maps", more={"other": 2})
    figures = json.loads(options.out.read_text())
    assert figures["maps_per_second"] == {"way": [1.0]}
    assert figures["other"] == 2
    assert figures["settings"]["batch_size"] == "3"
    assert figures["torch"] == torch.__version__.split("+")[0]
    assert figures["commit"] == git_commit()
    assert figures["machine"] == machine("cpu")
    assert "CPUs" in machine("cpu")


@pytest.mark.parametrize(
    ("figure", "text"), [(1234.4, "1,234"), (99.94, "99.9"), (1.234, "1.23"), (0.01234, "0.0123")]
)
def test_figures_have_three_digits(figure, text):
    assert short(figure) == text
