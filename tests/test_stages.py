"""Stages: what runs together, and integers that give what the golden model gives."""

from dataclasses import replace

import numpy as np
import pytest
from random_tables import CORE_KINDS, mobilenet_chain, random_input, random_table

from gen import stages as under_test
from gen.builders import mobilenet_v1
from gen.errors import GenError
from gen.passes import lower
from gen.stages import Scaling, results_of, sources_of, stages_of, window_bits
from gen.table import Layer, Quantization, Table, TensorType
from sim import golden

HALF = Quantization(0.5, 3)


def int8(*shape, quantization=HALF):
    return TensorType(shape, "int8", quantization)


def convolution(name, source, shape, *, channels_in, kernel=(1, 1), **fields):
    """A conv2d with weights and biases of no importance."""
    weights = np.random.default_rng(0).integers(-9, 9, (shape[2], *kernel, channels_in), dtype=np.int8)
    return Layer(
        name,
        "conv2d",
        (source,),
        int8(*shape),
        kernel=kernel,
        weights=weights,
        bias=np.arange(shape[2], dtype=np.int32),
        weight_scales=np.full(shape[2], 2.0**-6, np.float32),
        **fields,
    )


def depthwise(name, source, shape, *, kernel=(3, 3), **fields):
    weights = np.random.default_rng(1).integers(-9, 9, (*kernel, shape[2]), dtype=np.int8)
    scales = np.full(shape[2], 2.0**-5, np.float32)
    bias = np.zeros(shape[2], np.int32)
    return Layer(
        name, "depthwise_conv2d", (source,), int8(*shape), kernel=kernel, weights=weights, bias=bias,
        weight_scales=scales, **fields,
    )  # fmt: skip


def classifier(name, source, channels_in, channels_out):
    weights = np.random.default_rng(2).integers(-9, 9, (channels_out, channels_in), dtype=np.int8)
    scales = np.full(channels_out, 2.0**-6, np.float32)
    bias = np.zeros(channels_out, np.int32)
    return Layer(
        name, "fully_connected", (source,), int8(channels_out), weights=weights, bias=bias, weight_scales=scales
    )


def network(shape, *layers, outputs=None, inputs=None):
    inputs = inputs or {"x": int8(*shape)}
    return Table("net", inputs, layers, outputs or (layers[-1].name,))


def names(table):
    return [stage.name for stage in stages_of(table)]


def test_mobilenet_runs_in_pairs():
    stages = stages_of(lower(mobilenet_v1(0.25, 32, classes=4)))
    expected = ["conv1", *(f"conv_dw_{n} + conv_pw_{n}" for n in range(1, 14)), "pool + classifier"]
    assert [stage.name for stage in stages] == expected
    first, second, last = stages[0], stages[1], stages[-1]
    assert (first.source, first.output, first.kernel, first.stride) == ("image", "conv1", (3, 3), (2, 2))
    assert (first.source_shape, first.output_shape) == ((32, 32, 3), (16, 16, 8))
    assert (first.window_weights, first.weights.shape, first.pad) == (None, (8, 3, 3, 3), -1)
    assert (second.source_shape, second.patch_shape, second.output_shape) == ((16, 16, 8), (16, 16, 8), (16, 16, 16))
    assert (second.window_weights.shape, second.weights.shape) == ((3, 3, 8), (16, 1, 1, 8))
    assert (last.kernel, last.patch_shape, last.output_shape) == ((1, 1), (1, 1, 256), (1, 1, 4))
    assert [layer.name for layer in second.layers] == ["conv_dw_1", "conv_pw_1"]


def fused(middle, last, **options):
    """Stages of x -> ``middle`` -> ``last``, of 4x4 and 3 channels."""
    return names(network((4, 4, 3), middle, last, **options))


def test_what_shares_a_stage():
    same = {"padding": (1, 1, 1, 1)}
    front = depthwise("front", "x", (4, 4, 3), **same)
    pointwise = convolution("point", "front", (4, 4, 5), channels_in=3)
    assert fused(front, pointwise) == ["front + point"]
    strided = convolution("point", "front", (2, 2, 5), channels_in=3, stride=(2, 2))
    assert fused(front, strided) == ["front", "point"]
    wide = convolution("point", "front", (4, 4, 5), channels_in=3, kernel=(3, 3), **same)
    assert fused(front, wide) == ["front", "point"]
    padded = convolution("point", "front", (5, 4, 5), channels_in=3, padding=(1, 0, 0, 0))
    assert fused(front, padded) == ["front", "point"]
    # A tensor that someone else needs must reach the feature memory.
    assert fused(front, pointwise, outputs=("front", "point")) == ["front", "point"]
    assert fused(front, depthwise("back", "front", (4, 4, 3), **same)) == ["front", "back"]
    assert names(
        network((4, 4, 3), front, pointwise, replace(pointwise, name="other"), outputs=("point", "other"))
    ) == [
        "front",
        "point",
        "other",
    ]
    # Nor can a layer join a front that it does not read.
    other = convolution("point", "x", (4, 4, 5), channels_in=3)
    assert fused(front, other, outputs=("front", "point")) == ["front", "point"]


def test_fully_connected_over_a_feature_map_is_a_window_over_all_of_it():
    (stage,) = stages_of(network((2, 3, 4), classifier("fc", "x", 24, 5)))
    assert (stage.kernel, stage.source_shape, stage.output_shape) == ((2, 3), (2, 3, 4), (1, 1, 5))
    assert np.array_equal(stage.weights.reshape(5, 24), stage.array.weights)
    mean = Layer("mean", "mean", ("x",), int8(4))
    assert names(network((2, 3, 4), mean, classifier("fc", "mean", 4, 5))) == ["mean + fc"]
    front = depthwise("front", "x", (2, 3, 4), padding=(1, 1, 1, 1))
    assert names(network((2, 3, 4), front, classifier("fc", "front", 24, 5))) == ["front", "fc"]


def test_a_front_alone_is_copied_by_the_array():
    (stage,) = stages_of(network((4, 4, 3), depthwise("front", "x", (2, 2, 3))))
    assert (stage.front.name, stage.array, stage.output) == ("front", None, "front")
    values = np.arange(-128, 128)
    assert np.array_equal(stage.weights, 2 * np.eye(3).reshape(3, 1, 1, 3))
    for channel in range(3):
        scaling = replace(
            stage.scaling, multiplier=stage.scaling.multiplier[channel], shift=stage.scaling.shift[channel]
        )
        assert np.array_equal(scaling.results(2 * values + stage.scaling.bias[channel]), values)


def test_strides_of_a_window_in_one_place_do_not_matter():
    (stage,) = stages_of(
        network((3, 4, 2), convolution("c", "x", (1, 2, 3), channels_in=2, kernel=(3, 3), stride=(7, 1)))
    )
    assert stage.stride == (1, 1)


def reshape(name, source, *shape, quantization=HALF):
    return Layer(name, "reshape", (source,), int8(*shape, quantization=quantization))


def test_reshapes():
    # Of what the host brings: the host's work.
    table = network((12,), reshape("r", "x", 2, 3, 2), convolution("c", "r", (2, 3, 4), channels_in=2))
    (stage,) = stages_of(table)
    assert (stage.source, stage.source_shape) == ("r", (2, 3, 2))
    # In front of a fully connected layer, or between shapes of one pixel: nobody's.
    first = convolution("c", "x", (2, 3, 2), channels_in=2)
    stages = stages_of(network((2, 3, 2), first, reshape("r", "c", 12), classifier("fc", "r", 12, 3)))
    assert [stage.source for stage in stages] == ["x", "c"]
    mean = Layer("m", "mean", ("x",), int8(2))
    pixel = network((2, 3, 2), mean, reshape("r", "m", 1, 1, 2), convolution("c", "r", (1, 1, 4), channels_in=2))
    assert names(pixel) == ["m + c"]
    # Any other would move data.
    moved = network((2, 3, 2), first, reshape("r", "c", 3, 2, 2), convolution("d", "r", (3, 2, 1), channels_in=2))
    with pytest.raises(
        GenError, match="^net: d: reads c reshaped from 2x3x2 to 3x2x2, which has no engine: it would mo"
    ):
        stages_of(moved)
    fronts = network((2, 3, 2), depthwise("c", "x", (2, 3, 2), padding=(1, 1, 1, 1)), *moved.layers[1:])
    with pytest.raises(GenError, match="^net: d: reads c reshaped"):
        stages_of(fronts)


def test_the_padding_of_a_reshaped_tensor_is_its_own_zero_point():
    other = replace(HALF, zero_point=-7)
    layer = convolution("c", "r", (2, 2, 3), channels_in=2, kernel=(3, 3), padding=(1, 1, 1, 1))
    (stage,) = stages_of(network((1, 2, 2, 2), reshape("r", "x", 2, 2, 2, quantization=other), layer))
    assert stage.pad == -7


def test_host_operators_only_at_the_edges():
    first = convolution("a", "x", (2, 2, 3), channels_in=3)
    middle = Layer("q", "quantize", ("a",), int8(2, 2, 3, quantization=Quantization(0.25, 0)))
    last = convolution("b", "q", (2, 2, 3), channels_in=3)
    with pytest.raises(
        GenError, match="^net: b: reads q, a quantize of what the accelerator makes; the host works only"
    ):
        stages_of(network((2, 2, 3), first, middle, last))
    edge = Layer("q", "quantize", ("b",), middle.output)
    table = network((2, 2, 3), first, replace(last, inputs=("a",)), edge, Layer("r", "reshape", ("q",), int8(12)))
    assert (names(table), results_of(table), sources_of(stages_of(table))) == (["a", "b"], {"b"}, ["x"])


def test_several_inputs_and_results():
    a, b = convolution("a", "x", (2, 2, 3), channels_in=3), convolution("b", "y", (2, 2, 3), channels_in=3)
    q = Layer("q", "quantize", ("x",), int8(2, 2, 3))
    table = network((), a, b, q, outputs=("a", "b", "q"), inputs={"x": int8(2, 2, 3), "y": int8(2, 2, 3)})
    assert (sources_of(stages_of(table)), results_of(table)) == (["x", "y"], {"a", "b"})


def test_all_problems_at_once():
    pool = Layer("pool", "average_pool2d", ("x",), int8(4, 4, 3), kernel=(3, 3), padding=(1, 1, 1, 1))
    wide = convolution("wide", "pool", (4, 2, 3), channels_in=3, stride=(1, 3), padding=(0, 0, 1, 1))
    table = network((4, 4, 3), pool, wide, replace(pool, name="again"), outputs=("wide", "again"))
    with pytest.raises(GenError) as caught:
        stages_of(table)
    padded = "an average pool with padding has no engine yet; only whole windows are averaged"
    assert str(caught.value).splitlines() == [
        f"net: pool: {padded}",
        "net: wide: stride must be 1 or 2, not 3",
        f"net: again: {padded}",
    ]


@pytest.mark.parametrize(
    "shape, layer, message",
    [
        (
            (1022, 2, 1),
            convolution("c", "x", (1024, 2, 1), channels_in=1, padding=(1, 1, 0, 0)),
            "input with its padding must be at most 1023x1023, not 1024x2",
        ),
        ((49, 2, 1), Layer("m", "mean", ("x",), int8(1)), "window must be at most 48x48, not 49x2"),
        ((2, 49, 1), classifier("fc", "x", 98, 1), "window must be at most 48x48, not 2x49"),
    ],
)
def test_sizes(shape, layer, message):
    with pytest.raises(GenError, match=f"^net: {layer.name}: {message}$"):
        stages_of(network(shape, layer))


def test_nothing_to_do():
    table = network((2,), Layer("q", "quantize", ("x",), int8(2)))
    with pytest.raises(GenError, match="^net: the accelerator has nothing to do: no layer runs on it$"):
        stages_of(table)


def windows(x, stage, kernel):
    """(rows, columns, kernel height, kernel width, C) of a padded source, every place where a window stands."""
    top, bottom, left, right = stage.padding
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=stage.pad).astype(np.int64)
    shown = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    rows, columns = stage.patch_shape[:2]
    return shown[:: stage.stride[0], :: stage.stride[1]][:rows, :columns]


def run_stage(stage, x):
    """What the engines make of ``x``: plain sums and scalings of raw bytes."""
    x = x.reshape(stage.source_shape)
    patches = windows(x, stage, stage.kernel)
    if stage.front is not None:
        sums = np.einsum("yxijc,ijc->yxc", patches, stage.window_weights.astype(np.int64))
        assert (np.abs(sums) <= stage.window_scaling.reach).all()
        patches = stage.window_scaling.results(sums + stage.window_scaling.bias)[:, :, None, None]
    sums = np.einsum("yxijc,oijc->yxo", patches, stage.weights.astype(np.int64))
    assert (np.abs(sums) <= stage.scaling.reach).all()
    return stage.scaling.results(sums + stage.scaling.bias).reshape(stage.output_shape)


@pytest.mark.parametrize("seed", range(60))
def test_stages_compute_the_network(seed):
    """Random networks, extreme numbers: every stage's output is the golden model's, constant channels and all."""
    rng = np.random.default_rng(seed)
    chain = mobilenet_chain(rng, 2) if seed % 4 == 0 else None
    paddings = ("valid", "pad") if seed % 4 else ("same", "valid")
    table = lower(random_table(rng, chain=chain, kinds=CORE_KINDS, paddings=paddings, max_size=9, max_channels=12))
    try:
        stages = stages_of(table)
    except GenError as error:
        # Only a SAME average pool that fits nowhere else.
        assert "an average pool with padding" in str(error)
        assert any(layer.operator == "average_pool2d" and any(layer.padding) for layer in table.layers)
        return
    for _ in range(3):
        values = golden.run(table, random_input(rng, table))
        for stage in stages:
            made = run_stage(stage, values[stage.source])
            assert np.array_equal(made.reshape(-1), values[stage.output].reshape(-1)), stage.name
    for stage in stages:
        for scaling in (stage.scaling, stage.window_scaling):
            if scaling is not None:
                window_bits(scaling)


def test_constant_channels_are_settled():
    layer = convolution("c", "x", (2, 2, 4), channels_in=3)
    layer = replace(
        layer,
        bias=np.array([2**30, -(2**30), 0, 7], np.int32),
        clamp=(-100, 90),
        weights=layer.weights * np.array([1, 1, 1, 0], np.int8).reshape(4, 1, 1, 1),
    )
    table = network((2, 2, 3), layer)
    (stage,) = stages_of(table)
    assert not stage.weights[[0, 1, 3]].any()
    assert stage.weights[2].any()
    assert stage.scaling.reach[[0, 1, 3]].tolist() == [0, 0, 0]
    assert np.abs(stage.scaling.bias).max() < 2**10
    x = np.random.default_rng(0).integers(-128, 128, (2, 2, 3), np.int8)
    expected = golden.run(table, {"x": x})["c"]
    assert expected[0, 0, [0, 1]].tolist() == [90, -100]
    assert np.array_equal(run_stage(stage, x), expected)


def test_pools_divide_exactly():
    """Every sum of every window up to 10 x 10, and of some larger ones."""
    counts = sorted({a * b for a in range(1, 11) for b in range(1, 11)} | {128, 169, 196, 1024, 2304})
    for count in counts:
        multiplier, shift, weight = under_test._pool_multiplier(count)
        assert 1 <= weight <= 127
        assert 128 * count * weight < 2**31
        total = np.arange(-128 * count, 127 * count + 1)
        # TFLite moves the sum half the count away from zero, then divides, which truncates.
        expected = np.sign(total) * ((np.abs(total) + count // 2) // count)
        assert np.array_equal(golden.multiply_by_quantized_multiplier(weight * total, multiplier, shift), expected)


def scalings(rng, count):
    """Random scalings of one channel, small enough to try every sum of."""
    for _ in range(count):
        lo, hi = sorted(rng.integers(-128, 128, 2).tolist())
        reach = int(rng.choice([0, 1, 100, 5000, 40000]))
        one = {
            "bias": int(rng.integers(-(2 ** rng.integers(1, 20)), 2 ** rng.integers(1, 20))),
            "multiplier": int(rng.integers(2**30, 2**31)),
            "shift": int(rng.integers(-31, 3)),
            "reach": reach,
        }
        arrays = {name: np.array([value], np.int64) for name, value in one.items()}
        yield Scaling(zero_point=int(rng.integers(-128, 128)), clamp=(lo, hi), **arrays)


def test_window_bits_lose_nothing():
    """Brute force over every sum: saturating to the window changes no result, and two bits less would."""
    smallest = 0
    for scaling in scalings(np.random.default_rng(4), 300):
        bits = window_bits(scaling)
        total = scaling.bias + np.arange(-scaling.reach[0], scaling.reach[0] + 1)
        expected = scaling.results(total)
        saturated = np.clip(total, -(1 << bits - 1), (1 << bits - 1) - 1)
        assert bits % 2 == 0
        assert np.array_equal(scaling.results(saturated), expected)
        if bits > 4:
            narrow = np.clip(total, -(1 << bits - 3), (1 << bits - 3) - 1)
            smallest += not np.array_equal(scaling.results(narrow), expected)
        else:
            smallest += 1
    assert smallest == 300
