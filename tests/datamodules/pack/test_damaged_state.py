"""What an unfinished pack has kept is used if it is whole, and made again if it is not."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.pack import job
from datamodules.pack.__main__ import main
from tests.datamodules.pack.builders import content, image, pack, refused, write

ODD = ("{", '{"fingerprint": 1}', "[" * 100_000, "[1]")


def stop(*_):
    raise ValueError("stopped before the manifest")


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """Packed shards without a manifest; returns the words that pack them."""
    for number in range(6):
        write(tmp_path / f"tree/train/n{number % 2}/{number}.jpg", image(number))
    words = ["imagefolder", tmp_path / "tree", tmp_path / "out", "--samples_per_shard", 3]
    with monkeypatch.context() as patched:
        patched.setattr(job.Manifest, "assemble", stop)
        assert pack(*words) == 2
    return words


def other_offset(text):
    state = json.loads(text)
    state["rows"][0][0] += 512
    return json.dumps(state)


@pytest.mark.parametrize("damage", [other_offset, *(lambda _, text=text: text for text in ODD)])
def test_a_shard_whose_state_is_damaged_is_written_again(unfinished, tmp_path, capsys, damage):
    state = tmp_path / "out/train/.partial/shard-000000.json"
    state.write_text(damage(state.read_text()))
    assert pack(*unfinished) == 0
    assert "1 shards were done before" in capsys.readouterr().out  # the other one
    assert pack("verify", tmp_path / "out") == 0


def test_rows_of_parquet_that_are_damaged_are_copied_again(tmp_path, capsys, monkeypatch):
    rows = [{"bytes": image(n), "path": f"{n}.jpg"} for n in range(3)]
    path = write(tmp_path / "train-0.parquet", b"")
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 2]}), path)
    assert pack("parquet", path, tmp_path / "fresh") == 0
    for number, odd in enumerate((b"", b"\x93NUMPY\1\0\2\0{\n", None)):
        out = tmp_path / str(number)
        with monkeypatch.context() as patched:
            patched.setattr(job.Manifest, "assemble", stop)
            assert pack("parquet", path, out) == 2
        for state in (out / "train/.partial").glob("*.json"):
            state.unlink()  # or nothing is read
        rows_file = out / "train/.partial/rows-000000.npy"
        data = rows_file.read_bytes()
        rows_file.write_bytes(data[:-1] + b"\x7f" if odd is None else odd)
        assert pack("parquet", path, out) == 0
        assert content(out) == content(tmp_path / "fresh")


def test_what_a_finished_pack_says_of_itself_may_be_damaged(tmp_path, capsys):
    write(tmp_path / "tree/train/n0/0.jpg", image(0))
    write(tmp_path / "tree/train/stray.txt", b"")
    words = ["imagefolder", tmp_path / "tree", tmp_path / "out"]
    assert pack(*words) == 0
    write(tmp_path / "out/train/skipped.tsv", b"\xff\xfe\twhy\n")
    assert pack(*words) == 0
    assert main(["describe", str(tmp_path / "out")]) == 0
    write(tmp_path / "out/train/pack.json", b'{"format": 2, "images": 5}')
    assert "pack.json is damaged (it holds no facts)" in refused(capsys, *words)
