"""The curves of the methods that say how important each pixel is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from bagnet.experiments.faithfulness.options import METHODS, Method
from bagnet.experiments.measuring.figures import Curve
from bagnet.experiments.measuring.statistics import mean_band

EVIDENCE: frozenset[Method] = frozenset({"evidence", "pixel_evidence"})
"""The methods that explain the BagNets of --explainer, and not the tested network."""
LINES = ("-", "--", ":", "-.")
"""Styles of the lines of several explainers."""
STYLES: dict[Method, dict[str, Any]] = {
    "evidence": {"color": "#d95f02", "linewidth": 2.2},
    "pixel_evidence": {"color": "#e6ab02", "linewidth": 2.2},
    "saliency": {"color": "#7570b3"},
    "gradient_x_input": {"color": "#66a61e"},
    "deeplift": {"color": "#1f78b4"},
    "integrated_gradients": {"color": "#1b9e77"},
    "smoothgrad": {"color": "#e7298a"},
    "gradcam": {"color": "#a6761d"},
    "random": {"color": "0.4", "linestyle": "--"},
}


def mean_curve(
    name: str, x: Sequence[float] | np.ndarray, curves: np.ndarray, **style: Any
) -> Curve:
    """The mean of a method's curves (images, points), with its intervals."""
    return Curve(x, curves.mean(0), mean_band(curves), STYLES[method_of(name)] | style)


def curves_of(table: pa.Table, prefix: str = "") -> dict[str, np.ndarray]:
    """The curves (images, points) of each method that a table has.

    Their columns are PREFIX + METHOD, or "PREFIX + METHOD of EXPLAINER".
    """
    names = [each.removeprefix(prefix) for each in table.column_names if each.startswith(prefix)]
    names = [name for name in names if method_of(name) in METHODS]
    names.sort(key=lambda name: METHODS.index(method_of(name)))
    return {name: np.array(table[prefix + name].to_pylist()) for name in names}


def method_of(name: str) -> Method:
    """The method of a curve."""
    return cast(Method, name.partition(" of ")[0])
