"""Where the pixels that a network sees lie in their image, and images that are read in threads."""

from __future__ import annotations

import math
import threading
import warnings
from fractions import Fraction

from bagnet.predict.images import batches, in_image
from datamodules.decoding.transforms import EvalTransform, View
from tests.bagnet.evidence.report.test_command import save_noise


def test_a_box_has_all_pixels_that_are_seen_in_part_and_none_beyond_the_image():
    transform = EvalTransform(40, 50)
    for width, height in ((333, 77), (77, 333), (20, 30), (40, 1000)):
        view: View = transform.view(width, height)
        rows = Fraction(view.box.height, view.height)
        columns = Fraction(view.box.width, view.width)
        for box in ((0, 0, 40, 40), (8, 16, 17, 25), (31, 31, 40, 40)):
            top, left, bottom, right = in_image(box, view)
            assert top == math.floor(view.box.top + (view.top + box[0]) * rows) >= 0
            assert left == math.floor(view.box.left + (view.left + box[1]) * columns) >= 0
            assert bottom == math.ceil(view.box.top + (view.top + box[2]) * rows) <= height
            assert right == math.ceil(view.box.left + (view.left + box[3]) * columns) <= width


class Overlapping(EvalTransform):
    """Hides warnings, as decoders do, on the second image until after it has done so on the first.

    The filters would then be those that the second found: of the first, which hide everything.
    """

    def __init__(self) -> None:
        super().__init__(16, 16)
        self.numbers = iter(range(2))
        self.entered = [threading.Event(), threading.Event()]
        self.left = threading.Event()

    def __call__(self, data: bytes):
        first = next(self.numbers) == 0
        assert first or self.entered[0].wait(60)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.entered[not first].set()
            assert (self.entered[1] if first else self.left).wait(60)
        if first:
            self.left.set()
        return super().__call__(data)


def test_threads_do_not_mix_up_the_filters_of_warnings(tmp_path, monkeypatch):
    monkeypatch.setattr("bagnet.predict.images.default_workers", lambda: 2)
    files = [save_noise(tmp_path / name) for name in ("a.png", "b.png")]
    before = list(warnings.filters)
    (read,) = batches(files, Overlapping(), 2)
    assert [seen.file for seen in read] == files
    assert list(warnings.filters) == before
