"""The audit: each lie is found."""

import json
import re

import pytest

from datamodules.audit.verdict import audit
from tests.datamodules.audit.auditing import SAMPLES, STEPS, edit, file, finds, remove, train


def lose(folder, session, ranks, *places):
    for rank in ranks:
        for place in places:
            edit(folder, session, rank, place, remove)


def replace_first(folder, session, rank, place, sample):
    edit(folder, session, rank, place, lambda r: {**r, "ids": [sample, *r["ids"][1:]]})


def lose_a_sample(folder):
    edit(folder, 200, 1, 12, lambda record: {**record, "ids": record["ids"][1:]})


def change_header(folder, session, rank, change):
    path = file(folder, session, rank)
    header, _, lines = path.read_text().partition("\n")
    path.write_text(change(header) + "\n" + lines)


def resume_with(folder, **sizes):
    for rank in range(3):
        change_header(folder, 200, rank, lambda h: json.dumps({**json.loads(h), **sizes}))


@pytest.mark.parametrize(
    ("damage", "patterns"),
    [
        (lose_a_sample, ["epoch 1, step 4: 5 samples in a global batch of 6, session 200\n"]),
        (
            lambda run: lose(run, 200, range(3), 12, 13),
            ["epoch 1, steps 4 to 5: no records\n", "1 +6 of 8 +36 +16 "],
        ),
        (
            lambda run: lose(run, 200, [2], 12),
            ["epoch 1, step 4: no record of rank 2, session 200\n"],
        ),
        (
            lambda run: lose(run, 200, [1], 10),  # the first one after the restart
            ["epoch 1, step 2: no record of rank 1, session 200\n"],
        ),
        (
            lambda run: file(run, 100, 1).unlink(),
            [
                "epoch 0, steps 0 to 7: no record of rank 1, session 100\n",
                "epoch 1, steps 0 to 1: no record of rank 1, session 100\n",
            ],
        ),
        *(
            (
                lambda run, sample=sample: replace_first(run, 200, 0, 10, sample),
                [rf"epoch 1: 1 sample not from 0 to 51: {sample} in step 2 \(session 200"],
            )
            for sample in (-1, SAMPLES, 10**12)
        ),
        *(
            (
                lambda run, sizes=sizes: resume_with(run, **sizes),
                ["session 200 resumes with {} {} where session 100 had ".format(*pair)],
            )
            for sizes in ({"num_samples": 53}, {"global_batch": 5})
            for pair in sizes.items()
        ),
        *(
            (
                lambda run, name=name, value=value: change_header(
                    run, 200, 1, lambda h: h.replace(f'"{name}":3', f'"{name}":{value}')
                ),
                [f"session 200: rank 1 has {name} {value} and rank 0 has 3\n"],
            )
            for name, value in (("seed", 5), ("world_size", 2))
        ),
    ],
)
def test_damaged_records_are_found(run, capsys, damage, patterns):
    damage(run)
    finds(run, capsys, *patterns)


@pytest.mark.parametrize(
    ("sessions", "damage", "patterns"),
    [
        (  # a rank stops recording
            [(100, 0, (20, 11))],
            None,
            ["epoch 1, step 3: no record of rank 1, session 100, although .* 9 more steps\n"],
        ),
        (
            [(100, 0, (10, 9)), (200, 12, (16,))],
            None,
            [
                "epoch 1, steps 2 to 3: no records, a gap before session 200\n",
                "epoch 1, step 1: no record of rank 1, session 100\n",
            ],
        ),
        (  # the beginning was not recorded
            [(100, 2 * STEPS + 1, (24,))],
            None,
            [
                "epochs 0 to 1: no records\n",
                "epoch 2, step 0: no records, a gap before session 100\n",
            ],
        ),
        (
            [(100, 0, (16, 16))],
            lambda f: lose(f, 100, (0, 1), 6, 7),
            ["epoch 0, steps 6 to 7: no records\n", "0 +6 of 8 .*NOT EXACT"],
        ),
        (
            [(100, 0, (24,))],
            lambda f: lose(f, 100, [0], *range(8, 16)),
            ["epoch 1: no records\n"],
        ),
        (
            [(100, 0, (9,))],
            lambda f: edit(f, 100, 0, 8, lambda record: {**record, "epoch": 0, "step": 8}),
            ["epoch 0, step 8: an epoch has 8 steps\n"],
        ),
    ],
)
def test_histories_that_cannot_be_exact_are_found(tmp_path, capsys, sessions, damage, patterns):
    for session in sessions:
        train(tmp_path, *session)
    if damage:
        damage(tmp_path)
    finds(tmp_path, capsys, *patterns)


def test_a_sample_that_comes_again_is_found(run, capsys):
    samples = [json.loads(line) for line in file(run, 100, 0).read_text().splitlines()]
    sample, later = samples[3]["ids"][1], samples[9]["ids"][0]  # of steps 2 and, in epoch 1, 0
    replace_first(run, 100, 1, 5, sample)
    finds(
        run,
        capsys,
        rf"epoch 0: 1 sample more than once: {sample} in step 2 \(session 100, rank 0\) and step 5 "
        r"\(session 100, rank 1\)\n",
    )
    assert [epoch.verdict for epoch in audit(run).epochs] == ["NOT EXACT", "exact", "exact so far"]
    replace_first(run, 200, 2, 12, later)  # after a restart
    finds(run, capsys, rf"epoch 1: 1 sample .*{later} in step 0 .*100.* and step 4 \(session 200")


@pytest.mark.parametrize("step", [3, 7])
def test_a_step_that_is_done_twice_is_found(tmp_path, capsys, step):
    train(tmp_path, 100, 0, (8, 8))
    path = file(tmp_path, 100, 1)
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[1 + step])
    what = f"has epoch 0, step {step} after epoch 0, step 7"
    finds(tmp_path, capsys, rf"100-rank00001.jsonl, line 10: {what}\n")


@pytest.mark.parametrize(("name", "value"), [("seed", 4), ("accumulate", 2), ("dataset", "e" * 64)])
def test_a_restart_with_another_order_is_found(tmp_path, capsys, name, value):
    train(tmp_path, 100, 0, (9,))
    train(tmp_path, 200, 8, (16,), **{name: value})
    finds(tmp_path, capsys, rf"session 200 resumes with {name} {value} where session 100 had ")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "\0\0\0",
        "7",
        "[]",
        '{"epoch":1,"step":3}',
        '{"epoch":-1,"step":3,"ids":[1]}',
        '{"epoch":1,"step":3,"ids":[1.5]}',
        '{"epoch":1,"step":3,"ids":[[1],2]}',
        '{"epoch":1,"step":3,"ids":[[1],[2]]}',
        '{"epoch":1,"step":99999999999999999999,"ids":[1]}',
    ],
)
def test_a_line_that_cannot_be_read_is_named(run, capsys, text):
    line = edit(run, 200, 0, 11, lambda record: text + "\n")
    out = finds(run, capsys, rf"200-rank00000.jsonl, line {line}: cannot be read\n")
    assert "epoch 1, step 3: no record of rank 0, session 200\n" in out


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (r"\{", "("),
        (r".*", "[]"),
        (r'"rank":1', '"rank":"1"'),
        (r'"rank":1', '"rank":2'),  # the header of another file
        (r'"world_size":3', '"world_size":1'),
        (r'"world_size":3', '"world_size":1000000000000'),
        (r'"accumulate":1', '"accumulate":0'),
        (r'"accumulate":1', '"accumulate":9'),
        (r'"num_samples":52', '"num_samples":52.0'),
        (r',"seed":3', ""),
    ],
)
def test_a_header_that_makes_no_sense_is_named(run, capsys, part, other):
    change_header(run, 200, 1, lambda header: re.sub(part, other, header, count=1))
    finds(run, capsys, r"200-rank00001.jsonl, line 1: is not a header of this file")
