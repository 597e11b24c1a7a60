"""The command line of ``python -m datamodules.demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from datamodules import demo
from datamodules.common.progress import progress
from datamodules.demo.generate import generate


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate the set; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.demo",
        description=demo.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the data set")
    parser.add_argument("--train", type=int, default=1500, help="training images (%(default)s)")
    parser.add_argument("--val", type=int, default=300, help="validation images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all pictures (%(default)s)")
    options = parser.parse_args(arguments)

    counts = {"train": options.train, "val": options.val}
    console = Console(highlight=False, soft_wrap=True)
    try:
        with progress(console, "demo", sum(counts.values())) as update:
            is_new = generate(options.out, counts, options.seed, update)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command starts the unfinished split again", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    images = f"{options.train:,} training and {options.val:,} validation images"
    console.print(f"{options.out}: {images}" + ("" if is_new else ", complete already"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
