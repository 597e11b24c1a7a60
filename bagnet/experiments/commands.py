"""All commands, before anything heavy is imported."""

from __future__ import annotations

from bagnet.experiments.decisions.options import (
    ErrorsOptions,
    InteractionsOptions,
    ScramblingOptions,
)
from bagnet.experiments.explanations.options import (
    AggregationOptions,
    HeatmapsOptions,
    LocalizationOptions,
    PatchesOptions,
    WordsOptions,
)
from bagnet.experiments.faithfulness.options import (
    DeletionOptions,
    SensitivityOptions,
    SingleDeletionOptions,
)
from bagnet.experiments.options import MeasureOptions, ReportOptions
from datamodules.common.commands import Command

_MODULES: dict[str, type] = {
    "decisions.accuracy": MeasureOptions,
    "explanations.heatmaps": HeatmapsOptions,
    "explanations.patches": PatchesOptions,
    "decisions.scrambling": ScramblingOptions,
    "decisions.interactions": InteractionsOptions,
    "decisions.errors": ErrorsOptions,
    "faithfulness.sensitivity": SensitivityOptions,
    "faithfulness.deletion": DeletionOptions,
    "faithfulness.single_deletion": SingleDeletionOptions,
    "explanations.aggregation": AggregationOptions,
    "explanations.words": WordsOptions,
    "explanations.pointing": MeasureOptions,
    "explanations.localization": LocalizationOptions,
    "decisions.corruptions": MeasureOptions,
    "decisions.humans": MeasureOptions,
}

EXPERIMENTS = {
    module.rpartition(".")[2]: Command(f"bagnet.experiments.{module}", options)
    for module, options in _MODULES.items()
}
"""Those of the paper, in the order of their reports, and then the others."""

COMMANDS = {**EXPERIMENTS, "report": Command("bagnet.experiments.report", ReportOptions)}
