"""Every experiment has the same rows if two processes measure the images."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from bagnet.experiments.__main__ import main
from bagnet.experiments.commands import EXPERIMENTS
from tests.bagnet.experiments.conftest import save_network
from tests.bagnet.experiments.explanations.test_localization import CLASSES, write_masks

FLAGS = {
    "heatmaps": ["--classes", "predicted", "3"],
    "patches": ["--classes", "2", "5"],
    "scrambling": ["--tiles", "2", "4"],
    "interactions": ["--sides", "8", "--gaps", "0", "8"],
    "sensitivity": ["--explainer", "net9", "--counts", "1", "4", "--methods", "evidence", "random"],
    "deletion": ["--steps", "2", "--methods", "evidence", "deeplift", "gradcam"],
    "single_deletion": ["--methods", "saliency", "integrated_gradients", "smoothgrad"],
    "words": ["--words", "4"],
    "localization": ["--masks", "MASKS"],
}
#: They need data of their own: see test_humans.py and test_evaluation_sets.py.
OTHER_DATA = {"humans", "corruptions"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in OTHER_DATA])
def test_two_processes_measure_the_same(name, demo, tmp_path, monkeypatch):
    # Both have the same batches: a network rounds differently in a batch of another size.
    monkeypatch.setattr("bagnet.experiments.measuring.measure.part_size", lambda images: 4)
    masks = write_masks(demo, tmp_path / "masks")
    models = [
        f"net{patch}={save_network(tmp_path / f'{patch}.ckpt', patch, CLASSES)}"
        for patch in (9, 17)
    ]
    where = ["--data.root", str(demo), "--gpus", "0", "--data.workers", "0"]
    sizes = ["--data.image_size", "56", "--data.resize_size", "64"]
    more = [str(masks) if word == "MASKS" else word for word in FLAGS.get(name, ())]
    command = [name, "--models", *models, *where, "--data.batch_size", "2", *more]
    if name != "pointing":  # its boxes hold at the size of the demo only
        command += sizes
    for processes in "12":
        assert main([*command, "--processes", processes, "--out", str(tmp_path / processes)]) == 0
    files = [path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.parquet")]
    assert len(files) >= len(models)
    for file in files:
        one, two = (pq.read_table(tmp_path / processes / file) for processes in "12")
        assert one.num_rows
        assert one.equals(two), file
