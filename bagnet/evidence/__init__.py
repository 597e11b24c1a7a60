"""Which patches decide.

Here: the evidence of every patch (`maps`) and around every pixel (`dense`), how evidence becomes
logits (`aggregation`), what no attack can change (`certificates`), pictures (`pictures`) and the
HTML report (`report`). Not here: measurements over a whole validation set (`bagnet.experiments`).

The names below are imported when they are first used, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bagnet.evidence.dense import dense_evidence
    from bagnet.evidence.explainer import BagNetExplainer
    from bagnet.evidence.maps import evidence_map

__all__ = ["BagNetExplainer", "dense_evidence", "evidence_map"]

_MODULES = {"BagNetExplainer": "explainer", "dense_evidence": "dense", "evidence_map": "maps"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
