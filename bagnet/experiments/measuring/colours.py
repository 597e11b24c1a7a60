"""The colour of each network, the same in all figures of a folder of results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from matplotlib.colors import is_color_like

from datamodules.common.files import write_text
from datamodules.common.texts import read_json

FILE = "colours.json"

KNOWN = {
    "bagnet9": "#6baed6",
    "bagnet17": "#2171b5",
    "bagnet33": "#08306b",
    "alexnet": "#969696",
    "vgg11": "#74c476",
    "vgg16": "#238b45",
    "vgg19": "#00441b",
    "resnet50": "#e6550d",
    "resnet152": "#8c2d04",
    "densenet169": "#f768a1",
}
"""One hue for each family; the darker, the larger the patches or the network."""

OTHERS = ("#6a3d9a", "#e6ab02", "#01a6a6", "#b2182b", "#a6611a", "#222222")


def network_colours(out: Path, labels: Iterable[str]) -> dict[str, str]:
    """The colours of some networks, and of all others that are known.

    Labels that are not names of networks get the next colour, which the file `colours.json` in
    `out` keeps: so they have it also in the figures of other experiments. The file may be edited.
    """
    path = out / FILE
    kept = _read(path) if path.exists() else {}
    new = [label for label in labels if label not in KNOWN and label not in kept]
    for label in new:
        kept[label] = OTHERS[len(kept) % len(OTHERS)]
    if new:
        write_text(json.dumps(kept, indent=1) + "\n", path)
    return KNOWN | kept


def _read(path: Path) -> dict[str, str]:
    remedy = "correct or delete it"
    kept = read_json(path, remedy)
    if not isinstance(kept, dict) or not all(map(is_color_like, kept.values())):
        raise ValueError(f"{path} is no table of networks and colours; {remedy}")
    return kept
