"""Model FLOPs utilization: peaks of devices, operations of networks, and the logged figure."""

from __future__ import annotations

import pytest
import torch

from bagnet.bench.lib.floors import count
from bagnet.model.registry import build_model
from bagnet.training.monitoring.throughput import Throughput
from bagnet.training.monitoring.utilization import data_sheet, training_flops
from bagnet.training.recipe.freezing import Freezing
from tests.bagnet.training.quiet import Rows, classifier, loader, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 9090", None),
    ],
)
def test_data_sheets_are_those_of_whole_known_gpus(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert data_sheet(torch.device("cuda")) == peak
    assert data_sheet(torch.device("cpu")) is None


@pytest.mark.parametrize("name", ["bagnet33", "resnet50"])
def test_a_network_in_memory_needs_what_its_name_says(name):
    model = build_model(name, num_classes=1000, width=64 if name == "resnet50" else 16)
    width = 64 if name == "resnet50" else 16
    expected = count(name, width, 64)
    size = torch.Size((3, 64, 64))
    assert training_flops(model, size) == expected.training_flops
    assert all(weights.device.type == "cpu" for weights in model.parameters())
    model.recompute = True
    assert training_flops(model, size) == expected.training_flops
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    assert training_flops(model, size) == pytest.approx(expected.forward_flops, rel=0.01)


def utilization(monkeypatch: pytest.MonkeyPatch, **options: object) -> list[dict[str, float]]:
    monkeypatch.setattr("bagnet.training.monitoring.throughput.data_sheet", lambda device: 5e9)
    callbacks = [Throughput(2), *options.pop("callbacks", [])]
    trainer = quiet_trainer(callbacks=callbacks, logger=Rows(), max_epochs=2, **options)
    trainer.fit(classifier(), loader(4, 4, 4, 4))
    return [row for _, row in trainer.logger.rows if "memory/peak_gib" in row]


@pytest.mark.parametrize("frozen", [0, 1])
def test_it_is_logged_for_known_devices_in_half_precision(monkeypatch, frozen):
    rows = utilization(monkeypatch, precision="bf16-mixed", callbacks=[Freezing(1)] * frozen)
    module = classifier()
    needs = [training_flops(module.model, torch.Size((3, 20, 24)))] * 4
    if frozen:
        module.model.requires_grad_(False)
        module.model.fc.requires_grad_(True)
        needs[:2] = [training_flops(module.model, torch.Size((3, 20, 24)))] * 2
        assert needs[0] < needs[2] / 2
    assert [row["throughput/device/mfu"] for row in rows] == [
        pytest.approx(row["throughput/device/samples_per_sec"] * flops / 5e9)
        for row, flops in zip(rows, needs, strict=True)
    ]


def test_it_is_not_logged_in_float32_nor_on_a_cpu(monkeypatch):
    assert all("throughput/device/mfu" not in row for row in utilization(monkeypatch))
    monkeypatch.undo()
    trainer = quiet_trainer(
        callbacks=[Throughput(2)], logger=Rows(), max_epochs=1, precision="bf16-mixed"
    )
    trainer.fit(classifier(), loader(4, 4))
    assert all("throughput/device/mfu" not in row for _, row in trainer.logger.rows)
