"""The strongest patches of each class and the mistakes, read from disk, are the network's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bagnet.evidence.maps import evidence_map
from bagnet.experiments.__main__ import main
from bagnet.experiments.explanations import patches
from bagnet.experiments.measuring.parts import read_file, read_record
from bagnet.model.registry import normalize
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.experiments.conftest import read_csv, save_network

SIZES = ["--data.workers", "0", "--data.image_size", "32", "--data.resize_size", "36"]
SHOWN = ["--patches", "3", "--classes", "class4", "class1", "--mistakes", "2"]


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """Weights of a narrow BagNet that decides badly."""
    return save_network(tmp_path_factory.mktemp("network") / "mine.ckpt")


@pytest.fixture(scope="module")
def out(shards, network, tmp_path_factory) -> Path:
    """The --out of a run."""
    out = tmp_path_factory.mktemp("out")
    words = ["patches", "--models", f"mine={network}", "--data.root", str(shards)]
    assert main([*words, "--out", str(out), *SIZES, *SHOWN]) == 0
    return out


def test_the_lists_are_those_of_all_images_and_classes(out, shards, network):
    folder = out / "patches"
    model = load_model(network)
    data = ImageNetDataModule(str(shards), 53, 0, 32, 36)
    ((images, labels, ids),) = data.val_dataloader()
    evidence = evidence_map(model, normalize(images))
    expected = []
    for number, own in ((4, True), (4, False), (1, True), (1, False)):
        rows = [n for n, label in enumerate(labels.tolist()) if (label == number) == own]
        rows.sort(key=lambda n: (-float(evidence[n, number].max()), int(ids[n])))
        for rank, n in enumerate(rows[:3], 1):
            box = model.box(*divmod(int(evidence[n, number].argmax()), evidence.shape[3]))
            key = data.val_manifest.sample(int(ids[n])).key
            of = "its own images" if own else "other images"
            expected.append((f"class{number}", of, rank, key, box[0], box[1]))
    found = [
        (r["class"], r["of"], int(r["rank"]), r["file"], int(r["top"]), int(r["left"]))
        for r in read_csv(folder / "mine-patches.csv")
    ]
    assert found == expected
    pictures = {path.name for path in folder.glob("mine-*.png")}
    assert pictures == {"mine-mistakes.png", "mine-patches.png"}


def test_of_equal_evidence_the_lower_sample_id_comes_first():
    columns = {"label": [0, 1, 0, 0], "evidence": [[1.0], [9.0], [2.0], [1.0]], "place": [[5]] * 4}
    constants = {"map_width": [3] * 4, "patch": [9] * 4, "stride": [8] * 4}
    table = pa.table({"sample_id": [2, 4, 6, 8], **columns, **constants})
    rows = patches.strongest(table, ["a", "b"], 0, own=True, count=3)
    assert [row["sample_id"] for row in rows] == [6, 2, 8]
    assert rows[0]["box"] == (8, 16, 17, 25)
    assert patches.strongest(table, ["a", "b"], 0, own=True, count=2) == rows[:2]


def test_of_two_classes_with_one_name_the_one_that_is_meant_is_shown(out, shards, tmp_path, capsys):
    folder = shutil.copytree(out, tmp_path / "out") / "patches"
    file = folder / "mine.parquet"
    record = read_record(file)
    ids = record["classes"]
    record["class_names"] = ["crane" if n in (1, 4) else f"class{n}" for n in range(len(ids))]
    table = read_file(file).replace_schema_metadata({"bagnet": json.dumps(record)})
    pq.write_table(table, file)
    expected = {n: read_csv(out / "patches" / "mine-patches.csv") for n in (1, 4)}
    words = ["patches", "--out", str(tmp_path / "out"), "--patches", "3"]
    assert main([*words, "--classes", "crane"]) == 2
    assert "several classes have this name" in capsys.readouterr().err
    assert main([*words, "--classes", ids[4], ids[1]]) == 0
    found = read_csv(folder / "mine-patches.csv")
    for n, rows in expected.items():
        evidence = [row["evidence"] for row in rows if row["class"] == f"class{n}"]
        own = [row["evidence"] for row in found if row["class"] == f"crane ({ids[n]})"]
        assert own == evidence
        assert own


def test_mistakes_hold_the_evidence_that_makes_their_logits(out):
    rows = read_file(out / "patches" / "mine.parquet").to_pylist()
    wrong = [row for row in rows if row["predicted"] != row["label"]]
    assert wrong
    for row in wrong:
        true, predicted = torch.tensor(row["maps"]).view(2, -1)
        assert true.mean().item() == pytest.approx(row["logit_true"], abs=1e-4)
        assert predicted.mean().item() == pytest.approx(row["logit_predicted"], abs=1e-4)
        assert row["logit_predicted"] > row["logit_true"]
    assert all(not row["maps"] for row in rows if row["predicted"] == row["label"])


def test_drawn_again_without_a_network_the_pictures_are_the_same(out, shards, tmp_path):
    folder = shutil.copytree(out, tmp_path / "out") / "patches"
    before = {file.name: file.read_bytes() for file in folder.glob("mine-*")}
    for file in folder.glob("mine-*"):
        file.unlink()
    words = ["patches", "--data.root", str(shards), "--out", str(tmp_path / "out")]
    assert main([*words, *SIZES, *SHOWN]) == 0
    assert {file.name: file.read_bytes() for file in folder.glob("mine-*")} == before


def test_with_another_network_only_images_that_both_misclassify_are_shown(
    out, shards, network, tmp_path, monkeypatch, capsys
):
    copy = shutil.copytree(out, tmp_path / "out")
    common = ["--data.root", str(shards), "--out", str(copy), *SIZES]
    words = ["patches", *common, *SHOWN, "--mistakes", "60", "--other", "bagnet17"]
    assert main(words) == 2
    assert "run `accuracy` with both into the same --out first" in " ".join(
        capsys.readouterr().err.split()
    )
    second = save_network(tmp_path / "17.ckpt", 17)
    assert main(["accuracy", "--models", f"mine={network}", f"bagnet17={second}", *common]) == 0
    shown = []
    real = patches.mistake_sheet
    monkeypatch.setattr(
        patches, "mistake_sheet", lambda wrong, box: shown.extend(wrong) or real(wrong[:2], box)
    )
    assert main(words) == 0
    data = ImageNetDataModule(str(shards), 53, 0, 32, 36)
    ((images, labels, ids),) = data.val_dataloader()
    shares = [load_model(file)(normalize(images)).softmax(1).detach() for file in (network, second)]
    best = [each.max(1) for each in shares]
    expected = {}
    for n, label in enumerate(labels.tolist()):
        if all(each.indices[n] != label for each in best):
            expected[data.val_manifest.sample(int(ids[n])).key] = "; ".join(
                f"{name} says class{each.indices[n]} ({each.values[n]:.0%}; class{label} "
                f"{share[n, label]:.0%})"
                for name, each, share in zip(("mine", "bagnet17"), best, shares, strict=True)
            )
    assert 0 < len(expected) < 53
    assert {mistake.name: mistake.note for mistake in shown} == expected


def test_bad_input_gets_one_message(out, shards, capsys):
    words = ["patches", "--out", str(out), "--data.workers", "0"]
    assert main([*words, "--classes", "cat"]) == 2
    assert "--classes cat: no such class" in capsys.readouterr().err
    assert main([*words, "--data.root", str(shards), "--data.image_size", "33"]) == 2
    assert "image_size" in capsys.readouterr().err
