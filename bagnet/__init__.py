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
    from bagnet.model.network import BagNet
    from bagnet.model.registry import normalize
    from bagnet.model.weights import load_model as load
    from bagnet.model.weights import save_weights as save
    from bagnet.training.classifier import BagNetClassifier

__all__ = [
    "BagNet",
    "BagNetClassifier",
    "BagNetExplainer",
    "dense_evidence",
    "evidence_map",
    "load",
    "normalize",
    "pixel_evidence",
    "quantus_explain",
    "save",
]

_PLACES = {
    "BagNet": ("bagnet.model.network", "BagNet"),
    "BagNetClassifier": ("bagnet.training.classifier", "BagNetClassifier"),
    "BagNetExplainer": ("bagnet.evidence.explainer", "BagNetExplainer"),
    "dense_evidence": ("bagnet.evidence.dense", "dense_evidence"),
    "evidence_map": ("bagnet.evidence.maps", "evidence_map"),
    "load": ("bagnet.model.weights", "load_model"),
    "normalize": ("bagnet.model.registry", "normalize"),
    "pixel_evidence": ("bagnet.evidence.maps", "pixel_evidence"),
    "quantus_explain": ("bagnet.evidence.explainer", "quantus_explain"),
    "save": ("bagnet.model.weights", "save_weights"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
