"""The code blocks of docs/weights.md run, with a small network in place of the authors' file."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from bagnet.model.network import BagNet
from bagnet.model.registry import TORCHVISION, build_model
from bagnet.model.sources import AUTHORS

PAGE = (Path(__file__).parent.parent / "docs" / "weights.md").read_text()


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints" / AUTHORS["bagnet33"].rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(build_model("bagnet33", num_classes=1000, width=2).state_dict(), file)
    images = torch.randint(0, 256, (2, 3, 50, 41), dtype=torch.uint8)
    names: dict[str, object] = {"images": images}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/weights.md", "exec"), names)  # the page is ours
    model = names["model"]
    assert isinstance(model, BagNet)
    assert model.receptive_field == 33
    assert model.num_classes == 10
    assert names["logits"].shape == (2, 1000)
    assert names["vectors"].shape == (2, 64)


def test_the_page_names_all_networks_with_published_weights():
    for name in (*AUTHORS, *TORCHVISION):
        assert f"`{name}`" in PAGE
