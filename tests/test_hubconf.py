"""`torch.hub.load` finds the networks, with and without weights."""

from __future__ import annotations

import hashlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bagnet.model.registry import build_model
from bagnet.model.sources import AUTHORS
from tests.datamodules.servers import serving

REPOSITORY = Path(__file__).parent.parent
NEEDED = ("torch", "torchgen", "functorch", "safetensors", "numpy")


def test_only_networks_are_listed():
    names = runpy.run_path(str(REPOSITORY / "hubconf.py"))  # as torch.hub.list does it
    listed = {name for name, value in names.items() if callable(value) and name[0] != "_"}
    assert listed == {"bagnet9", "bagnet17", "bagnet33"}
    assert torch.hub.load(str(REPOSITORY), "bagnet17", source="local").receptive_field == 17


def test_pretrained_weights_come_from_the_authors_and_another_classifier_is_fresh(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = build_model("bagnet9", num_classes=1000, width=2).state_dict()
    with serving(tmp_path / "web") as server:
        torch.save({"state_dict": state}, server.root / "new")
        hash_ = hashlib.sha256((server.root / "new").read_bytes()).hexdigest()[:8]
        (server.root / "new").rename(server.root / f"bagnet8-{hash_}.pth.tar")
        monkeypatch.setitem(AUTHORS, "bagnet9", f"{server.url}/bagnet8-{hash_}.pth.tar")
        for classes in (1000, 7):
            model = torch.hub.load(
                str(REPOSITORY), "bagnet9", source="local", pretrained=True, num_classes=classes
            )
            assert torch.equal(model.conv2.weight, state["conv2.weight"])
            assert torch.equal(model.fc.weight, state["fc.weight"]) == (classes == 1000)
            assert model.fc.weight.shape == (classes, 64)


@pytest.mark.slow
def test_nothing_else_needs_to_be_installed(tmp_path):
    code = f"""
import sys, torch
before = set(sys.modules)
torch.hub.load({str(REPOSITORY)!r}, "bagnet9", source="local", num_classes=3)
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    new = {name for name in run.stdout.split() if name not in sys.stdlib_module_names}
    assert new <= {"bagnet", "datamodules", "hubconf", *NEEDED}
