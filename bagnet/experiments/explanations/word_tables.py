"""The words of a network in tables and pictures: all of them, and those of a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from pyarrow.compute import list_element

from bagnet.evidence.pictures.sheets import patch_sheet
from bagnet.evidence.pictures.words import Word, word_sheet
from bagnet.experiments.measuring.figures import Rows
from bagnet.experiments.measuring.pixels import box_of, read_pixels
from datamodules.loading.batches import Batches

SHOWN = 24  # words in a picture
NEAREST = 8  # patches of a word
OF_CLASS = 3  # words of a class
LEGEND = (
    "The most frequent words: for each, the nearest patches, at most one of an image, and the mean "
    "vote of all its patches (logits) for the classes with the highest and lowest votes."
)
WORD_COLUMNS = {
    "word": ("word", "d"),
    "share": ("share of all patches", ".2%"),
    "images": ("images that have it", ".1%"),
    "common": ("most often in images of", ""),
    "of_it": ("share of its patches", ".1%"),
    "best": ("votes most for", ""),
    "highest": ("highest vote (logits)", ".2f"),
    "worst": ("least for", ""),
    "lowest": ("lowest vote (logits)", ".2f"),
}
CLASS_COLUMNS = {
    "class": ("class", ""),
    "rank": ("rank", "d"),
    "word": ("word", "d"),
    "vote": ("vote (logits)", ".2f"),
    "share": ("share of the patches of its images", ".2%"),
    "adds": ("adds to their logit", ".3f"),
    "logit": ("mean logit of the words", ".3f"),
}


def count_by_class(table: pa.Table, classes: int) -> np.ndarray:
    """How often each word occurs in the images of each class, int64 (classes, words)."""
    counts = np.stack(table["count"].to_numpy())
    by_class = np.zeros((classes, counts.shape[1]), np.int64)
    np.add.at(by_class, table["label"].to_numpy(), counts)
    return by_class


def word_rows(
    table: pa.Table, votes: np.ndarray, by_class: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each word that occurs, in the order of the vocabulary. Words are counted from 1."""
    total = by_class.sum(0)
    has_it = (np.stack(table["count"].to_numpy()) > 0).mean(0)
    common, best, worst = by_class.argmax(0), votes.argmax(1), votes.argmin(1)
    return [
        {
            "word": word + 1,
            "share": total[word] / total.sum(),
            "images": has_it[word],
            "common": names[common[word]],
            "of_it": by_class[common[word], word] / total[word],
            "best": names[best[word]],
            "highest": float(votes[word, best[word]]),
            "worst": names[worst[word]],
            "lowest": float(votes[word, worst[word]]),
        }
        for word in np.flatnonzero(total).tolist()
    ]


def class_rows(
    votes: np.ndarray, by_class: np.ndarray, names: Sequence[str], classes: Sequence[int]
) -> list[dict[str, Any]]:
    """The words that add most to the logit of each class on its own images, if any do."""
    rows = []
    for number in classes:
        shares = by_class[number] / max(1, by_class[number].sum())
        adds = shares * votes[:, number]
        for rank, word in enumerate(np.argsort(-adds, kind="stable")[:OF_CLASS], 1):
            if adds[word] > 0:
                rows.append(
                    {
                        "class": names[number],
                        "rank": rank,
                        "word": int(word) + 1,
                        "vote": float(votes[word, number]),
                        "share": shares[word],
                        "adds": adds[word],
                        "logit": adds.sum(),
                    }
                )
    return rows


def nearest(table: pa.Table, word: int, count: int) -> list[tuple[int, int, int]]:
    """The patches nearest to a word: (sample id, row, column), at most one of an image.

    Of equally near ones, the lower sample id comes first.

    Args:
        table: Results of `words.BagOfWords`.
        word: The word, counted from 1.
        count: The most patches to find.
    """
    distances = list_element(table["distance"], word - 1).to_numpy()
    order = np.argsort(distances, kind="stable")[: min(count, np.isfinite(distances).sum())]
    return [
        (row["sample_id"], *divmod(row["place"][word - 1], row["map_width"]))
        for row in table.take(order).to_pylist()
    ]


def _patches(table: pa.Table, word: int, batches: Batches) -> list[np.ndarray]:
    """The pixels of the patches nearest to a word."""
    patches, box = [], box_of(table)
    for sample_id, i, j in nearest(table, word, NEAREST):
        top, left, bottom, right = box(i, j)
        patches.append(read_pixels(batches, sample_id)[top:bottom, left:right])
    return patches


def words_sheet(
    rows: Rows, table: pa.Table, votes: np.ndarray, names: Sequence[str], batches: Batches
) -> Figure:
    """Draw the first rows of `word_rows`, with the votes for a few classes."""
    words = []
    for row in rows[:SHOWN]:
        own = votes[row["word"] - 1]
        order = np.argsort(-own, kind="stable")
        chosen = order if len(order) <= 5 else [*order[:3], *order[-2:]]
        words.append(
            Word(
                title=f"word {row['word']}",
                note=f"{row['share']:.1%} of all patches;\n{row['of_it']:.0%} of these in\n"
                f"images of {row['common']}",
                patches=_patches(table, row["word"], batches),
                votes=[(names[number], float(own[number])) for number in chosen],
            )
        )
    return word_sheet(words, LEGEND)


def classes_sheet(rows: Rows, table: pa.Table, batches: Batches) -> Figure:
    """Draw the rows of `class_rows`."""
    blocks: dict[str, dict[str, list[tuple[np.ndarray, str]]]] = {}
    for row in rows:
        title = (
            f"word {row['word']}: vote {row['vote']:.1f}\n{row['share']:.1%} of patches\n"
            f"adds {row['adds']:.2f}"
        )
        patches = _patches(table, row["word"], batches)
        blocks.setdefault(row["class"], {})[title] = [(patch, "") for patch in patches]
    return patch_sheet(blocks)
