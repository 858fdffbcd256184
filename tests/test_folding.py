"""Folding of constant channels: what stays keeps its values, for every input; what goes could not change."""

from dataclasses import replace

import numpy as np
import pytest
from random_tables import CORE_KINDS, random_table

from gen.folding import fold_constant_channels, intervals
from gen.importer import load_tflite
from gen.inputs import random_inputs
from gen.passes import lower
from gen.table import Layer, Quantization, Table, TensorType
from sim import golden

Q = Quantization(0.5, 0)


def conv(name, source, weights, bias, *, shape, zero_point=0, clamp=(-128, 127), **fields):
    """A convolution of unit scales, weights (C_out, height, width, C_in)."""
    weights = np.asarray(weights, np.int8)
    return Layer(
        name, "conv2d", (source,), TensorType(shape, "int8", Quantization(0.5, zero_point)),
        kernel=weights.shape[1:3], clamp=clamp, weights=weights, bias=np.asarray(bias, np.int32),
        weight_scales=np.ones(len(weights), np.float32), **fields,
    )  # fmt: skip


def depthwise(name, source, weights, bias, *, shape, zero_point=0, clamp=(-128, 127), **fields):
    """A depthwise convolution of unit scales, weights (height, width, C)."""
    weights = np.asarray(weights, np.int8)
    return Layer(
        name, "depthwise_conv2d", (source,), TensorType(shape, "int8", Quantization(0.5, zero_point)),
        kernel=weights.shape[:2], clamp=clamp, weights=weights, bias=np.asarray(bias, np.int32),
        weight_scales=np.ones(weights.shape[-1], np.float32), **fields,
    )  # fmt: skip


def check(table, folded, inputs=4, seed=0):
    """Outputs are the same; in every other tensor the channels that stay are channels of the original, in order."""
    for values in random_inputs(table, inputs, seed):
        before, after = golden.run(table, values), golden.run(folded, values)
        for name in table.outputs:
            np.testing.assert_array_equal(before[name], after[name])
        for layer in folded.layers:
            whole, part = (
                tensors[layer.name].reshape(-1, tensors[layer.name].shape[-1]) for tensors in (before, after)
            )
            left = iter(whole.T)
            assert all(any(np.array_equal(channel, other) for other in left) for channel in part.T), layer.name


def dead_channels(table, rng):
    """The table with about half of the channels of its convolutions made constant by extreme biases."""
    layers = []
    for layer in table.layers:
        if layer.operator in ("conv2d", "depthwise_conv2d") and layer.clamp[0] < layer.clamp[1]:
            bias = layer.bias.astype(np.int64)
            dead = np.array([rng.random() < 0.5 for _ in bias])
            bias[dead] = [rng.choice([-(2**26), 2**26]) for _ in range(dead.sum())]
            scales = (
                np.where(dead, np.float32(2**-12), layer.weight_scales)
                if layer.weight_scales.size > 1
                else layer.weight_scales
            )
            layer = replace(layer, bias=bias.astype(np.int32), weight_scales=scales.astype(np.float32))
        layers.append(layer)
    return table.with_layers(layers)


def test_a_constant_channel_moves_into_the_bias():
    """Worked by hand: channel 1 is always 5, so 3 * 5 goes into the bias, and its row of weights goes."""
    table = Table(
        "hand",
        {"x": TensorType((2, 2, 1), "int8", Q)},
        (
            conv("a", "x", [[[[1]]], [[[0]]]], [0, 10], shape=(2, 2, 2)),
            conv("b", "a", [[[[2, 3]]]], [7], shape=(2, 2, 1)),
        ),
        ("b",),
    )
    folded = fold_constant_channels(table)
    assert folded["a"].output.shape == (2, 2, 1) and folded["a"].weights.tolist() == [[[[1]]]]
    assert folded["b"].weights.tolist() == [[[[2]]]]
    (value,) = golden.run(table, {"x": np.zeros((2, 2, 1), np.int8)})["a"][0, 0, 1:]
    assert folded["b"].bias.tolist() == [7 + 3 * int(value)] and value != 0
    assert folded.unfolded is table and table.macs == 2 * 4 + 2 * 4 and folded.macs == 8
    check(table, folded)


@pytest.mark.parametrize("padding, bias, stays", [(0, 4, 1), (1, 4, 2), (1, 0, 1)])
def test_borders(padding, bias, stays):
    """A constant that is not the padding's value shows at the border of a padded convolution, and only there."""
    size = 4 + 2 * padding - 2
    first = conv("a", "x", [[[[1]]], [[[0]]]], [0, bias], shape=(4, 4, 2), zero_point=3)
    second = conv("b", "a", np.ones((1, 3, 3, 2)), [0], shape=(size, size, 1), padding=(padding,) * 4)
    table = Table("border", {"x": TensorType((4, 4, 1), "int8", Q)}, (first, second), ("b",))
    values = intervals(table)["a"]
    assert values.low[1] == values.high[1] == 3 + bias
    folded = fold_constant_channels(table)
    assert folded["a"].output.shape[-1] == stays
    check(table, folded)


def test_only_positions_that_padding_can_cover_widen():
    """With padding below and right only, the first row and column of the window never stand on it."""
    weights = np.zeros((3, 3, 2))
    weights[0, 0, 0] = weights[2, 2, 1] = 1
    layers = (
        conv("a", "x", [[[[0]]], [[[0]]]], [40, 40], shape=(4, 4, 2)),
        depthwise("b", "a", weights, [0, 0], shape=(2, 2, 2), stride=(2, 2), padding=(0, 1, 0, 1)),
    )
    table = Table("corner", {"x": TensorType((4, 4, 1), "int8", Q)}, layers, ("b",))
    assert intervals(table)["b"].constant.tolist() == [True, False]


def test_what_only_feeds_constants_goes():
    """A depthwise channel that the clamp holds makes its own input's channel needless."""
    layers = (
        conv("a", "x", [[[[1]]], [[[2]]]], [0, 0], shape=(4, 4, 2)),
        depthwise("b", "a", np.ones((1, 1, 2)), [0, 2**20], shape=(4, 4, 2), clamp=(0, 12)),
        conv("c", "b", [[[[1, 1]]]], [0], shape=(4, 4, 1)),
    )
    table = Table("chain", {"x": TensorType((4, 4, 1), "int8", Q)}, layers, ("c",))
    folded = fold_constant_channels(table)
    assert [layer.output.shape[-1] for layer in folded.layers] == [1, 1, 1]
    assert folded["c"].bias.tolist() == [12]
    check(table, folded)


def test_outputs_and_shared_channels_stay():
    """An output keeps its constant channels, and an ADD keeps for both operands what one of them needs."""
    add = Layer("sum", "add", ("a", "b"), TensorType((2, 2, 2), "int8", Quantization(1.0, 0)))
    layers = (
        conv("a", "x", [[[[1]]], [[[0]]]], [0, 4], shape=(2, 2, 2)),
        conv("b", "x", [[[[0]]], [[[1]]]], [6, 0], shape=(2, 2, 2)),
        add,
        conv("c", "sum", [[[[1, 1]]]], [0], shape=(2, 2, 1)),
    )
    table = Table("shared", {"x": TensorType((2, 2, 1), "int8", Q)}, layers, ("c", "a"))
    folded = fold_constant_channels(table)
    assert [layer.output.shape[-1] for layer in folded.layers] == [2, 2, 2, 1]
    check(table, folded)


def test_a_tensor_never_vanishes():
    layers = (
        conv("a", "x", [[[[0]]], [[[0]]]], [8, 4], shape=(2, 2, 2)),
        conv("b", "a", [[[[1, 1]]]], [1], shape=(2, 2, 1)),
    )
    table = Table("still", {"x": TensorType((2, 2, 1), "int8", Q)}, layers, ("b",))
    folded = fold_constant_channels(table)
    assert folded["a"].output.shape == (2, 2, 1)
    check(table, folded)


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed):
    """Random tables with dead channels: every output for random inputs, and intervals that hold."""
    rng = np.random.default_rng(seed)
    kinds = None if seed % 2 else CORE_KINDS
    table = lower(random_table(rng, **({"kinds": kinds} if kinds else {}), layers=7, max_size=8, max_channels=8))
    table = dead_channels(table, rng)
    ranges = intervals(table)
    for values in random_inputs(table, 3, seed):
        for name, tensor in golden.run(table, values).items():
            if name in ranges:
                flat = tensor.reshape(-1, tensor.shape[-1])
                assert (flat.min(axis=0) >= ranges[name].low).all() and (flat.max(axis=0) <= ranges[name].high).all(), (
                    name
                )
    check(table, fold_constant_channels(table), seed=seed)


def test_random_networks_lose_channels():
    """The random tables above do fold."""
    gone = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        table = dead_channels(lower(random_table(rng, layers=7, max_size=8, max_channels=8)), rng)
        gone += table.macs > fold_constant_channels(table).macs
    assert gone > 10


@pytest.mark.parametrize(
    "model, live",
    [
        ("vww_96_int8", 3_727_313),
        ("person_detect_fixed", 7_077_246),
        ("tinymaix_mbnet128_0.25_q", 12_461_824),
        ("mobilenetv2_160_035", 28_798_960),
        ("kws_ref_model", 2_656_768),
    ],
)
def test_published_models(models_dir, model, live):
    table = lower(load_tflite(models_dir / f"{model}.tflite"))
    folded = lower(load_tflite(models_dir / f"{model}.tflite"), folding=True)
    assert folded.macs == live <= folded.unfolded.macs == table.macs
    check(table, folded, inputs=2)
