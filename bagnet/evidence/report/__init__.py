"""A page that shows which patches of a folder's images decide.

One HTML file, to be opened in any browser, also without a network: the images, what each patch
votes for, the evidence for every class that matters, and what a threshold would change.

The true class of an image is the name of its folder, IMAGES/CLASS/image.jpg: an id or a name in
--classes. Without --classes, as many folders as the network has classes are taken for them in
sorted order, as `python -m datamodules.pack imagefolder` numbers them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from bagnet.evidence.maps import require_bagnet
from bagnet.evidence.report.inputs import Framing, find_images, read_classes, read_image
from bagnet.evidence.report.page import write_page
from bagnet.evidence.report.votes import Picture, look
from bagnet.model.weights import load_model

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``run``."""
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder, or one image")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE", help="of a BagNet"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)"
    )
    parser.add_argument(
        "--name", help="of the network, such as bagnet33, if the checkpoint does not say it"
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="manifest.json of the data; or a text with a line `name` or `id<TAB>name` for each "
        "class, in the order of the network's outputs",
    )
    parser.add_argument(
        "--resize-size",
        type=int,
        default=256,
        metavar="PX",
        help="length of the shorter side after resizing (256)",
    )
    parser.add_argument(
        "--image-size", type=int, default=224, metavar="PX", help="side of the centre crop (224)"
    )
    parser.add_argument("--whole", action="store_true", help="resize only, do not crop")


def run(options: argparse.Namespace) -> None:
    """Look at every image and write the page."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    framing = Framing(options.resize_size, None if options.whole else options.image_size)
    model = require_bagnet(load_model(options.checkpoint, options.name))
    model.map_size(framing.shortest_side, framing.shortest_side)  # for its error
    if options.out.is_dir():
        raise ValueError(f"--out is the folder {options.out}: give a file, such as report.html")
    known = read_classes(options.classes) if options.classes else None
    found = find_images(options.images, model.fc.out_features, known)
    # All images first: a damaged last one should not cost the time of the others.
    read = [(source, read_image(source.path, framing)) for source in found.sources]
    pictures: list[Picture] = [
        look(model, pixels, source.name, source.label)
        for source, pixels in track(read, "images", console=console, transient=True)
    ]
    write_page(options.out, pictures, found.class_names, model, options.checkpoint.name)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    size = options.out.stat().st_size / 1e6
    console.print(f"{len(pictures):,} images, {size:.1f} MB: {options.out}", markup=False)
