"""The command line `python -m bagnet.bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bagnet.bench import options
from datamodules.common import commands
from datamodules.common.commands import Command

BENCHMARKS = {
    "data": Command("bagnet.bench.data", options.DataOptions, ("root",)),
    "train": Command("bagnet.bench.train", options.StepOptions),
    "infer": Command("bagnet.bench.infer", options.StepOptions),
    "evidence": Command("bagnet.bench.evidence", options.NetworkOptions),
    "plan": Command("bagnet.bench.plan", options.PlanOptions),
    "startup": Command("bagnet.bench.startup", options.StartupOptions, ("root",)),
    "scale": Command("bagnet.bench.scale", options.ScaleOptions),
    "gpu": Command("bagnet.bench.gpu", options.GpuOptions, ("pieces",)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; returns the exit code."""
    return commands.main("python -m bagnet.bench", BENCHMARKS, arguments)


if __name__ == "__main__":
    sys.exit(main())
