"""The scale benchmark: its formulas mean what they say, and each part can be the bottleneck."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bagnet.bench.lib.floors import count
from bagnet.bench.options import ScaleOptions
from bagnet.bench.scale import (
    GRADIENTS,
    all_reduce_seconds,
    exposed_seconds,
    predict,
    ring_seconds,
    tree_seconds,
)

PLENTY = ScaleOptions(
    rate=1000,
    batch=100,
    max_batch=10**6,
    floor_ms=1e-6,
    node_gbs=1e9,
    network_gbs=1e9,
    latency_us=1e-9,
    cores=1e9,
    read_gbs=1e9,
    storage_gbs=1e9,
    checkpoint_s=1e-9,
)
"""A cluster on which only the GPU takes time."""


def test_the_default_gradients_are_those_of_the_bagnet33():
    parameters = count("bagnet33", width=64, image_size=64).parameters
    assert pytest.approx(4 * parameters, rel=1e-3) == GRADIENTS


def test_a_ring_sends_a_piece_of_the_gradients_twice_to_all_others_one_after_the_other():
    ranks, size, bandwidth, latency = 5, 1000.0, 10.0, 3.0
    hops = 2 * (ranks - 1)
    assert ring_seconds(size, ranks, bandwidth, latency) == pytest.approx(
        hops * (size / ranks / bandwidth + latency)
    )
    assert ring_seconds(size, 1, bandwidth, latency) == 0
    assert tree_seconds(size, 1, bandwidth, latency) == 0


def test_between_many_nodes_trees_are_faster_than_a_ring_and_between_few_a_ring():
    single = replace(PLENTY, network_gbs=40, latency_us=10, node=1)
    few, many = (all_reduce_seconds(single, 25e6, nodes) for nodes in (2, 512))
    for seconds, nodes, faster, slower in (
        (few, 2, ring_seconds, tree_seconds),
        (many, 512, tree_seconds, ring_seconds),
    ):
        expected = faster(25e6, nodes, 40e9, 10e-6)
        assert seconds == pytest.approx(expected)
        assert expected < slower(25e6, nodes, 40e9, 10e-6)


def test_a_gpu_sends_only_its_share_of_the_gradients_out_of_its_node():
    nodes = replace(PLENTY, network_gbs=1, node_gbs=100)
    inside, outside = ring_seconds(8e9, 8, 100e9, 0), ring_seconds(1e9, 2, 1e9, 0)
    assert all_reduce_seconds(nodes, 8e9, 16) == pytest.approx(inside + outside)


def test_the_backward_pass_hides_all_but_the_last_bucket_of_a_fast_network():
    assert exposed_seconds(1.0, 0.5, [0.1] * 4) == pytest.approx(0.1)
    assert exposed_seconds(1.0, 0.5, [0.2] * 4) == pytest.approx(0.5 / 4 + 4 * 0.2 - 0.5)
    assert exposed_seconds(1.0, 0.0, [0.1] * 4) == pytest.approx(0.4)  # nothing to hide behind


def test_where_only_the_gpus_take_time_they_scale_perfectly():
    for gpus in (1, 8, 4096):
        prediction = predict(PLENTY, gpus)
        assert prediction.rate == pytest.approx(1000 * gpus)
        assert prediction.efficiency == pytest.approx(1)
        assert prediction.bottleneck == "compute"
        steps = 1_281_167 // (100 * gpus)
        validation = -(-50_000 // (100 * gpus)) / 3  # a forward pass is a third of a step
        assert prediction.epoch == pytest.approx((steps + validation) * 0.1)


@pytest.mark.parametrize(
    ("scarce", "bottleneck"),
    [
        ({"network_gbs": 0.01}, "network"),
        ({"latency_us": 1e5}, "network"),
        ({"floor_ms": 1000.0}, "launching"),
        ({"cores": 0.1}, "decoding"),
        ({"read_gbs": 0.01}, "reading"),
        ({"storage_gbs": 0.1}, "reading"),
        ({"checkpoint_s": 1000.0}, "saving"),
    ],
)
def test_whatever_is_scarce_is_the_bottleneck(scarce, bottleneck):
    prediction = predict(replace(PLENTY, **scarce), 64)
    assert prediction.bottleneck == bottleneck
    assert sum(prediction.shares.values()) == pytest.approx(1)
    assert prediction.epoch > predict(PLENTY, 64).epoch


def test_validation_is_the_bottleneck_of_few_training_images():
    assert predict(replace(PLENTY, images=6400), 64).bottleneck == "validation"


def test_storage_delivers_what_it_can_and_no_more():
    prediction = predict(replace(PLENTY, storage_gbs=2.0), 64)
    assert prediction.read == pytest.approx(2e9)
    assert prediction.rate == pytest.approx(2e9 / 110e3)


def test_a_limited_global_batch_leaves_less_for_each_gpu():
    prediction = predict(replace(PLENTY, max_batch=4096), 512)
    assert prediction.batch == 8
    assert prediction.step == pytest.approx(8 / 1000)


def test_checkpoints_in_the_middle_of_an_epoch_come_by_the_clock():
    # 12,811 s of training: 7 whole half hours, and two checkpoints at the end.
    prediction = predict(replace(PLENTY, rate=100.0, checkpoint_s=10.0), 1)
    assert prediction.shares["saving"] * prediction.epoch == pytest.approx(90)


@pytest.mark.parametrize(
    ("gpus", "message"),
    [(12, "do not fill nodes of 8"), (16_384, "each GPU needs one")],
)
def test_gpus_that_cannot_be_used_are_a_value_error(gpus, message):
    with pytest.raises(ValueError, match=message):
        predict(ScaleOptions(), gpus)


def test_the_table_has_the_predictions_of_all_numbers_of_gpus(figures, output):
    predictions = figures("scale", "--rate", "1000", "--gpus", "8", "4096")["predictions"]
    assert [each["gpus"] for each in predictions] == [8, 4096]
    assert predictions[0]["rate"] == predict(ScaleOptions(rate=1000), 8).rate
    assert f"{predictions[1]['rate']:,.0f}" in output()
