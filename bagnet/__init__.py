"""BagNet (Brendel & Bethge, ICLR 2019): the class of an image, by the votes of its patches.

The names below are the public API. They are imported when they are first used, so that importing
`bagnet` stays fast. Here: networks (`model`), their training (`training`, `run`), which patches
decide (`evidence`), predictions for a user's own images (`predict`), networks for other programs
(`export`), the paper's experiments (`experiments`), and benchmarks (`bench`).
Not here: data (`datamodules`, which never imports this package).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bagnet.evidence.dense import dense_evidence
    from bagnet.evidence.explainer import BagNetExplainer, quantus_explain
    from bagnet.evidence.maps import evidence_map, pixel_evidence
    from bagnet.evidence.pictures.explained import evidence_picture
    from bagnet.model.network import BagNet
    from bagnet.model.registry import build_model as create_model
    from bagnet.model.registry import normalize
    from bagnet.model.weights import load_model as load
    from bagnet.model.weights import save_weights as save
    from bagnet.predict.images import read_images
    from bagnet.training.classifier import BagNetClassifier

__all__ = [
    "BagNet",
    "BagNetClassifier",
    "BagNetExplainer",
    "create_model",
    "dense_evidence",
    "evidence_map",
    "evidence_picture",
    "load",
    "normalize",
    "pixel_evidence",
    "quantus_explain",
    "read_images",
    "save",
]

_PLACES = {
    "BagNet": ("bagnet.model.network", "BagNet"),
    "BagNetClassifier": ("bagnet.training.classifier", "BagNetClassifier"),
    "BagNetExplainer": ("bagnet.evidence.explainer", "BagNetExplainer"),
    "create_model": ("bagnet.model.registry", "build_model"),
    "dense_evidence": ("bagnet.evidence.dense", "dense_evidence"),
    "evidence_map": ("bagnet.evidence.maps", "evidence_map"),
    "evidence_picture": ("bagnet.evidence.pictures.explained", "evidence_picture"),
    "load": ("bagnet.model.weights", "load_model"),
    "normalize": ("bagnet.model.registry", "normalize"),
    "pixel_evidence": ("bagnet.evidence.maps", "pixel_evidence"),
    "quantus_explain": ("bagnet.evidence.explainer", "quantus_explain"),
    "read_images": ("bagnet.predict.images", "read_images"),
    "save": ("bagnet.model.weights", "save_weights"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def _version() -> str:
    """The installed version; a checkout that is not installed has none."""
    from importlib import metadata

    try:
        return metadata.version("bagnet")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
