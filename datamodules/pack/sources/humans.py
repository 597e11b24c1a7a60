"""Packs the images of model-vs-human, and what humans answered about them.

examples:
  # the folder of the toolbox, with datasets/ and raw-data/
  python -m datamodules.pack humans model-vs-human/ packed/

SRC is laid out as the toolbox has it (https://github.com/bethgelab/model-vs-human):
SRC/datasets has a folder for each data set, with CATEGORY/IMAGE or with
dnn/session-1/IMAGE, where the fourth and fifth word of the image's name
(0001_cl_dnn_cr_oven_40_n04111531_14126.png) are the condition and the category.
SRC/raw-data has a folder for each data set, with the answers of each person in
*_subject-*.csv.

Makes packed/val, whose classes are the 16 categories, with answers.csv: the
data set, condition, and answers of each image. Images lose nothing (PNG). After
an interruption, the same command resumes.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from datamodules.common.errors import printable
from datamodules.common.files import write_text
from datamodules.common.texts import read_text
from datamodules.decoding.folders import image_files
from datamodules.pack.options import HumansOptions, PackOptions
from datamodules.pack.packing import console, pack
from datamodules.pack.sources.imagefolder import relative, rows_of_files
from datamodules.pack.sources.listing import Listing, Source, tabulate

ANSWERS = "answers.csv"
"""Beside the shards: the columns of `Trial`, after the image's key, with a column per person."""

CATEGORIES = (
    *("airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat"),
    *("chair", "clock", "dog", "elephant", "keyboard", "knife", "oven", "truck"),
)

DATASETS = (
    *("colour", "contrast", "high-pass", "low-pass", "phase-scrambling", "power-equalisation"),
    *("false-colour", "rotation", "eidolonI", "eidolonII", "eidolonIII", "uniform-noise"),
    *("sketch", "stylized", "edge", "silhouette", "cue-conflict"),
)

Answers = dict[str, dict[str, str]]
"""For each image of a data set, what each person answered."""


class Trial(NamedTuple):
    """An image of a data set."""

    dataset: str
    condition: str  # empty if the data set has one alone
    category: str
    image: str  # what its name is in all files; those of persons begin with other words


def run(options: HumansOptions) -> None:
    """Run the command."""
    root = options.src / "datasets"
    names = [name for name in DATASETS if (root / name).is_dir()]
    if not names:
        raise ValueError(
            f"{root} has none of the data sets of model-vs-human, such as {DATASETS[0]}/: SRC is "
            "the folder of the toolbox, with datasets/ and raw-data/"
        )
    trials: dict[str, Trial] = {}
    left_out: list[tuple[str, str]] = []
    answers: dict[str, Answers] = {}
    for name in names:
        files = image_files(root / name)
        own = {path: trial_of(Path(path).relative_to(root)) for path in files.images}
        answers[name] = read_answers(options.src / "raw-data" / name)
        _check(root / name, own, answers[name])
        trials |= own
        left_out += files.left_out
    labels = {path: CATEGORIES.index(trial.category) for path, trial in trials.items()}
    entries = tabulate([rows_of_files(root, labels)])
    known = CATEGORIES, CATEGORIES
    listing = Listing(
        "val", Source(root), entries, *known, left_out=relative(root, left_out), evaluation=True
    )
    packing = PackOptions(out=options.out, workers=options.workers, quality="lossless")
    pack(packing, [options.src, root], lambda *_: [listing])
    by_key = {
        key.decode(): trials[str(root / os.fsdecode(name))]
        for key, name in zip(entries["key"], entries["name"], strict=True)
    }
    write_text(_table(by_key, answers), options.out / "val" / ANSWERS)
    if len(names) < len(DATASETS):
        missing = [name for name in DATASETS if name not in names]
        console.print(f"note: {len(missing)} data sets are not there: {', '.join(missing)}")
    command = f"python -m bagnet.experiments humans --models RUN --data.root {options.out} --out"
    console.print(f"next: {command} results", markup=False)


def trial_of(path: Path) -> Trial:
    """What the path of an image below `datasets` says about it.

    Raises:
        ValueError: It does not say its category.
    """
    dataset, folder = path.parts[:2]
    words = path.name.split("_")
    condition, category = "", folder
    if folder == "dnn":
        condition, category = (condition_of(words[3]), words[4]) if len(words) > 5 else ("", "")
    if category not in CATEGORIES:
        raise ValueError(
            f"datasets/{path} is neither in the folder of a category, such as "
            f"{dataset}/{CATEGORIES[0]}/, nor in {dataset}/dnn/ with a name such as "
            "0001_cl_dnn_cr_oven_40_n04111531_14126.png"
        )
    return Trial(dataset, condition, category, image_of(path.name))


def image_of(name: str) -> str:
    """The part of a file's name that all observers share: `n04111531_14126.png`, `cat1-dog2.png`.

    The words before it differ: the number of the trial, the observer, the condition.
    """
    words = name.split("_")
    is_imagenet = len(words) > 1 and words[-2].startswith("n0")
    return "_".join(words[-2:] if is_imagenet else words[-1:])


def condition_of(text: str) -> str:
    """A condition as it is written here: 0.90 and 0.9 are the same, and so are True and true."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text.lower()


def read_answers(folder: Path) -> Answers:
    """Read the answers of all persons to the images of a data set; `na` if there was none in time.

    Raises:
        ValueError: There are none, a file is not such a table, or somebody saw an image twice.
    """
    found: Answers = {}
    for path in sorted(folder.glob("*_subject-*.csv")):
        lines = io.StringIO(read_text(path), newline="")
        try:
            for line in csv.DictReader(lines):
                row = {key.lower(): value for key, value in line.items()}
                own = found.setdefault(image_of(row["imagename"]), {})
                if row["subj"] in own:
                    raise ValueError(printable(f"{row['subj']} saw {row['imagename']} twice"))
                own[row["subj"]] = row["object_response"] or "na"
        except (csv.Error, KeyError, AttributeError, ValueError) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path} is not a table of answers: {reason}") from None
    if not found:
        raise ValueError(
            f"{folder} has no answers of humans, *_subject-*.csv: they are in the toolbox's "
            "repository (git clone https://github.com/bethgelab/model-vs-human)"
        )
    return found


def _check(folder: Path, trials: Mapping[str, Trial], answers: Answers) -> None:
    """Raise a ValueError unless each image is there once, and each person saw all of them."""
    paths: dict[str, str] = {}
    for path, trial in trials.items():
        if (other := paths.setdefault(trial.image, path)) != path:
            raise ValueError(f"{other} and {path} are the same image: remove one")
    persons = set().union(*answers.values())
    problems = [
        f"{folder} has no {printable(image)}, which was answered"
        for image in answers.keys() - paths
    ]
    for image, path in paths.items():
        if unseen := persons - answers.get(image, {}).keys():
            problems.append(f"{printable(min(unseen))} has no answer to {path}")
    if problems:
        raise ValueError(f"{min(problems)}: take datasets/ and raw-data/ of the same release")


def _table(trials: Mapping[str, Trial], answers: Mapping[str, Answers]) -> str:
    persons = sorted({who for own in answers.values() for said in own.values() for who in said})
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", *Trial._fields, *persons])
    for key, trial in trials.items():
        said = answers[trial.dataset][trial.image]
        writer.writerow([key, *trial, *(said.get(who, "") for who in persons)])
    return text.getvalue()
