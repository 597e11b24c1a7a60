"""Which patches decide: exact evidence maps of BagNets, and pictures of them."""

from __future__ import annotations

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.explainer import BagNetExplainer
from bagnet.evidence.maps import evidence_map

__all__ = ["BagNetExplainer", "dense_evidence", "evidence_map"]
