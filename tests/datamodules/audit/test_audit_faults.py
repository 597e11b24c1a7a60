"""The audit: each lie is found."""

import json
import re

import pytest

from datamodules.audit.verdict import audit
from tests.datamodules.audit.auditing import (
    SAMPLES,
    STEPS,
    edit,
    file,
    finds,
    remove,
    replace_first,
    train,
)


def test_a_sample_that_comes_again_is_found(run, capsys):
    sample = int(json.loads(file(run, 100, 0).read_text().splitlines()[3])["ids"][1])  # step 2
    edit(run, 100, 1, 5, replace_first(sample))
    finds(
        run,
        capsys,
        rf"epoch 0: 1 sample more than once: {sample} in step 2 \(session 100, rank 0\) and step 5 "
        r"\(session 100, rank 1\)\n",
    )
    assert [epoch.verdict for epoch in audit(run).epochs] == ["NOT EXACT", "exact", "exact so far"]


def test_a_sample_that_comes_again_after_a_restart_is_found(run, capsys):
    sample = int(json.loads(file(run, 100, 0).read_text().splitlines()[9])["ids"][0])  # 1, 0
    edit(run, 200, 2, 12, replace_first(sample))
    finds(run, capsys, rf"epoch 1: 1 sample .*{sample} in step 0 .*100.* and step 4 \(session 200")


@pytest.mark.parametrize("step", [3, 7])
def test_a_step_that_is_done_twice_is_found(tmp_path, capsys, step):
    train(tmp_path, 100, 0, (8, 8))
    path = file(tmp_path, 100, 1)
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[1 + step])
    what = f"has epoch 0, step {step} after epoch 0, step 7"
    finds(tmp_path, capsys, rf"100-rank00001.jsonl, line 10: {what}\n")


def test_a_sample_that_is_lacking_is_found(run, capsys):
    edit(run, 200, 1, 12, lambda record: {**record, "ids": record["ids"][1:]})
    finds(run, capsys, r"epoch 1, step 4: 5 samples in a global batch of 6, session 200\n")


def test_a_missing_step_is_found(run, capsys):
    for rank in range(3):
        for place in (12, 13):
            edit(run, 200, rank, place, remove)
    out = finds(run, capsys, r"epoch 1, steps 4 to 5: no records\n")
    assert re.search(r"1 +6 of 8 +36 +16 ", out)


def test_the_missing_record_of_a_rank_is_found(run, capsys):
    edit(run, 200, 2, 12, remove)
    finds(run, capsys, r"epoch 1, step 4: no record of rank 2, session 200\n")


def test_the_missing_first_record_of_a_rank_after_a_restart_is_found(run, capsys):
    edit(run, 200, 1, 10, remove)
    finds(run, capsys, r"epoch 1, step 2: no record of rank 1, session 200\n")


def test_the_missing_file_of_a_rank_is_found(run, capsys):
    file(run, 100, 1).unlink()
    out = finds(run, capsys, r"epoch 0, steps 0 to 7: no record of rank 1, session 100\n")
    assert "epoch 1, steps 0 to 1: no record of rank 1, session 100\n" in out


def test_a_rank_that_stops_recording_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (20, 11))
    finds(
        tmp_path,
        capsys,
        r"epoch 1, step 3: no record of rank 1, session 100, although .* 9 more steps\n",
    )


def test_a_restart_that_leaves_a_gap_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (10, 9))
    train(tmp_path, 200, 12, (16,))
    out = finds(tmp_path, capsys, r"epoch 1, steps 2 to 3: no records, a gap before session 200\n")
    assert "epoch 1, step 1: no record of rank 1, session 100\n" in out


def test_a_run_whose_beginning_was_not_recorded_is_found(tmp_path, capsys):
    train(tmp_path, 100, 2 * STEPS + 1, (24,))
    out = finds(tmp_path, capsys, r"epochs 0 to 1: no records\n")
    assert "epoch 2, step 0: no records, a gap before session 100\n" in out


def test_an_epoch_that_is_cut_short_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (16, 16))
    for rank in range(2):
        for place in (6, 7):
            edit(tmp_path, 100, rank, place, remove)
    out = finds(tmp_path, capsys, r"epoch 0, steps 6 to 7: no records\n")
    assert re.search(r"0 +6 of 8 .*NOT EXACT", out)


def test_an_epoch_that_is_left_out_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (24,))
    for place in range(8, 16):
        edit(tmp_path, 100, 0, place, remove)
    finds(tmp_path, capsys, r"epoch 1: no records\n")


def test_an_epoch_that_is_too_long_is_found(tmp_path, capsys):
    train(tmp_path, 100, 0, (9,))
    edit(tmp_path, 100, 0, 8, lambda record: {**record, "epoch": 0, "step": 8})
    finds(tmp_path, capsys, r"epoch 0, step 8: an epoch has 8 steps\n")


@pytest.mark.parametrize("sample", [-1, SAMPLES, 10**12])
def test_a_sample_that_does_not_exist_is_found(run, capsys, sample):
    edit(run, 200, 0, 10, replace_first(sample))
    finds(run, capsys, rf"epoch 1: 1 sample not from 0 to 51: {sample} in step 2 \(session 200")


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 4), ("accumulate", 2), ("dataset", "e" * 64)],
)
def test_a_restart_with_another_order_is_found(tmp_path, capsys, name, value):
    train(tmp_path, 100, 0, (9,))
    train(tmp_path, 200, 8, (16,), **{name: value})
    finds(tmp_path, capsys, rf"session 200 resumes with {name} {value} where session 100 had ")


@pytest.mark.parametrize(("name", "value"), [("num_samples", 53), ("global_batch", 5)])
def test_a_restart_with_other_sizes_is_found(run, capsys, name, value):
    for rank in range(3):
        path = file(run, 200, rank)
        header, *lines = path.read_text().splitlines(keepends=True)
        path.write_text(json.dumps({**json.loads(header), name: value}) + "\n" + "".join(lines))
    finds(run, capsys, rf"session 200 resumes with {name} {value} where session 100 had ")


@pytest.mark.parametrize(("name", "value"), [("seed", 5), ("world_size", 2)])
def test_ranks_that_disagree_are_found(run, capsys, name, value):
    path = file(run, 200, 1)
    path.write_text(path.read_text().replace(f'"{name}":3', f'"{name}":{value}'))
    finds(run, capsys, rf"session 200: rank 1 has {name} {value} and rank 0 has 3\n")


@pytest.mark.parametrize(
    "text",
    [
        "{\n",
        "\0\0\0\n",
        "7\n",
        "[]\n",
        '{"epoch":1,"step":3}\n',
        '{"epoch":-1,"step":3,"ids":[1]}\n',
        '{"epoch":1,"step":3,"ids":[1.5]}\n',
        '{"epoch":1,"step":3,"ids":[[1],2]}\n',
        '{"epoch":1,"step":3,"ids":[[1],[2]]}\n',
        '{"epoch":1,"step":99999999999999999999,"ids":[1]}\n',
    ],
)
def test_a_line_that_cannot_be_read_is_named(run, capsys, text):
    line = edit(run, 200, 0, 11, lambda record: text)
    out = finds(run, capsys, rf"200-rank00000.jsonl, line {line}: cannot be read\n")
    assert "epoch 1, step 3: no record of rank 0, session 200\n" in out


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (r"\{", "("),
        (r".*", "[]"),
        (r'"rank":1', '"rank":"1"'),
        (r'"world_size":3', '"world_size":1'),
        (r'"world_size":3', '"world_size":1000000000000'),
        (r'"accumulate":1', '"accumulate":0'),
        (r'"accumulate":1', '"accumulate":9'),
        (r'"num_samples":52', '"num_samples":52.0'),
        (r',"seed":3', ""),
    ],
)
def test_a_header_that_makes_no_sense_is_named(run, capsys, part, other):
    path = file(run, 200, 1)
    header, _, lines = path.read_text().partition("\n")
    path.write_text(re.sub(part, other, header, count=1) + "\n" + lines)
    finds(run, capsys, r"200-rank00001.jsonl, line 1: is not a header of this file")


def test_the_header_of_another_file_is_named(run, capsys):
    file(run, 200, 3).write_bytes(file(run, 200, 2).read_bytes())
    finds(run, capsys, r"200-rank00003.jsonl, line 1: is not a header of this file")
