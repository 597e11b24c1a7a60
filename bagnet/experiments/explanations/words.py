"""Shows the bag of words in a BagNet: which words there are, what they vote for, what they carry.

Brendel & Bethge (ICLR 2019) built BagNets after models that count visual words, which are clusters
of local features (Sivic & Zisserman, ICCV 2003). A BagNet counts no words: it adds up the votes of
patches, and none of these need be alike. Here they are clustered, and a word is a cluster. Its vote
is the mean vote of its patches, which by the network's linearity is the vote of their mean
features. With a word in place of each patch, the network is a real bag of words: its logits are the
words' votes, weighted by how often the image has them. How often that decides as the network does,
and how often it is right, says how much of the network the words show.

* At most 16,384 patches are drawn (--seed), evenly from at most 4,096 images, which lie evenly in
  the split.
* Their features, scaled to length 1, are clustered by k-means (Euclidean, from k-means++), once for
  each of --words. Without the scaling, most words would be a few outliers each. No labels are used.
* Every patch of all images gets the nearest word.

So memory hardly grows with the data: by 12 bytes for each image and word. The sample takes up to
128 MiB on disk for each network, and may be deleted in the end.

The pictures show the words of the first number of --words: those that are most frequent in the
sample, and those that add most to the logit of a class on its own images (how often they occur
there, times their vote). The patches shown of a word are the nearest ones, at most one of an image.
The pictures take their pixels from the data: without --data.root, only the tables are drawn again.

Writes `table.*` and `figure.*`, `LABEL-words.*` and `LABEL-classes.*` (tables and pictures),
LABEL.parquet (which words each image has), vocabulary/LABEL.parquet (words and votes), and
sample/LABEL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from bagnet.evidence.maps import require_bagnet
from bagnet.experiments.decisions.scrambling import decisions
from bagnet.experiments.explanations.options import WordsOptions
from bagnet.experiments.explanations.vocabulary import (
    Vocabulary,
    find_vocabularies,
    read_vocabulary,
)
from bagnet.experiments.explanations.word_tables import (
    CLASS_COLUMNS,
    WORD_COLUMNS,
    class_rows,
    classes_sheet,
    count_by_class,
    word_rows,
    words_sheet,
)
from bagnet.experiments.measuring.classes import choose_classes, classes_of
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.figures import Colours, Rows, line_figure
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.models import parse_models
from bagnet.experiments.measuring.parts import record_of
from bagnet.experiments.measuring.pixels import open_measured
from bagnet.experiments.measuring.results import Columns, write_results
from bagnet.experiments.measuring.statistics import Interval, share
from bagnet.model.registry import normalize

NAME = "words"
COLUMNS = {
    "model": ("network", ""),
    "words": ("words", ",d"),
    "images": ("images", ",d"),
    "top1": ("top-1 of the words", ".1%"),
    "network": ("top-1 of the network", ".1%"),
    "same": ("same class as the network", ".1%"),
}


@dataclass(frozen=True)
class BagOfWords:
    """Decisions of the network and of its words, and which words an image has.

    Columns: predicted_network and rank_network (0 is right), and for each number n of words
    predicted_n and rank_n; for each word of the first vocabulary: count, the number of its patches
    in the image; distance, that of the nearest of them to the centre, infinite if there is none;
    and place, where it is (places count row by row). Also map_width, patch and stride.
    """

    words: tuple[int, ...]
    seed: int
    vocabularies: Mapping[int, Vocabulary] = field(repr=False)

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        bagnet = require_bagnet(model)
        features = bagnet.features(normalize(images))
        columns: dict[str, np.ndarray] = decisions(bagnet.forward_head(features), labels, "network")
        patches = F.normalize(features.flatten(2).transpose(1, 2).float(), dim=2)
        for number in self.words:
            vocabulary = self.vocabularies[number]
            centres, votes = (
                torch.from_numpy(values).to(patches)
                for values in (vocabulary.centres, vocabulary.votes)
            )
            origin = centres.mean(0)  # products of alike directions would round distances away
            distances = torch.cdist(patches - origin, centres - origin)
            nearest = distances.argmin(2)
            counts = patches.new_zeros(len(patches), len(centres))
            counts.scatter_add_(1, nearest, torch.ones_like(nearest, dtype=counts.dtype))
            logits = counts / patches.shape[1] @ votes
            columns |= decisions(logits, labels, str(number))
            if number == self.words[0]:
                others = nearest[..., None] != torch.arange(len(centres), device=nearest.device)
                distance, place = distances.masked_fill_(others, torch.inf).min(1)
                columns["count"] = counts.int().cpu().numpy()
                columns["distance"] = distance.cpu().numpy()
                columns["place"] = place.int().cpu().numpy()
        constants = {
            "map_width": features.shape[3],
            "patch": bagnet.receptive_field,
            "stride": bagnet.stride,
        }
        return columns | {name: np.full(len(images), each) for name, each in constants.items()}


def run(options: WordsOptions) -> None:
    """Find the words, measure what is missing, and draw everything that exists.

    Raises:
        ValueError: A class does not exist, there are more words than patches, or the data is not
            what was measured.
    """
    options = replace(options, words=list(dict.fromkeys(options.words)))
    words, models = BagOfWords(tuple(options.words), options.seed, {}), parse_models(options.models)
    if models:
        data = open_data(options)
        choose_classes(options.classes, classes_of(data))
        for model in models:  # before anything is measured
            require_bagnet(model.load(torch.device("cpu"), data.classes))
        for model in models:
            found = find_vocabularies(NAME, model, options, data.val_manifest.num_samples)
            measure(NAME, replace(words, vocabularies=found), options, [model])
    tables = measure(NAME, words, options, [])
    rows = [row for label, table in tables.items() for row in _rows(label, table)]
    written: dict[str, tuple[Rows, Columns]] = {"table": (rows, COLUMNS)}
    figures = {"figure": _figure(rows, network_colours(options.out, tables))}
    for label, table in tables.items():
        names = classes_of(table).distinct_names()
        chosen = choose_classes(options.classes, classes_of(table))
        file = options.out / NAME / "vocabulary" / f"{label}.parquet"
        votes = read_vocabulary(file, _numbers(table)[0]).votes
        by_class = count_by_class(table, len(names))
        of_words = word_rows(table, votes, by_class, names)
        of_classes = class_rows(votes, by_class, names, chosen)
        written[f"{label}-words"] = (of_words, WORD_COLUMNS)
        written[f"{label}-classes"] = (of_classes, CLASS_COLUMNS)
        if options.data.root is not None:
            batches = open_measured(options, table).batches("val")
            figures[f"{label}-words"] = words_sheet(of_words, table, votes, names, batches)
            if of_classes:
                figures[f"{label}-classes"] = classes_sheet(of_classes, table, batches)
    write_results(options, NAME, written, figures)


def _numbers(table: pa.Table) -> list[int]:
    """The numbers of words that were measured."""
    kinds = [name.removeprefix("rank_") for name in table.column_names if name.startswith("rank_")]
    return [int(kind) for kind in kinds if kind != "network"]


def _rows(label: str, table: pa.Table) -> list[dict[str, Any]]:
    rank, predicted = table["rank_network"].to_numpy(), table["predicted_network"].to_numpy()
    return [
        {
            "model": label,
            "words": number,
            "images": len(rank),
            "top1": share(table[f"rank_{number}"].to_numpy() < 1),
            "network": share(rank < 1),
            "same": share(table[f"predicted_{number}"].to_numpy() == predicted),
            "classes": len(record_of(table.schema)["classes"]),
        }
        for number in sorted(_numbers(table))
    ]


def _figure(rows: Rows, colours: Colours) -> Figure:
    """Both shares by the number of words, and beside them the network itself."""
    ticks = {number: f"{number:,}" for number in sorted({row["words"] for row in rows})}
    chance = 1 / rows[0]["classes"]
    whole = [
        {"model": label, "words": "all", "top1": top1, "same": Interval(1, 1, 1)}
        for label, top1 in {row["model"]: row["network"] for row in rows}.items()
    ]
    return line_figure(
        [*rows, *whole],
        "words",
        {"top1": "top-1 accuracy, %", "same": "same class as the network, %"},
        "number of words",
        colours,
        ticks={**ticks, "all": "network"},
        ylim=(0, 102),
        percent=True,
        chance={"top1": chance, "same": chance},
    )
