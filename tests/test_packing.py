"""What forbids two output channels to share multipliers, by stage; and orders of channels in which they do."""

from dataclasses import replace

import numpy as np
import pytest
from random_tables import CORE_KINDS, random_table
from test_order import block
from test_stages import classifier, convolution, depthwise, network

import boards
from gen.inputs import random_inputs
from gen.layout import weight_words
from gen.packing import obstacle, pair_channels, prevented
from gen.passes import lower
from gen.plan import plan
from gen.simulate import simulate
from gen.stages import stages_of
from hw.config import ArrayShape
from hw.dot import packable
from sim import golden

FOUR = ArrayShape(lanes=4, words=1)


def stage(name, source, weights):
    """A pointwise convolution of four channels."""
    layer = convolution(name, source, (2, 2, len(weights)), channels_in=4)
    return replace(layer, weights=np.array(weights, np.int8).reshape(-1, 1, 1, 4))


def test_every_stage_with_such_weights_is_named():
    bad, good = [[-128] * 4] * 4, [[-127, 127, -128, 0], [1, 2, 3, -128]] * 2
    stages = stages_of(network((2, 2, 4), stage("a", "x", bad), stage("b", "a", good), stage("c", "b", bad)))
    assert obstacle(stages, FOUR) == "weights of -128 would meet in a, c"
    assert obstacle(stages[1:2], FOUR) is None


@pytest.mark.parametrize("lanes", [1, 3, 5])
def test_an_odd_number_of_lanes(lanes):
    stages = stages_of(network((2, 2, 4), stage("a", "x", [[1] * 4] * 4)))
    assert obstacle(stages, ArrayShape(lanes=lanes, words=2)) == f"N is odd, {lanes}"


@pytest.mark.parametrize("lanes, words", [(2, 1), (2, 3), (4, 1), (6, 2)])
def test_which_channels_and_rows_meet(lanes, words):
    """Channels 0 and 1 do, 2 and 3 do, and 1 and 2 never; so do rows."""
    array = ArrayShape(lanes=lanes, words=words)
    one, low = [1] * 4, [-128, 0, 0, 0]
    for weights, shared in (
        ([one, one, low, low], False), ([one, low, low, one], True),
        ([one, one, [-128, -128, 0, 0], one], False), ([one, one, [0, -128, -128, 0], one], True),
    ):  # fmt: skip
        stages = stages_of(network((2, 2, 4), stage("a", "x", weights)))
        assert (obstacle(stages, array) is None) == shared


def with_low_weights(table, rng, share):
    """The table with about ``share`` of the weights of its inner convolutions at -128."""
    layers = []
    for layer in table.layers:
        if layer.operator in ("conv2d", "fully_connected") and layer.name not in table.outputs:
            low = rng.random(layer.weights.shape) < share
            layer = replace(layer, weights=np.where(low, np.int8(-128), layer.weights))
        layers.append(layer)
    return table.with_layers(layers)


def assert_same(table, other, inputs=2):
    """Outputs are equal; every other tensor has the same channels, in one order or another."""
    for values in random_inputs(table, inputs, 1):
        ours, theirs = golden.run(other, values), golden.run(table, values)
        for name in theirs:
            flat, expected = (t.reshape(-1, t.shape[-1]).T.tolist() for t in (ours[name], theirs[name]))
            assert sorted(flat) == sorted(expected)
            if name in table.outputs:
                assert flat == expected


def small_network(rng):
    """Convolutions, a depthwise layer, and a classifier over the whole of a tensor, with many weights of -128."""
    first = convolution("a", "x", (5, 4, 7), channels_in=3, kernel=(3, 3), padding=(1, 1, 1, 1))
    second = depthwise("b", "a", (5, 4, 7), padding=(1, 1, 1, 1))
    third = convolution("c", "b", (5, 4, 6), channels_in=7)
    return with_low_weights(network((5, 4, 3), first, second, third, classifier("d", "c", 120, 5)), rng, 0.04)


def test_channels_change_places():
    """Two of four meet; in another order none do, and whatever reads them follows."""
    one, low = [1, -1, 2, -2], [-128, 1, 1, 1]
    weights = [low, low, one, [1] * 4]
    last = convolution("b", "a", (2, 2, 2), channels_in=4)
    table = network((2, 2, 4), stage("a", "x", weights), last)
    other = pair_channels(table)
    assert other is not table and other.unfolded is table
    order = [list(map(int, row)) for row in other["a"].weights.reshape(4, 4)]
    assert sorted(order) == sorted(weights) and low in order[:2] and low in order[2:]
    assert_same(table, other)
    assert obstacle(stages_of(table), FOUR) == "weights of -128 would meet in a"
    assert prevented(table, stages_of(table), FOUR) is obstacle(stages_of(other), FOUR) is None
    planned = plan(table, boards.get("sim"), array=(4, 4), packing=True)
    assert planned.config.outputs == 2 and planned.report()["packing"]
    for words in (weight_words(entry, FOUR) for entry in planned.stages):
        assert packable(words[::2], words[1::2])
    # Without sharing, and where it is not what is chosen, the network stays as it is.
    assert plan(table, boards.get("sim"), array=(4, 4), packing=False).table is table


def test_outputs_keep_their_order():
    table = network((2, 2, 4), stage("a", "x", [[-128, 1, 1, 1]] * 2 + [[1] * 4] * 2))
    assert pair_channels(table) is table
    assert prevented(table, stages_of(table), FOUR) == "weights of -128 would meet in a"
    assert plan(table, boards.get("sim"), array=(4, 4), packing=True).config.outputs == 1


def test_no_order_helps():
    table = network((2, 2, 4), stage("a", "x", [[-128] * 4] * 4), convolution("b", "a", (2, 2, 2), channels_in=4))
    assert pair_channels(table) is table


def test_a_large_layer_takes_no_longer_than_it_may():
    """Nearly all of 1,100 channels meet with nearly all others: given up, or found, in a moment."""
    rng = np.random.default_rng(1)
    for share in (0.004, 0.2):
        first = convolution("a", "x", (1, 1, 1100), channels_in=300)
        table = network((1, 1, 300), first, convolution("b", "a", (1, 1, 2), channels_in=1100))
        table = with_low_weights(table, rng, share)
        other = pair_channels(table)
        assert (other is table) == (share == 0.2)
        assert (obstacle(stages_of(other), FOUR) is None) == (share < 0.2)


def test_an_odd_channel_has_none_beside_it():
    """Two of -128 in a pair of rows can only be the higher of two channels, so not the last of three."""
    weights = [[-128, -128, 1, 1], [1, 2, 3, 4], [-128, -128, 1, 2]]
    table = network((2, 2, 4), stage("a", "x", weights), convolution("b", "a", (2, 2, 2), channels_in=3))
    assert pair_channels(table) is table
    weights[2] = [-1, 1, 1, 1]
    table = network((2, 2, 4), stage("a", "x", weights), convolution("b", "a", (2, 2, 2), channels_in=3))
    assert pair_channels(table)["a"].weights.reshape(3, 4)[:2].tolist() == [[1, 2, 3, 4], [-128, -128, 1, 1]]


def test_tables_without_such_weights_stay():
    table = block(9)
    assert pair_channels(table) is table
    assert plan(table, boards.get("sim"), array=(4, 4), packing=True).table is table


@pytest.mark.parametrize("seed", range(12))
def test_depthwise_layers_and_classifiers_follow(seed):
    table = small_network(np.random.default_rng(seed))
    other = pair_channels(table)
    assert (other is table) == (obstacle(stages_of(table), FOUR) is None)
    assert_same(table, other)


def test_most_networks_have_an_order():
    """Of those above, and of random ones with residual sums, pools and constants, whose outputs stay too."""
    helped = changed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        table = small_network(rng) if seed % 2 else lower(random_table(rng, kinds=CORE_KINDS, layers=7, max_size=8))
        table = with_low_weights(table, rng, 0.02)
        other = pair_channels(table)
        if other is not table:
            changed += 1
            assert_same(table, other, inputs=1)
            before, after = (obstacle(stages_of(t), FOUR) or "" for t in (table, other))
            helped += len(after) < len(before)
    assert changed > 10 and helped > 10


@pytest.mark.cocotb
def test_channels_in_another_order_in_verilator(tmp_path):
    """The core equals the network in its own order, every layer and the outputs."""
    table = small_network(np.random.default_rng(1))
    planned = plan(table, boards.get("sim"), array=(4, 4), packing=True)
    assert planned.config.outputs == 2 and planned.table is not table
    report = simulate(planned, random_inputs(table, 2), directory=tmp_path)
    assert report["bit_exact"], report["difference"]
    assert report["cycles_measured"] == report["cycles"]
