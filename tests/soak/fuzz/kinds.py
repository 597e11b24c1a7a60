"""All kinds of files that are damaged."""

from __future__ import annotations

from tests.soak.fuzz import data, downloads, packs, pictures, results, runs, weights

KINDS = {
    **packs.KINDS,
    **downloads.KINDS,
    **data.KINDS,
    **pictures.KINDS,
    **weights.KINDS,
    **runs.KINDS,
    **results.KINDS,
}
