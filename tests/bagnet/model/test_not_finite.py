"""Weights that are NaN or infinite are refused wherever weights are read."""

from __future__ import annotations

import pytest
import torch

from bagnet.model.files import read_card
from bagnet.model.network import BagNet
from bagnet.model.weights import load_model, save_weights, start_from


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_they_are_refused_with_the_name_of_the_layer(tmp_path, value, suffix):
    file = tmp_path / f"broken.{suffix}"
    model = BagNet(9, num_classes=3, width=4)
    with torch.no_grad():
        model.layer2[0].conv1.weight[1, 0] = value
    save_weights(model, file)
    for read in (lambda: load_model(file, "bagnet9"), lambda: start_from(file, model, "bagnet9")):
        with pytest.raises(ValueError, match=r"NaN or infinite \(layer2.0.conv1.weight\).*earlier"):
            read()
    read_card(file)  # what does not compute with the weights can still tell about the file
