"""Write a report that shows which patches of a folder's images decide.

The report is one HTML file, which any browser opens, also without a network: the images, what each
patch votes for, the evidence for every class that matters, and what a threshold would change.

The true class of an image is the name of its folder, IMAGES/CLASS/image.jpg: an id or a name in
--classes. Without --classes, if there are as many folders as the network has classes, they are the
classes in sorted order, as `python -m datamodules.pack imagefolder` numbers them.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import track

from bagnet.evidence.maps import require_bagnet
from bagnet.evidence.options import ReportOptions
from bagnet.evidence.report.html_file import write_report
from bagnet.evidence.report.inputs import Classes, find_images, read_image
from bagnet.evidence.report.votes import compute_votes
from bagnet.model.weights import load_model
from datamodules.decoding.transforms import EvalTransform, WholeTransform
from datamodules.pack.classes import read_class_list


def run(options: ReportOptions) -> None:
    """Compute the votes on every image and write the report."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    data = options.data
    transform: EvalTransform
    if options.whole:
        transform, side = WholeTransform(data.resize_size), data.resize_size
    else:
        transform, side = EvalTransform(data.image_size, data.resize_size), data.image_size
    model = require_bagnet(load_model(options.checkpoint, options.model.name))
    model.map_size(side, side)  # raises its error for images smaller than the patch
    if options.out.is_dir():
        raise ValueError(f"--out is the folder {options.out}: give a file, such as report.html")
    known = None
    if options.classes:
        ids, names = read_class_list(options.classes)
        known = Classes(ids or names, names)
    sources, class_names, notes = find_images(options.images, model.fc.out_features, known)
    # Read all images first, so that a damaged one at the end does not waste the work before it.
    read = [(source, read_image(source.path, transform)) for source in sources]
    images = [
        compute_votes(model, pixels, source.name, source.label)
        for source, pixels in track(read, "images", console=console, transient=True)
    ]
    write_report(options.out, images, class_names, model, options.checkpoint.name)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    size = options.out.stat().st_size / 1e6
    console.print(f"{len(images):,} images, {size:.1f} MB: {options.out}", markup=False)
