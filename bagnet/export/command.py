"""Write a trained network for other programs, and check what was written against torch.

  safetensors   the weights, and the network's name, classes and sizes
  onnx          for onnxruntime and others
                (needs: pip install onnxruntime onnxscript)
  torch_export  torch.export's .pt2, which runs without this project
  hf            a folder as on the Hugging Face Hub: config.json,
                model.safetensors, and a model card from the run

Sizes and classes are those that the weights name, and go with them. What is written is read again
and run on images of two sizes. If its outputs differ from the network's, nothing is left of it.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from pathlib import Path

import torch

from bagnet.evidence.maps import require_bagnet
from bagnet.export import graphs
from bagnet.export.check import largest_difference
from bagnet.export.graphs import Graph, Network
from bagnet.export.options import ExportOptions
from bagnet.model.card import card_of, set_card
from bagnet.model.images import require_size
from bagnet.model.weights import load_model, save_weights
from bagnet.run.trained import choose_sizes, chosen_checkpoint
from datamodules.common.files import new_folder, replacing

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
"""Of the formats that are files."""


def run(options: ExportOptions) -> None:
    """Write the network and check it.

    Raises:
        ValueError: An option cannot be followed, or what was written computes something else.
    """
    out, suffix = options.out, SUFFIXES.get(options.format, "")
    if suffix and out.suffix != suffix:
        raise ValueError(
            f"--format {options.format} writes a {suffix} file: {out} has no such name"
        )
    if suffix and out.is_dir():
        raise ValueError(f"{out} is a folder: give a file, such as {out / f'model{suffix}'}")
    if options.evidence and options.format not in ("onnx", "torch_export"):
        raise ValueError(
            f"--evidence is for onnx and torch_export: {options.format} has weights, with which "
            "bagnet.evidence_map computes it"
        )
    checkpoint = chosen_checkpoint(options.name, options.runs_dir, options.model.weights)
    sizes = choose_sizes(options.data.image_size, options.data.resize_size, [checkpoint])
    model = load_model(checkpoint, options.model.name)
    if options.evidence:
        require_bagnet(model)
    require_size(model, sizes.image_size)
    set_card(model, replace(card_of(model), **asdict(sizes)))
    graph = Graph(model, options.evidence).requires_grad_(False)
    side = sizes.image_size
    is_fixed = options.format == "onnx" and graphs.has_one_size(model)
    shapes = [(1, side, side), (3, side, side) if is_fixed else (3, side + 45, side + 34)]
    try:
        with replacing(out) if suffix else new_folder(out) as unfinished:
            written = _write(graph, options.format, unfinished, checkpoint)
            difference = largest_difference(graph, written, shapes)
    except (ValueError, OSError):
        raise
    except Exception as error:  # exporters and runtimes raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(
            f"{card_of(model).name} cannot be written as {options.format} by torch "
            f"{torch.__version__} ({reason}): try another version, or another format"
        ) from error
    size = f"{side}x{side} pixels only" if is_fixed else "any size"
    print(
        f"{out}: {card_of(model).name}, for images of {size}; outputs differ from torch's by at "
        f"most {difference:.1e} of the largest"
    )


def _write(graph: Graph, form: str, path: Path, checkpoint: Path) -> Network:
    """Write the network in a format, and read it again."""
    side = card_of(graph.model).image_size or 0
    if form == "onnx":
        graphs.write_onnx(graph, path, side)
        return graphs.read_onnx(path)
    if form == "torch_export":
        graphs.write_torch_export(graph, path, side)
        return graphs.read_torch_export(path)
    if form == "hf":
        from bagnet.export import folder  # imports Lightning

        folder.write(graph.model, path, checkpoint)
    else:
        save_weights(graph.model, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has been said of the weights that were read
        return Graph(load_model(path))
