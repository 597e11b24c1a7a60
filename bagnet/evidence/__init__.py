"""Which patches decide: exact evidence maps of BagNets, and pictures of them."""

from __future__ import annotations

from bagnet.evidence.maps import evidence_map

__all__ = ["evidence_map"]
