"""The words of images, counted by a plain loop; what they decide; and that a stop costs little."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from bagnet.experiments.__main__ import main
from bagnet.experiments.explanations import word_tables, words
from bagnet.experiments.explanations.vocabulary import Vocabulary, read_vocabulary
from bagnet.experiments.measuring import processes
from bagnet.experiments.measuring.parts import read_file
from bagnet.model.registry import normalize
from tests.bagnet.experiments.bags import pictures, tiny_bagnet
from tests.bagnet.experiments.conftest import CLASSES, flags, read_csv

NUMBERS = ["--words", "5", "2"]


@pytest.fixture(scope="module", autouse=True)
def few_patches():
    """Fewer patches are drawn, as each takes some milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_tables, "NEAREST", 2)
        patch.setattr(word_tables, "OF_CLASS", 1)
        yield


@pytest.fixture(scope="module")
def out(shards, networks, tmp_path_factory) -> Path:
    """The --out of a run with the networks `bagnet9` and `mine`."""
    out = tmp_path_factory.mktemp("out")
    assert main(["words", *flags(shards, networks, out), *NUMBERS]) == 0
    return out


def test_counts_and_decisions_are_those_of_a_plain_loop():
    model, images = tiny_bagnet(9).float(), pictures(3, 41)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        features = model.features(normalize(images)).numpy()  # (3, 64, 5, 5)
        logits = model(normalize(images)).numpy()
    patches = features.transpose(0, 2, 3, 1).reshape(3, 25, 64)
    directions = patches / np.linalg.norm(patches, axis=2, keepdims=True)
    votes = {number: rng.normal(size=(number, 4)).astype(np.float32) for number in (7, 3)}
    found = {
        number: Vocabulary(directions.reshape(-1, 64)[rng.choice(75, number, False)], own)
        for number, own in votes.items()
    }
    labels = torch.tensor([2, 0, 3])
    bag = words.BagOfWords((7, 3), 0, found)
    columns = bag(model, images, labels, torch.tensor([4, 9, 2]))
    for n in range(3):
        for number in (7, 3):
            counts, nearest = [0] * number, [(np.inf, -1)] * number
            mean = np.zeros(4)
            for place in range(25):
                distances = [
                    float(np.linalg.norm(directions[n, place] - centre))
                    for centre in found[number].centres
                ]
                word = int(np.argmin(distances))
                counts[word] += 1
                nearest[word] = min(nearest[word], (distances[word], place))
                mean += votes[number][word] / 25
            assert columns[f"predicted_{number}"][n] == mean.argmax()
            assert columns[f"rank_{number}"][n] == (mean > mean[labels[n]]).sum()
            if number == 7:
                assert columns["count"][n].tolist() == counts
                distances, places = zip(*nearest, strict=True)
                np.testing.assert_allclose(columns["distance"][n], distances, atol=1e-3)
                has_it = np.array(counts) > 0
                assert (columns["place"][n][has_it] == np.array(places)[has_it]).all()
        assert columns["predicted_network"][n] == logits[n].argmax()
    assert columns["map_width"].tolist() == [5, 5, 5]


def test_every_patch_has_a_word_and_shares_are_those_of_the_rows(out):
    folder = out / "words"
    rows = {(row["model"], row["words"]): row for row in read_csv(folder / "table.csv")}
    assert list(rows) == [(label, n) for label in ("bagnet9", "mine") for n in ("2", "5")]
    for label, patches in (("bagnet9", 16), ("mine", 9)):  # (33 - 9) / 8 + 1 = 4 in a row, or 3
        table = read_file(folder / f"{label}.parquet")
        counts = np.stack(table["count"].to_numpy())
        assert counts.shape == (53, 5)
        assert (counts.sum(1) == patches).all()
        distances = np.stack(table["distance"].to_numpy())
        assert (np.isfinite(distances) == (counts > 0)).all()
        votes = read_vocabulary(folder / "vocabulary" / f"{label}.parquet", 5).votes
        decided = (counts / patches @ votes).argmax(1)
        labels, network = table["label"].to_numpy(), table["predicted_network"].to_numpy()
        row = rows[label, "5"]
        assert float(row["top1"]) == pytest.approx((decided == labels).mean())
        assert float(row["same"]) == pytest.approx((decided == network).mean())
        assert float(row["network"]) == pytest.approx((network == labels).mean())
        of_words = read_csv(folder / f"{label}-words.csv")
        assert sum(float(each["share"]) for each in of_words) == pytest.approx(1)
        for each in of_words:
            own = counts[:, int(each["word"]) - 1]
            assert float(each["images"]) == pytest.approx((own > 0).mean())
            by_class = [own[labels == number].sum() for number in range(CLASSES)]
            assert each["common"] == f"class{np.argmax(by_class)}"
            assert float(each["of_it"]) == pytest.approx(max(by_class) / own.sum())


def test_the_words_of_a_class_are_those_that_add_most_to_its_logit(monkeypatch):
    monkeypatch.setattr(word_tables, "OF_CLASS", 2)
    votes = np.array([[1.0, -1.0], [8.0, 0.5], [-2.0, 3.0], [9.0, 9.0]])
    by_class = np.array([[6, 2, 2, 0], [5, 0, 5, 0]])
    rows = word_tables.class_rows(votes, by_class, ["cat", "dog"], [1, 0])
    found = [(row["class"], row["rank"], row["word"], row["adds"]) for row in rows]
    assert found == [("dog", 1, 3, 1.5), ("cat", 1, 2, 1.6), ("cat", 2, 1, 0.6)]
    assert [row["logit"] for row in rows] == pytest.approx([1.0, 1.8, 1.8])
    no_images = word_tables.class_rows(votes, np.zeros((2, 4), int), ["cat", "dog"], [0])
    assert no_images == []


def test_the_nearest_patches_are_those_of_different_images():
    distances = [[0.5, 1.0], [0.1, np.inf], [0.5, 0.2], [np.inf, np.inf]]
    columns = {"distance": distances, "place": [[5, 1], [0, 0], [7, 8], [0, 0]]}
    table = pa.table({"sample_id": [3, 4, 8, 9], **columns, "map_width": [3] * 4})
    assert word_tables.nearest(table, 1, 9) == [(4, 0, 0), (3, 1, 2), (8, 2, 1)]
    assert word_tables.nearest(table, 1, 2) == [(4, 0, 0), (3, 1, 2)]
    assert word_tables.nearest(table, 2, 9) == [(8, 2, 2), (3, 0, 1)]


def test_drawn_again_from_its_files_everything_is_the_same(out, shards, tmp_path):
    folder = shutil.copytree(out, tmp_path / "out") / "words"
    drawn = [file for file in folder.iterdir() if file.suffix in (".md", ".csv", ".png", ".svg")]
    names = {"figure", "bagnet9-words", "bagnet9-classes", "mine-words", "mine-classes"}
    assert {file.stem for file in drawn if file.suffix == ".png"} == names
    before = {file: file.read_bytes() for file in drawn}
    for file in drawn:
        file.unlink()
    command = ["words", "--out", str(tmp_path / "out"), "--data.workers", "0"]
    assert main(command) == 0
    assert not (folder / "mine-words.png").exists()  # it needs the images
    assert main([*command, "--data.root", str(shards)]) == 0
    assert {file: file.read_bytes() for file in before} == before


@pytest.fixture
def one(shards, networks, tmp_path, monkeypatch) -> list[str]:
    """The command for one network, in parts of 20 images, whose figures are not drawn."""
    monkeypatch.setattr("bagnet.experiments.measuring.measure.part_size", lambda images: 20)
    for name in ("words_sheet", "classes_sheet", "write_results"):
        monkeypatch.setattr(words, name, lambda *_: None)
    command = ["words", *flags(shards, networks, tmp_path), *NUMBERS]
    command[2:4] = [f"mine={networks / '9.ckpt'}"]
    return [*command, "--data.batch_size", "10"]  # so a part of 20 has the batches 1, 10 and 9


def same(first: Path, second: Path) -> bool:
    names = ("mine", "vocabulary/mine", "sample/mine/mine")
    tables = [[read_file(o / "words" / f"{n}.parquet") for n in names] for o in (first, second)]
    return all(ours.equals(theirs) for ours, theirs in zip(*tables, strict=True))


@pytest.mark.parametrize("batches", [5, 15])
def test_a_stop_in_either_pass_costs_a_part_and_changes_nothing(
    batches, one, tmp_path, monkeypatch
):
    assert main([*one, "--out", str(tmp_path / "alone")]) == 0
    measured, real = [], processes._rows

    def measure(*arguments):
        measured.append(1)
        if len(measured) == batches:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(processes, "_rows", measure)
    assert main(one) == 130
    assert len(measured) == batches
    assert main(one) == 0
    # In all, 9 batches for the sample and 9 for the rows, and those of the part that was stopped.
    assert len(measured) == 18 + 1 + (batches - 1) % 3
    assert same(tmp_path, tmp_path / "alone")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--words 90 --limit 5", "--words 90: the sample has 80 patches; give fewer words"),
        ("--words 5 3", "words is [5, 2], and here it is [5, 3]; give another --out"),
        ("--words 5 2 --classes cat", "--classes cat: no such class; give the id, name or number"),
    ],
)
def test_what_cannot_be_counted_is_one_message(
    more, message, out, shards, networks, tmp_path, capsys
):
    folder = tmp_path if "--limit" in more else shutil.copytree(out, tmp_path / "copy")
    assert main(["words", *flags(shards, networks, folder), *more.split()]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after warnings
    assert message in line
