"""The words that ``python -m datamodules.pack`` takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from datamodules.common.pool import available_cpus
from datamodules.pack.ilsvrc import DEVKIT, TRAIN, VAL

EXAMPLES = """\
examples:
  # a folder with train/ and val/, each with a folder of images a class
  python -m datamodules.pack imagefolder imagenet/ packed/

  # a folder with the ILSVRC2012 archives as downloaded (train, val, devkit)
  python -m datamodules.pack ilsvrc downloads/ packed/

  # WebDataset shards, such as a copy of timm/imagenet-1k-wds
  python -m datamodules.pack wds imagenet-1k-wds/ packed/
  python -m datamodules.pack wds 'in1k-train-{0000..1023}.tar' packed/

  # the same without packing them again: train from where they are
  python -m datamodules.pack index 'https://host/train-{000..639}.tar' indexed/

  # smaller files: the shorter side at most 256 pixels
  python -m datamodules.pack imagefolder imagenet/ packed/ --resize 256

  # read everything again
  python -m datamodules.pack verify packed/

Makes packed/train and packed/val. After an interruption the same command goes
on where it stopped; index begins again.
"""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the words after ``python -m datamodules.pack``; exits with 2 on an unknown one."""
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.pack",
        description="Pack ImageNet, in the form you have it, into shards with a manifest.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    new = commands.add_parser("imagefolder", help="a tree of image files", allow_abbrev=False)
    help_text = "folder with train/ and val/ (or validation/, test/), each with a folder a class"
    new.add_argument("src", nargs=1, metavar="SRC", help=help_text)
    _add_packing(new)

    new = commands.add_parser("ilsvrc", help="the ILSVRC2012 archives", allow_abbrev=False)
    help_text = f"folder with {TRAIN}, {VAL} and {DEVKIT}, as downloaded"
    new.add_argument("src", nargs=1, metavar="SRC", help=help_text)
    _add_packing(new)
    new.add_argument(
        "--val-labels",
        type=Path,
        metavar="FILE",
        help="instead of the devkit: a wnid a line in the order of the file names, or `NAME WNID`",
    )

    new = commands.add_parser("wds", help="existing WebDataset shards", allow_abbrev=False)
    help_text = "shards with jpg (or png, webp) and cls members: files, brace lists, globs, folders"
    new.add_argument("src", nargs="+", metavar="SRC", help=help_text)
    _add_packing(new)
    _add_split(new)

    new = commands.add_parser(
        "index",
        help="WebDataset shards to train from where they are",
        description="Read WebDataset shards once and write only a manifest. The shards stay where "
        "they are, and as they are: in their order, and at full size. Images are not decoded; "
        "verify does that.",
        allow_abbrev=False,
    )
    help_text = (
        "shards as for wds, and URLs (https, s3, gs, ...) and 'pipe:COMMAND', brace lists too"
    )
    new.add_argument("src", nargs="+", metavar="SRC", help=help_text)
    _add_common(new)
    _add_class_names(new)
    _add_split(new)

    new = commands.add_parser("verify", help="read all data again", allow_abbrev=False)
    _add_common(new)
    help_text = "run the commands that an index of pipe: shards names"
    new.add_argument("--allow-pipe", action="store_true", help=help_text)
    return parser.parse_args(arguments)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the packed data")
    parser.add_argument(
        "--workers",
        type=_positive,
        default=available_cpus(),
        metavar="N",
        help="processes; the result does not depend on it (default: one a CPU, here %(default)s)",
    )


def _add_packing(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    add = parser.add_argument
    add("--seed", type=_natural, default=0, metavar="N", help="of the shuffle (default: 0)")
    add(
        "--samples-per-shard",
        type=_positive,
        default=1000,
        metavar="N",
        help="default: 1000, which for ImageNet makes 1,282 shards of about 110 MB",
    )
    add(
        "--resize",
        type=_positive,
        metavar="N",
        help="shrink images whose shorter side has more than N pixels; never enlarges",
    )
    add(
        "--quality",
        type=_quality,
        default=90,
        metavar="Q",
        help="JPEG quality, 1 to 95, of images that must be encoded again (default: 90)",
    )
    _add_class_names(parser, " (default: SRC/classes.tsv, if any)")


def _add_class_names(parser: argparse.ArgumentParser, default: str = "") -> None:
    help_text = f"text with a line `id<TAB>name` for each class{default}"
    parser.add_argument("--class-names", type=Path, metavar="FILE", help=help_text)


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split",
        choices=("train", "val"),
        help="what the shards are, where their names do not say train or val(idation)",
    )


def _number(text: str, low: int, high: int | None = None) -> int:
    number = int(text) if text.isascii() and text.isdigit() else low - 1
    if number < low or (high is not None and number > high):
        limits = f"from {low} to {high}" if high else f"from {low} on"
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
    return number


def _positive(text: str) -> int:
    return _number(text, 1)


def _natural(text: str) -> int:
    return _number(text, 0)


def _quality(text: str) -> int:
    return _number(text, 1, 95)
