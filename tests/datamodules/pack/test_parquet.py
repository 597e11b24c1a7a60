"""Packing Parquet files in the layout of Hugging Face's datasets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.pack.sources import parquet_files
from datamodules.shards.manifest import Manifest
from tests.datamodules.pack import builders
from tests.datamodules.pack.builders import REPOSITORY, content, image, images, refused

pack = partial(builders.pack, "parquet")

NAMES = ("tench, Tinca tinca", "goldfish", "shark")
WNIDS = ("n01440764", "n01443537", "n01484850")


def write_file(path, rows, names=NAMES, labels=None, **options):
    """Write (path, bytes, label) as the library `datasets` does."""
    labels = labels or pa.int64()
    images_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    fields = [pa.field("image", images_type), pa.field("label", labels)]
    columns = [
        pa.array([{"bytes": data, "path": name} for name, data, _ in rows], images_type),
        pa.array([label for *_, label in rows], labels),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata))
    pq.write_table(table, path, **{"row_group_size": 4, **options})
    return path


def train_row(n):
    return f"{WNIDS[n % 3]}_{n}_{WNIDS[n % 3]}.JPEG", image(n), n % 3


def val_row(n):
    return f"ILSVRC2012_val_{n:08d}_{WNIDS[n % 3]}.JPEG", image(100 + n), n % 3


class InThisProcess:
    """A pool of no processes."""

    def __init__(self, count):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, function, tasks, progress):
        return [function(task) for task in tasks]


@pytest.fixture
def dataset(tmp_path):
    """Twenty training images in two files, six for validation, and a test without labels."""
    return write_dataset(tmp_path / "imagenet-1k")


def write_dataset(root):
    for part in range(2):
        rows = [train_row(n) for n in range(10 * part, 10 * part + 10)]
        write_file(root / f"data/train-{part:05d}-of-00002.parquet", rows)
    write_file(root / "data/validation-00000-of-00001.parquet", [val_row(n) for n in range(6)])
    test = [(f"ILSVRC2012_test_{n:08d}.JPEG", image(n), -1) for n in range(3)]
    write_file(root / "data/test-00000-of-00001.parquet", test)
    return root


TRAIN = {train_row(n)[0][:-5]: (image(n), WNIDS[n % 3]) for n in range(20)}
VAL = {val_row(n)[0][:-5]: (image(100 + n), WNIDS[n % 3]) for n in range(6)}


def test_imagenet_as_hugging_face_has_it(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    assert pack(dataset, out, "--samples_per_shard", 7) == 0
    assert "note: the 1 test files are left out\n" in capsys.readouterr().out
    assert images(out / "train") == TRAIN
    assert images(out / "val") == VAL
    for split in ("train", "val"):
        manifest = Manifest.load(out / split)
        assert (manifest.classes, manifest.class_names) == (WNIDS, NAMES)
        names = {path.name for path in (out / split).iterdir() if path.suffix != ".tar"}
        assert names == {"manifest.json", "pack.json", "samples.npy"}
    assert builders.pack("verify", out) == 0


def test_the_bytes_depend_on_nothing_but_the_rows_and_again_nothing_is_read(
    dataset, tmp_path, capsys, monkeypatch
):
    assert pack(dataset, tmp_path / "a", "--samples_per_shard", 7) == 0
    words = ("--samples_per_shard", 7)
    assert pack(dataset / "data/*.parquet", tmp_path / "b", *words, workers=2) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    capsys.readouterr()
    monkeypatch.setattr("datamodules.pack.packing.Pool", InThisProcess)
    monkeypatch.setattr(parquet_files, "local_copy", None)
    assert pack(dataset, tmp_path / "a", *words) == 0
    assert capsys.readouterr().out.count("was packed already") == 2


def test_another_file_never_mixes_with_what_is_there(dataset, tmp_path, capsys):
    assert pack(dataset, tmp_path / "out") == 0
    rows = [(name, data[::-1], label) for name, data, label in map(train_row, range(10))]
    write_file(dataset / "data/train-00000-of-00002.parquet", rows)
    assert "another input" in refused(capsys, "parquet", dataset, tmp_path / "out")


def test_from_the_hub_with_one_request_for_the_images_of_a_file(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.pack.packing.Pool", InThisProcess)  # it knows the server
    write_dataset(hub.root / "files")
    out = tmp_path / "out"
    assert pack("hf://datasets/org/name", out) == 0
    assert (images(out / "train"), images(out / "val")) == (TRAIN, VAL)
    for name in ("train-00000-of-00002", "validation-00000-of-00001"):
        transfers = hub.transfers(f"/files/data/{name}.parquet")
        assert [sent for part, sent in transfers if part is None] == [
            (hub.root / f"files/data/{name}.parquet").stat().st_size
        ]
    count = len(hub.requests)
    assert pack("hf://datasets/org/name", out) == 0
    assert all(request.range for request in hub.requests[count:])  # only labels are read again


def test_a_dataset_that_the_hub_does_not_have_is_one_clear_error(hub, tmp_path, capsys):
    for name, message in {"other": "no such file", "name": "no .parquet files in hf://"}.items():
        error = refused(capsys, "parquet", f"hf://datasets/org/{name}", tmp_path / "out")
        assert message in error


def test_names_in_the_file_are_never_paths(tmp_path):
    tricks = [
        "../../evil.jpg",
        "/etc/passwd",
        "a/b.jpg",
        None,
        "",
        "x" * 400 + ".jpg",
        "a\0b\n.jpg",
    ]
    rows = [(name, image(n), n % 3) for n, name in enumerate(tricks)]
    write_file(tmp_path / "train.parquet", rows)
    before = set(tmp_path.rglob("*"))
    assert pack(tmp_path / "train.parquet", tmp_path / "out") == 0
    found = images(tmp_path / "out/train")
    assert {data for data, _ in found.values()} == {image(n) for n in range(7)}
    assert {"evil", "etc_passwd", "a_b", "train-3", "train-4"} <= set(found)
    assert before == {path for path in tmp_path.rglob("*") if "out" not in path.parts}


@pytest.mark.parametrize(
    ("names", "paths", "classes"),
    [
        (("cat", "dog", "fox"), "photo", ("cat", "dog", "fox")),
        (None, "photo", ("0", "1")),
        (None, "n0000000{label}_7", ("n00000000", "n00000001")),
        (("cat", "dog"), "n00000001_7", ("cat", "dog")),  # one wnid for two labels
    ],
)
def test_ids_of_classes_are_wnids_or_names_or_else_numbers(tmp_path, capsys, names, paths, classes):
    rows = [(paths.format(label=n % 2) + f"_{n}.jpg", image(n), n % 2) for n in range(4)]
    write_file(tmp_path / "train.parquet", rows, names)
    assert pack(tmp_path / "train.parquet", tmp_path / "out") == 0
    assert Manifest.load(tmp_path / "out/train").classes == classes
    assert ("do not name their classes" in capsys.readouterr().out) == (classes == ("0", "1"))


def test_labels_that_are_names_and_other_columns(tmp_path):
    columns = {"img": [image(0), image(1)], "kind": ["fox", "ant"]}
    (tmp_path / "set/train").mkdir(parents=True)
    pq.write_table(pa.table(columns), tmp_path / "set/train/0000.parquet")
    words = ("--image", "img", "--label", "kind")
    assert pack(tmp_path / "set", tmp_path / "out", *words) == 0
    expected = {"0000-0": (image(0), "fox"), "0000-1": (image(1), "ant")}
    assert images(tmp_path / "out/train") == expected
    assert Manifest.load(tmp_path / "out/train").classes == ("ant", "fox")


def test_test_is_taken_for_val_if_it_has_labels(tmp_path, capsys):
    for label, expected in ((-1, False), (0, True)):
        root, out = tmp_path / f"set{label}", tmp_path / f"out{label}"
        write_file(root / "train.parquet", [train_row(n) for n in range(3)])
        write_file(root / "test.parquet", [("a.jpg", image(9), label)])
        assert pack(root, out) == 0
        assert (out / "val").exists() == expected
        assert ("have no labels, so they are left out" in capsys.readouterr().out) != expected


def test_rows_without_label_or_image_are_named_and_counted(tmp_path, capsys):
    rows = [train_row(n) for n in range(3)]
    rows += [("a.jpg", image(9), None), ("b.jpg", None, 0), ("c.jpg", b"no image", 0)]
    write_file(tmp_path / "train.parquet", rows)
    error = refused(capsys, "parquet", tmp_path / "train.parquet", tmp_path / "out")
    assert "3 of the 6 images of train are unreadable" in error
    skipped = (tmp_path / "out/train/skipped.tsv").read_text()
    assert "train.parquet: a.jpg\tno label\n" in skipped
    assert "train.parquet: b.jpg\trow 4 has no bytes\n" in skipped
    assert "train.parquet: c.jpg\tnot a readable image" in skipped


def cut(path):
    builders.cut(path, 300)


def spoil(path):
    """Change bytes in the middle, where the images of the first rows are."""
    data = bytearray(path.read_bytes())
    data[200:1200] = bytes(1000)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words", "message"),
    [
        (cut, (), "train.parquet is not a complete Parquet file"),
        (spoil, (), "train.parquet is not a complete Parquet file"),
        (lambda path: path.rename(path.with_name("x.parquet")), (), "says neither train nor val"),
        (lambda path: path.rename(path.with_name("test.parquet")), (), "only test files"),
        (lambda path: path.unlink(), (), "no shards (.parquet) match"),
        (
            lambda path: None,
            ("--label", "fine"),
            "no column 'fine': it has image, label; give --la",
        ),
        (lambda path: None, ("--image", "label"), "the column 'label' of "),
        (lambda path: None, ("--label", "image"), "are struct<bytes: binary, path: string>, and n"),
        (lambda path: write_file(path, [("a", b"", None)]), (), "the train files have no labels"),
        (
            lambda path: write_file(path.with_name("val.parquet"), [val_row(0)], ("a", "b")),
            (),
            "name different classes",
        ),
        (
            lambda path: write_file(
                path.with_name("val.parquet"), [(*val_row(0)[:2], "x")], (), pa.string()
            ),
            (),
            "some files have numbers as labels, and others have names",
        ),
    ],
)
def test_files_that_make_no_sense_are_one_clear_error(tmp_path, capsys, damage, words, message):
    rows = [train_row(n) for n in range(3)]
    path = write_file(tmp_path / "set/train.parquet", rows, compression="zstd")
    damage(path)
    assert message in refused(capsys, "parquet", tmp_path / "set", tmp_path / "out", *words)
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_killed_run_resumes_and_reads_no_file_twice(tmp_path):
    """Killed among the shards, when all files have been read."""
    rows = [(f"{n}.png", image(n, "PNG", 500), 0) for n in range(40)]
    source = write_file(tmp_path / "train.parquet", rows, ("a",))
    words = ["parquet", source, tmp_path / "out", "--samples_per_shard", 2, "--workers", 1]
    command = [sys.executable, "-m", "datamodules.pack", *map(str, words)]
    run = subprocess.Popen(command, cwd=REPOSITORY)
    partial_ = tmp_path / "out/train/.partial"
    deadline = time.monotonic() + 120
    while run.poll() is None and len(list(partial_.glob("[!.]*.json"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -9
    copy = partial_ / "rows-000000.npy"
    before = copy.stat().st_mtime_ns
    assert pack(source, tmp_path / "fresh", "--samples_per_shard", 2) == 0
    assert before == copy.stat().st_mtime_ns
    assert pack(source, tmp_path / "out", "--samples_per_shard", 2) == 0
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
