"""All kinds of files that are damaged."""

from __future__ import annotations

from tests.soak.fuzz import data, packs, pictures, runs, weights

KINDS = {**packs.KINDS, **data.KINDS, **pictures.KINDS, **weights.KINDS, **runs.KINDS}
