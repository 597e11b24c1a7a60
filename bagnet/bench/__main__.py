"""Benchmarks: ``python -m bagnet.bench NAME``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence

from bagnet.bench import data, evidence, infer, plan, scale, startup, train

BENCHMARKS: dict[str, Callable[[Sequence[str]], int]] = {
    "data": data.main,
    "evidence": evidence.main,
    "train": train.main,
    "infer": infer.main,
    "plan": plan.main,
    "startup": startup.main,
    "scale": scale.main,
}
"""By name; each takes the words after its name and returns the exit code."""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m bagnet.bench NAME ...\n")
        for name, run in BENCHMARKS.items():
            about = inspect.getdoc(sys.modules[run.__module__]) or ""
            print(f"  {name:10}{about.partition(chr(10))[0]}")
        print("\npython -m bagnet.bench NAME --help says the rest.")
        return 0
    if arguments[0] not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        print(f"error: no benchmark {arguments[0]!r}; there is {known}", file=sys.stderr)
        return 2
    try:
        return BENCHMARKS[arguments[0]](arguments[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
