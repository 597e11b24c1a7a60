"""ONNX and torch.export: files with the computation and the weights, which need none of our code.

Input is `images`: float32 (batch, 3, height, width), normalised as `bagnet.normalize` does it, in
any number and of any size that the network takes (but the ONNX of an AlexNet or VGG: of one size,
and the .pt2 of a BagNet: from two entries of its map on).
Outputs are `logits` (batch, classes) and, with evidence, `evidence` (batch, classes, H', W'), of
which the logits are the mean. Both formats carry what `config.json` says (`bagnet.model.config`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bagnet.model.config import CONFIG, config_of
from bagnet.model.network import BagNet

Outputs = tuple[Tensor, ...]
Network = Callable[[Tensor], Outputs]
"""Computes all outputs of a network from images."""

INPUT = (
    "images: float32 (batch, 3, height, width), RGB from 0 to 1, minus the mean, divided by the "
    "standard deviation (pretrained_cfg)"
)
_AXES = {0: "batch", 2: "height", 3: "width"}


class Graph(nn.Module):
    """A network with a tuple of outputs: its logits and, with evidence, what they are the mean of.

    Args:
        model: The network, a BagNet if `evidence`.
        evidence: Whether the evidence is an output.
    """

    def __init__(self, model: nn.Module, evidence: bool = False) -> None:
        super().__init__()
        self.model = model
        self.names = ["logits", "evidence"] if evidence else ["logits"]

    def forward(self, images: Tensor) -> Outputs:
        if len(self.names) == 1:
            return (self.model(images),)
        assert isinstance(self.model, BagNet)
        evidence = self.model.logits_map(images)
        return evidence.mean((2, 3)), evidence


def has_one_size(model: nn.Module) -> bool:
    """Whether a network's ONNX takes images of one size only.

    AlexNet and VGG pool to a map of fixed size, whatever the images have, and ONNX cannot say that.
    """
    pools = [layer for layer in model.modules() if isinstance(layer, nn.AdaptiveAvgPool2d)]
    return any(pool.output_size not in (1, (1, 1)) for pool in pools)


def write_torch_export(graph: Graph, path: Path, side: int) -> None:
    """Write a `.pt2`; `torch.export.load(path).module()` is the network.

    Args:
        graph: The network, in evaluation mode.
        path: The file.
        side: Side of the images in validation, in pixels.
    """
    description = json.dumps({"input": INPUT, **config_of(graph.model)}, indent=2)
    with path.open("wb") as file:  # a path would be written into the archive
        torch.export.save(_traced(graph, side, _AXES), file, extra_files={CONFIG: description})


def read_torch_export(path: Path) -> Network:
    network: Network = torch.export.load(path).module()
    return network


def write_onnx(graph: Graph, path: Path, side: int) -> None:
    """Write an ONNX file; arguments as in `write_torch_export`.

    Each value of `config.json` is one of its `metadata_props`, in JSON unless it is a text.
    """
    try:
        import onnxruntime  # noqa: F401  # for the check
        import onnxscript  # noqa: F401  # for torch
    except ImportError:
        raise ValueError(
            "--format onnx needs two packages: pip install onnxruntime onnxscript"
        ) from None
    axes = {0: _AXES[0]} if has_one_size(graph.model) else _AXES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own doings
        program = torch.onnx.export(
            _traced(graph, side, axes),
            dynamo=True,
            input_names=["images"],
            output_names=graph.names,
            dynamic_shapes=(axes,),
            verbose=False,
        )
    assert program is not None
    for key, value in {"input": INPUT, **config_of(graph.model)}.items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    program.save(path, external_data=False)


def read_onnx(path: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it raises its errors, too
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def run(images: Tensor) -> Outputs:
        outputs: list[Any] = session.run(None, {"images": images.numpy()})
        return tuple(map(torch.from_numpy, outputs))

    return run


def _traced(graph: Graph, side: int, axes: Mapping[int, str]) -> ExportedProgram:
    """The computation for all lengths of some axes, of which square images are an example."""
    program = torch.export.export(
        graph,
        (torch.zeros(2, 3, side, side),),
        dynamic_shapes=(dict.fromkeys(axes, Dim.DYNAMIC),),
        # Otherwise it refuses all sizes, because it cannot prove that layers' sizes are equal.
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return program
