"""How long an epoch takes on many GPUs: a prediction, and its check.

`bagnet.bench.lib.scaling` predicts it from its parts, and `bagnet.bench.lib.ranks` checks the formulas against real ranks on the CPU.
The defaults are of a BagNet-33 on ImageNet: gradients are counted and decoding was measured; the speeds of GPU, network and
storage are assumptions, to be replaced by your own figures.

In the table, batch is the global one; ideal is what GPUs that wait for nothing would do; "all" are the epochs of --epochs; GB/s
are read from the shards; and the last column is what takes the largest share of an epoch.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from bagnet.bench.lib import ranks
from bagnet.bench.lib.report import parser_of, short, show, write
from bagnet.bench.lib.rounds import take_turns
from bagnet.bench.lib.scaling import Parts, Prediction, predict


def main(arguments: Sequence[str]) -> int:
    """Print predictions or, with --check, what they are worth; returns the exit code."""
    parser = parser_of("scale", __doc__)
    add = parser.add_argument
    add("--gpus", type=int, nargs="+", default=[8, 64, 512, 4096], help="(8 64 512 4096)")
    for part in fields(Parts):
        flag, kind = f"--{part.name.replace('_', '-')}", type(part.default)
        add(
            flag,
            type=kind,
            default=part.default,
            help=f"{part.metadata['help']} ({part.default:.4g})",
        )
    check = parser.add_argument_group("--check")
    check.add_argument("--check", action="store_true", help="measure 1, 2 and 4 ranks on this CPU")
    check.add_argument("--width", type=int, default=32, help="of the network they train (32)")
    check.add_argument("--steps", type=int, default=10, help="of each round (10)")
    check.add_argument("--rounds", type=int, default=3, help="(3)")
    add("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args(arguments)
    if options.check:
        _check(options)
    else:
        parts = Parts(**{part.name: getattr(options, part.name) for part in fields(Parts)})
        for name, value in asdict(parts).items():
            if value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} {value}: it must be above 0")
        _predict(parts, options)
    return 0


def _predict(parts: Parts, options: argparse.Namespace) -> None:
    predictions = [predict(parts, gpus) for gpus in options.gpus]
    show(
        [
            "GPUs",
            "batch",
            "ms/step",
            "images/s",
            "ideal",
            "epoch s",
            "all min",
            "GB/s",
            "most time",
        ],
        [_row(each, parts.epochs) for each in predictions],
    )
    write(options, {"predictions": [asdict(each) for each in predictions]})


def _row(of: Prediction, epochs: int) -> list[str]:
    return [
        f"{of.gpus:,}",
        f"{of.gpus * of.batch:,}",
        short(1e3 * of.step),
        short(of.rate),
        f"{of.efficiency:.0%}",
        short(of.epoch),
        short(of.epoch * epochs / 60),
        short(of.read / 1e9),
        f"{of.binds} {of.shares[of.binds]:.0%}",
    ]


def _check(options: argparse.Namespace) -> None:
    """Print measured and predicted times side by side; each round is predicted from its own parts."""
    by_name = {f"{count} ranks": count for count in ranks.RANKS}
    measured = take_turns(
        list(by_name),
        options.rounds,
        lambda name: ranks.measure(by_name[name], options.width, options.steps),
    )
    size = 4 * ranks.parameters(options.width)
    rounds = [
        {by_name[name]: turns[number] for name, turns in measured.items()}
        for number in range(options.rounds)
    ]
    predicted = [
        {count: ranks.predict(count, found, size) for count in ranks.RANKS} for found in rounds
    ]
    rows = []
    for what, inputs in {"step": (1,), "few": (2,), "many": (2,)}.items():
        for count in ranks.RANKS if what == "step" else ranks.RANKS[1:]:
            found = [each[count][what] for each in rounds]
            told = [each[count][what] for each in predicted]
            errors = [there / here - 1 for there, here in zip(told, found, strict=True)]
            name = what if what == "step" else f"all-reduce, {what}"
            row = [f"{1e3 * statistics.median(times):.3g}" for times in (told, found)]
            if count in inputs:
                row += ["an input", ""]
            else:
                row += [
                    f"{statistics.median(errors):+.0%}",
                    f"{min(errors):+.0%} {max(errors):+.0%}",
                ]
            rows.append([f"{name}, {count} ranks", *row])
    show(["ms", "predicted", "measured", "error", "range"], rows)
    shares = [statistics.median(found[count]["share"] for found in rounds) for count in ranks.RANKS]
    print(
        f"A core's share for each of {', '.join(map(str, ranks.RANKS))} ranks, an input: "
        f"{', '.join(f'{share:.2f}' for share in shares)}"
    )
    write(options, {"measured": measured, "predicted": predicted, "gradient_bytes": size})
