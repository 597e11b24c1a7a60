"""Write a report that shows which patches of a folder's images decide.

The report is one HTML file, which any browser opens, also without a network: the images, what each
patch votes for, the evidence for every class that matters, and what a threshold would change. With
--dense, it also has the evidence around every pixel.

The true class of an image is the name of its folder, IMAGES/CLASS/image.jpg: an id or a name in
--classes. Without --classes, they are those that the checkpoint names. If it names none and there
are as many folders as the network has classes, they are the classes in sorted order, as `python -m
datamodules.pack imagefolder` numbers them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bagnet.evidence.maps import require_bagnet
from bagnet.evidence.options import ReportOptions
from bagnet.evidence.report.dense import MAX_BYTES, dense_maps
from bagnet.evidence.report.html_file import write_report
from bagnet.evidence.report.inputs import find_images, known_classes
from bagnet.evidence.report.votes import compute_votes
from bagnet.model.card import card_of
from bagnet.model.weights import load_model
from bagnet.run.trained import choose_sizes, chosen_checkpoint
from datamodules.common.progress import progress
from datamodules.decoding.folders import read_image
from datamodules.decoding.transforms import EvalTransform, WholeTransform

LARGE = 100
"""Megabytes of a report that are worth a warning; only whole images can take as many."""


def run(options: ReportOptions) -> None:
    """Compute the votes on every image and write the report."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    checkpoint = chosen_checkpoint(options.name, None, options.checkpoint, "--checkpoint")
    sizes = choose_sizes(options.data.image_size, options.data.resize_size, [checkpoint])
    transform: EvalTransform
    if options.whole:
        transform, side = WholeTransform(sizes.resize_size), sizes.resize_size
    else:
        transform, side = EvalTransform(sizes.image_size, sizes.resize_size), sizes.image_size
    model = require_bagnet(load_model(checkpoint, options.model.name))
    model.map_size(side, side)  # raises its error for images smaller than the patch
    if options.out.is_dir():
        raise ValueError(f"--out is the folder {options.out}: give a file, such as report.html")
    known = known_classes(card_of(model), options.classes)
    sources, class_names, notes = find_images(options.images, model.fc.out_features, known)
    images = []
    with progress(console, "images", len(sources)) as update:
        for number, source in enumerate(sources, 1):
            try:
                pixels = read_image(source.path, transform)
            except ValueError as error:
                notes.append(f"{error} and is left out")
            else:
                image = compute_votes(model, pixels, source.name, source.label)
                if options.dense:
                    image = replace(image, dense=dense_maps(model, image, len(sources)))
                images.append(image)
            update(number)
    if not images:
        raise ValueError(f"no image can be read in {options.images}: {notes[-1]}")
    seen = f"whole, with a shorter side of {side} px" if options.whole else str(sizes)
    write_report(options.out, images, class_names, model, _title(checkpoint), seen)
    steps = [image.dense.step for image in images if image.dense is not None]
    if max(steps, default=1) > 1:
        notes.append(
            f"the maps at every pixel have an entry for up to {max(steps)} x {max(steps)} pixels, "
            f"so that all take at most {MAX_BYTES // 1_000_000} MB: give fewer images, or a "
            "smaller --data.resize_size"
        )
    for note in notes:
        console.print(f"note: {note}", markup=False)
    size = options.out.stat().st_size / 1e6
    if size > LARGE:
        console.print(
            f"note: {size:.0f} MB may be too much for a browser: give fewer images, or a smaller "
            "--data.resize_size"
        )
    plural = "s" * (len(images) != 1)
    console.print(f"{len(images):,} image{plural}, {size:.1f} MB: {options.out}", markup=False)


def _title(checkpoint: Path) -> str:
    """What the page calls the network: the run and the file, or only the file."""
    folder = checkpoint.absolute().parent
    run = f"{folder.parent.name}, " if folder.name == "checkpoints" else ""
    return f"{run}{checkpoint.name}"
