"""The options of each command, which its flags are made from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import (
    NonNegativeInt,
    OpenUnitInterval,
    PositiveInt,
    restricted_number_type,
)

from datamodules.processes.children import available_cpus

if TYPE_CHECKING:
    JpegQuality = int
else:
    JpegQuality = restricted_number_type("JpegQuality", int, [(">=", 1), ("<=", 95)])


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What all commands take.

    Args:
        out: Folder of the packed data.
        workers: Number of processes; the result does not depend on it. By default one per CPU.
    """

    out: Path
    workers: PositiveInt = field(default_factory=available_cpus)


@dataclass(frozen=True, kw_only=True)
class PackOptions(CommonOptions):
    """What all commands take that write shards.

    Args:
        seed: Seed of the shuffle.
        samples_per_shard: Images in a shard; 1000 makes 1,282 shards of about 110 MB of ImageNet.
        resize: Shrink images whose shorter side has more pixels than this; never enlarges.
        quality: JPEG quality, 1 to 95, of images that are not RGB JPEGs or must shrink; or
            `lossless`, which makes them PNGs.
        class_names: List of the classes' names: Keras's imagenet_class_index.json, or a text with a
            line `id<TAB>name` for each class.
    """

    seed: NonNegativeInt = 0
    samples_per_shard: PositiveInt = 1000
    resize: PositiveInt | None = None
    quality: JpegQuality | Literal["lossless"] = 90
    class_names: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ImageFolderOptions(PackOptions):
    """Options of `imagefolder`.

    Args:
        src: Folder with train/ and val/ (or training/; valid/, validation/, test/), each with a
            folder per class.
        classes: List of a network's classes, for an evaluation set such as ImageNet-A:
            imagenet_class_index.json, a text with a line `id<TAB>name`, or a folder of packed data.
            SRC then has class folders, or folders of such folders, and labels are places in the
            list.
        class_names: List of the classes' names: imagenet_class_index.json, or a text with a line
            `FOLDER<TAB>NAME` for each class; by default SRC/classes.tsv if there is one.
    """

    src: Path
    classes: Path | None = None


@dataclass(frozen=True, kw_only=True)
class HumansOptions(CommonOptions):
    """Options of `humans`.

    Args:
        src: Folder of model-vs-human, with datasets/ and raw-data/.
    """

    src: Path


@dataclass(frozen=True, kw_only=True)
class CsvOptions(PackOptions):
    """Options of `csv`.

    Args:
        src: Tables with a first line that names the columns, separated by commas, semicolons or
            tabs.
        images: Folder that paths are relative to, instead of the table's.
        path: Column of the images' paths.
        label: Column of the classes.
        split: Column that says train, val or test; without one, the names of the tables do.
        group: Column of what must not be in both splits, such as patients.
        val_share: Share of the groups (of the images, without --group) for validation, chosen by
            --seed; instead of --split.
        class_names: List of the classes' names: a text with a line `LABEL<TAB>NAME` for each class.
    """

    src: list[Path]
    images: Path | None = None
    path: str = "path"
    label: str = "label"
    split: str = "split"
    group: str | None = None
    val_share: OpenUnitInterval | None = None


@dataclass(frozen=True, kw_only=True)
class IlsvrcOptions(PackOptions):
    """Options of `ilsvrc`.

    Args:
        src: Folder of the downloaded archives, or of Kaggle's unzipped files.
        val_labels: Text file with the validation labels, used instead of the devkit or of
            LOC_val_solution.csv: a wnid per line in the order of the file names, or `NAME WNID` per
            line.
    """

    src: Path
    val_labels: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ParquetOptions(PackOptions):
    """Options of `parquet`.

    Args:
        src: Files, brace lists, globs, folders, also as hf://datasets/ORG/NAME/...
        image: Column of the images: their bytes, alone or with a path as `datasets` writes them.
        label: Column of the classes, numbers or names.
        split: What the files are, if their names do not say train, val(idation) or test.
        class_names: List of the classes in the order of the labels: imagenet_class_index.json, a
            text with a line `id<TAB>name`, or a name alone, for each class; or packed data.
    """

    src: list[str]
    image: str = "image"
    label: str = "label"
    split: Literal["train", "val"] | None = None


@dataclass(frozen=True, kw_only=True)
class IndexOptions(CommonOptions):
    """Options of `index`.

    Args:
        src: Shards with jpg (or png, webp, ...) and cls members: files, brace lists, globs,
            folders; for `index` also URLs (https, hf, s3, gs, ...) and 'pipe:COMMAND', with brace
            lists too.
        class_names: List of the classes in the order of the labels: imagenet_class_index.json, a
            text with a line `id<TAB>name` or a name alone for each class, or a manifest.json.
        split: What the shards are, if their names do not say train or val(idation).
    """

    src: list[str]
    class_names: Path | None = None
    split: Literal["train", "val"] | None = None


@dataclass(frozen=True, kw_only=True)
class WdsOptions(IndexOptions, PackOptions):
    """Options of `wds`."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(CommonOptions):
    """Options of `verify`.

    Args:
        allow_pipe: Run the commands that an index of pipe: shards names.
    """

    allow_pipe: bool = False


@dataclass(frozen=True, kw_only=True)
class DescribeOptions:
    """Options of `describe`.

    Args:
        out: Folder of the packed or indexed data.
        sheet: PNG to write, with images of each class.
    """

    out: Path
    sheet: Path | None = None
