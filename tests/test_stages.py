"""Stages: what runs together, and integers that give what the golden model gives."""

from dataclasses import replace

import numpy as np
import pytest
from random_tables import CORE_KINDS, mobilenet_chain, random_input, random_table

from gen import stages as under_test
from gen.builders import mobilenet_v1
from gen.errors import GenError
from gen.passes import lower
from gen.stages import Region, Scaling, results_of, sources_of, stages_of
from gen.table import Layer, Quantization, Table, TensorType
from sim import golden

HALF = Quantization(0.5, 3)

#: Kinds of random layers that run in the accelerator.
KINDS = (
    *CORE_KINDS, "depthwise_multiplier", "max_pool2d", "residual", "elementwise", "constant_operand", "global_max_pool",
)  # fmt: skip


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


def combined(name, first, second, shape, *, operator="add", **fields):
    """An add or sub of two tensors, whose scale leaves room for both ends."""
    return Layer(name, operator, (first, second), int8(*shape, quantization=Quantization(1.0, -5)), **fields)


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
    assert (second.source_shape, second.region, second.output_shape) == (
        (16, 16, 8), Region(0, 16, 0, 16), (16, 16, 16),
    )  # fmt: skip
    assert (list(second.region.rows), list(second.region.columns)) == (list(range(16)), list(range(16)))
    assert (second.window_weights.shape, second.weights.shape) == ((3, 3, 8), (16, 1, 1, 8))
    assert (last.kernel, last.region, last.output_shape) == ((1, 1), Region(0, 1, 0, 1), (1, 1, 4))
    assert (last.window_weights.shape, last.weights.shape) == ((1, 1, 256), (4, 1, 1, 256))
    assert {(stage.sum, stage.residual, stage.repeats, stage.maximum) for stage in stages} == {(None, None, 1, False)}
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
    product = Layer("product", "mul", ("x", "x"), int8(4, 4, 3))
    wide = convolution("wide", "product", (4, 2, 3), channels_in=3, stride=(1, 3), padding=(0, 0, 1, 1))
    fine = convolution("fine", "product", (4, 4, 3), channels_in=3)
    table = network((4, 4, 3), product, wide, fine, replace(product, name="again"), outputs=("wide", "fine", "again"))
    with pytest.raises(GenError) as caught:
        stages_of(table)
    assert str(caught.value).splitlines() == [
        "net: product: mul of two tensors has no engine",
        "net: wide: stride must be 1 or 2, not 3",
        "net: again: mul of two tensors has no engine",
    ]


def test_concatenations_are_only_the_hosts():
    a, b = (convolution(name, "x", (2, 2, 3), channels_in=3) for name in "ab")
    joined = Layer("j", "concatenation", ("a", "b"), int8(2, 2, 6), axis=2)
    table = network((2, 2, 3), a, b, joined)
    assert (names(table), results_of(table)) == (["a", "b"], {"a", "b"})
    with pytest.raises(GenError, match="^net: c: reads j, a concatenation of what the accelerator makes; the host wo"):
        stages_of(network((2, 2, 3), a, b, joined, convolution("c", "j", (2, 2, 1), channels_in=6)))
    # Of what the host brings it is the host's work, whoever reads it.
    joined = Layer("j", "concatenation", ("x", "y"), int8(2, 2, 6), axis=2)
    last = convolution("c", "j", (2, 2, 1), channels_in=6)
    both = {"x": int8(2, 2, 3), "y": int8(2, 2, 3)}
    assert sources_of(stages_of(network((), joined, last, inputs=both))) == ["j"]


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


def summed(*layers, **options):
    """(name, source, residual) of each stage of layers over a 4x4 map of 3 channels."""
    stages = stages_of(network((4, 4, 3), *layers, **options))
    return [(stage.name, stage.source, stage.residual) for stage in stages]


def test_a_sum_joins_the_layer_that_makes_an_operand():
    a, b = (convolution(name, source, (4, 4, 3), channels_in=3) for name, source in ("ax", "ba"))
    shape = 4, 4, 3
    for operands in ("ab", "ba"):
        assert summed(a, b, combined("s", *operands, shape)) == [("a", "x", None), ("b + s", "a", "a")]
    # An operand that the host brings.
    assert summed(a, combined("s", "x", "a", shape)) == [("a + s", "x", "x")]
    # Behind a whole pair, or a front alone, which the array copies.
    front = depthwise("d", "a", shape, padding=(1, 1, 1, 1))
    point = convolution("p", "d", shape, channels_in=3)
    assert summed(a, front, point, combined("s", "p", "a", shape)) == [("a", "x", None), ("d + p + s", "a", "a")]
    assert summed(a, front, combined("s", "a", "d", shape)) == [("a", "x", None), ("d + s", "a", "a")]


def test_a_sum_joins_the_slower_of_two_and_waits_for_the_other():
    shape = 4, 4, 3
    fast = convolution("fast", "x", shape, channels_in=3)
    slow = convolution("slow", "x", shape, channels_in=3, kernel=(3, 3), padding=(1, 1, 1, 1))
    later = convolution("later", "fast", shape, channels_in=3)
    for layers in ((fast, slow), (slow, fast)):
        for operands in (("fast", "slow"), ("slow", "fast")):
            assert summed(*layers, combined("s", *operands, shape)) == [
                ("fast", "x", None), ("slow + s", "x", "fast")
            ]  # fmt: skip
    # It goes right behind the other operand, in front of what comes later.
    other = convolution("other", "x", shape, channels_in=3)
    assert summed(slow, fast, other, combined("s", "slow", "fast", shape), outputs=("s", "other")) == [
        ("fast", "x", None), ("slow + s", "x", "fast"), ("other", "x", None)
    ]  # fmt: skip
    assert summed(slow, fast, later, combined("s", "slow", "later", shape)) == [
        ("fast", "x", None), ("later", "fast", None), ("slow + s", "x", "later")
    ]  # fmt: skip
    assert summed(slow, later_of(fast, slow), combined("s", "slow", "late", shape)) == [
        ("slow", "x", None), ("late + s", "slow", "slow")
    ]  # fmt: skip


def later_of(layer, source):
    return replace(layer, name="late", inputs=(source.name,))


def test_a_sum_by_itself():
    """Where both operands are needed elsewhere, or are one tensor, the array copies the first."""
    shape = 4, 4, 3
    a = convolution("a", "x", shape, channels_in=3)
    assert summed(combined("s", "x", "x", shape)) == [("s", "x", "x")]
    assert summed(a, combined("s", "a", "a", shape)) == [("a", "x", None), ("s", "a", "a")]
    assert summed(a, combined("s", "a", "x", shape), outputs=("a", "s")) == [("a", "x", None), ("s", "a", "x")]
    other = convolution("o", "a", shape, channels_in=3)
    assert summed(a, combined("s", "x", "a", shape), other, outputs=("s", "o")) == [
        ("a", "x", None), ("s", "x", "a"), ("o", "a", None)
    ]  # fmt: skip
    both = network((), combined("s", "x", "y", shape), inputs={"x": int8(*shape), "y": int8(*shape)})
    (stage,) = stages_of(both)
    assert (stage.source, stage.residual, sources_of([stage])) == ("x", "y", ["x", "y"])
    assert np.array_equal(stage.weights, 2 * np.eye(3).reshape(3, 1, 1, 3))


def test_sums_of_sums():
    """A stage has one adder: the next sum joins the layer of its other operand, or runs by itself."""
    shape = 4, 4, 3
    a, b = (convolution(name, "x", shape, channels_in=3) for name in "ab")
    first, second = combined("s", "a", "x", shape), combined("t", "s", "b", shape)
    assert summed(a, first, b, second) == [("a + s", "x", "x"), ("b + t", "x", "s")]
    assert summed(a, first, combined("t", "s", "x", shape)) == [("a + s", "x", "x"), ("t", "s", "x")]


def test_differences_join_what_they_take_from():
    shape = 4, 4, 3
    a = convolution("a", "x", shape, channels_in=3)
    b = convolution("b", "x", shape, channels_in=3, kernel=(3, 3), padding=(1, 1, 1, 1))
    assert summed(a, b, combined("s", "a", "b", shape, operator="sub")) == [("b", "x", None), ("a + s", "x", "b")]
    assert summed(a, combined("s", "x", "a", shape, operator="sub")) == [("a", "x", None), ("s", "x", "a")]
    for table in (
        network(shape, a, combined("s", "a", "x", shape, operator="sub")),
        network(shape, a, combined("s", "x", "a", shape, operator="sub")),
    ):
        stages = stages_of(table)
        assert stages[-1].residual_scaling.subtract
        x = np.random.default_rng(3).integers(-128, 128, shape, np.int8)
        assert_right(stages, golden.run(table, {"x": x}))


def test_parameters_of_a_sum():
    """Zero points and multipliers in the order in which the adder takes them: the array's word, then the other."""
    a = convolution("a", "x", (4, 4, 3), channels_in=3)
    a = replace(a, output=int8(4, 4, 3, quantization=Quantization(0.25, 7)))
    for operands in (("a", "x"), ("x", "a")):
        layer = combined("s", *operands, (4, 4, 3), clamp=(-100, 90))
        (stage,) = stages_of(network((4, 4, 3), a, layer))
        scaling = stage.residual_scaling
        assert (scaling.zero_points, scaling.zero_point, scaling.clamp) == ((7, 3), -5, (-100, 90))
        # 0.25 and 0.5 by twice the greater; and that by 2**20.
        assert (scaling.multipliers, scaling.shifts) == ((2**30, 2**30, 2**30), (-1, 0, -19))
        assert not scaling.subtract
        assert (stage.scaling.zero_point, stage.scaling.clamp) == (7, (-128, 127))


def test_a_sum_of_reshaped_tensors():
    layer = convolution("c", "r", (2, 3, 2), channels_in=2)
    table = network((12,), reshape("r", "x", 2, 3, 2), layer, combined("s", "c", "r", (2, 3, 2)))
    (stage,) = stages_of(table)
    assert (stage.source, stage.residual) == ("r", "r")
    a, b = classifier("a", "x", 12, 6), classifier("b", "x", 12, 6)
    flat = [reshape(f"{name}r", name, 1, 1, 6) for name in "ab"]
    stages = stages_of(network((12,), a, b, *flat, combined("s", "ar", "br", (1, 1, 6))))
    assert [(stage.name, stage.source, stage.residual) for stage in stages] == [
        ("a", "x", None), ("b", "x", None), ("s", "a", "b")
    ]  # fmt: skip


def constant_layer(operator, constant, *, scales, zero_points, first=False, clamp=(-128, 127), channels=3):
    """A one-layer table over every int8 value in each channel."""
    source, quantization, output = (
        Quantization(float(np.float32(scale)), zero) for scale, zero in zip(scales, zero_points, strict=True)
    )
    shape = 16, 16, channels
    layer = Layer(
        "e", operator, ("x",), int8(*shape, quantization=output), constant=np.array(constant, np.int8),
        constant_quantization=quantization, constant_first=first, clamp=clamp,
    )  # fmt: skip
    return network((), layer, inputs={"x": int8(*shape, quantization=source)})


def assert_every_value(table):
    """The stage gives the golden model's output for every value of every channel; the stage."""
    (stage,) = stages_of(table)
    channels = stage.source_shape[2]
    x = np.stack([np.roll(np.arange(-128, 128), 7 * c) for c in range(channels)], axis=-1).astype(np.int8)
    assert_right([stage], golden.run(table, {"x": x.reshape(16, 16, channels)}))
    return stage


@pytest.mark.parametrize("operator", ["add", "sub", "mul"])
def test_constants(operator):
    """Scales near each other, as MobileNets have them: one value or one a channel, either order, any clamp."""
    rng = np.random.default_rng([11, len(operator), ord(operator[0])])
    slopes, repeats = set(), set()
    for number in range(40):
        near = 2.0 ** rng.uniform(-1, 1, 2)
        output = 0.1 * near[0] * near[1] * 3 if operator == "mul" else 0.1 * near[1]
        lo, hi = sorted(rng.integers(-128, 128, 2).tolist()) if number % 5 == 0 else (-128, 127)
        table = constant_layer(
            operator, rng.integers(-128, 128, () if number % 2 else (3,)), scales=(0.1, 0.1 * near[0], output),
            zero_points=rng.integers(-128, 128, 3).tolist(), first=operator == "sub" and bool(number % 4),
            clamp=(lo, hi),
        )  # fmt: skip
        stage = assert_every_value(table)
        assert (stage.front.name, stage.array, stage.residual, stage.kernel) == ("e", None, None, (1, 1))
        slopes |= set(np.sign(stage.window_weights.astype(int).sum(axis=0)).reshape(-1).tolist())
        repeats.add(stage.repeats)
    assert slopes >= {"add": {1}, "sub": {-1, 1}, "mul": {-1, 1}}[operator]
    assert len(repeats) > 1


def test_factors_that_need_more_than_a_weight(monkeypatch):
    """A factor of 255 is 127 + 127 + 1; each channel has as many of these as it needs."""
    monkeypatch.setattr(under_test, "_fit", lambda *_: None)  # what might do with less
    stage = assert_every_value(
        constant_layer("mul", [127, -128, -1, 0], scales=(0.1, 0.01, 0.3), zero_points=(9, -128, -4), channels=4)
    )
    assert stage.repeats == 4
    assert stage.window_weights.reshape(4, 4).T.tolist() == [[127, 127, 1, 0], [0] * 4, [127, 0, 0, 0], [127, 1, 0, 0]]
    stage = assert_every_value(constant_layer("mul", [-128], scales=(0.1, 0.01, 0.3), zero_points=(9, 127, -4)))
    assert stage.window_weights[..., 0].reshape(-1).tolist() == [-127, -127, -1, 0]


def test_scalings_of_nothing():
    """Adding nothing changes nothing; a factor of nothing leaves the zero point."""
    stage = assert_every_value(constant_layer("add", 5, scales=(0.5, 0.5, 0.5), zero_points=(3, 5, 3)))
    assert stage.repeats == 1
    stage = assert_every_value(constant_layer("mul", 5, scales=(0.5, 0.5, 0.5), zero_points=(3, 5, -7)))
    assert not stage.window_weights.any()
    x = np.zeros((16, 16, 3), np.int8)
    assert set(run_stage(stage, x).reshape(-1).tolist()) == {-7}


def test_constants_that_have_no_engine():
    whole = constant_layer("add", np.zeros((16, 16, 3)), scales=(0.5, 0.5, 0.5), zero_points=(0, 0, 0))
    with pytest.raises(GenError) as caught:
        stages_of(whole)
    assert str(caught.value) == "net: e: its constant must be one value, or one a channel, not of shape (16, 16, 3)"
    column = constant_layer("mul", np.zeros((16, 1, 1)), scales=(0.5, 0.5, 0.5), zero_points=(0, 0, 0))
    with pytest.raises(GenError, match="^net: e: its constant must be one value, or one a channel, not of shape"):
        stages_of(column)
    assert_every_value(constant_layer("add", [[[1, 2, 3]]], scales=(0.5, 0.5, 0.6123), zero_points=(0, 0, 0)))


def test_a_constant_whose_values_no_line_gives(monkeypatch):
    monkeypatch.setattr(under_test, "_REPEATS", (1,))
    # Ties to all sides: 5 / 6 (x + 1), rounded away from zero with whatever the scales' own rounding makes of it.
    layer = constant_layer("add", [1, 2, 3], scales=(0.5, 0.5, 0.6), zero_points=(0, 0, 0))
    with pytest.raises(GenError, match="^net: e: no weight and multiplier give its values exactly$"):
        stages_of(layer)


def test_a_depthwise_convolution_with_a_multiplier_is_one_of_the_array():
    """Channel c of the output reads channel c // 2 of the source alone."""
    weights = np.random.default_rng(4).integers(-9, 9, (3, 2, 6), dtype=np.int8)
    layer = replace(depthwise("d", "x", (2, 4, 6), kernel=(3, 2)), weights=weights)
    (stage,) = stages_of(network((4, 5, 3), layer))
    assert (stage.front, stage.array.name, stage.kernel, stage.weights.shape) == (None, "d", (3, 2), (6, 3, 2, 3))
    for made in range(6):
        for read in range(3):
            expected = weights[:, :, made] if read == made // 2 else np.zeros((3, 2))
            assert np.array_equal(stage.weights[made, :, :, read], expected)
    # So small a kernel fits behind a front.
    front = depthwise("f", "x", (4, 5, 3), padding=(1, 1, 1, 1))
    small = replace(depthwise("d", "f", (4, 5, 6), kernel=(1, 1)), weights=weights[:1, :1])
    assert names(network((4, 5, 3), front, small)) == ["f + d"]


def test_a_padded_average_pool_has_a_stage_for_each_divisor():
    """By hand: 4x5, 3x3 windows, a position of padding all round: rows see 2, 3, 3, 2, columns 2, 3, 3, 3, 2."""
    pool = Layer("p", "average_pool2d", ("x",), int8(4, 5, 3), kernel=(3, 3), padding=(1, 1, 1, 1))
    stages = stages_of(network((4, 5, 3), pool))
    rows, columns = ((0, 1, 2), (1, 3, 3), (3, 4, 2)), ((0, 1, 2), (1, 4, 3), (4, 5, 2))
    expected = [(Region(top, bottom, left, right), down * across)
                for top, bottom, down in rows for left, right, across in columns]  # fmt: skip
    assert [stage.region for stage in stages] == [region for region, _ in expected]
    assert {(stage.name, stage.output, stage.source, stage.pad) for stage in stages} == {("p", "p", "x", 0)}
    for stage, (_, count) in zip(stages, expected, strict=True):
        # The multiplier is about one in so many.
        weight = int(stage.window_weights[0, 0, 0])
        real = stage.window_scaling.multiplier[0] * 2.0 ** int(stage.window_scaling.shift[0] - 31) * weight
        assert real == pytest.approx(1 / count)
    # Stride 2, padding behind alone: 5 rows by 2 see 3, 3, 1, so two regions of rows.
    pool = replace(pool, stride=(2, 2), padding=(0, 2, 0, 2), output=int8(3, 3, 3))
    table = network((5, 5, 3), pool)
    corner = Region(0, 2, 0, 2), Region(0, 2, 2, 3), Region(2, 3, 0, 2), Region(2, 3, 2, 3)
    assert tuple(stage.region for stage in stages_of(table)) == corner
    x = np.random.default_rng(5).integers(-128, 128, (5, 5, 3), np.int8)
    assert_right(stages_of(table), golden.run(table, {"x": x}))
    # And whatever shares the stage is there in each.
    point = convolution("c", "p", (3, 3, 2), channels_in=3)
    both = network((5, 5, 3), pool, point)
    assert [stage.name for stage in stages_of(both)] == ["p + c"] * 4
    assert_right(stages_of(both), golden.run(both, {"x": x}))


def test_a_max_pool_runs_on_the_front():
    """Outside reads as the least there is; what the array gets is the value itself."""
    pool = Layer("p", "max_pool2d", ("x",), int8(2, 3, 3), kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 1))
    table = network((4, 5, 3), pool, convolution("c", "p", (2, 3, 2), channels_in=3))
    (stage,) = stages_of(table)
    assert (stage.name, stage.maximum, stage.pad, stage.kernel) == ("p + c", True, -128, (2, 2))
    assert stage.window_weights.shape == (2, 2, 3) and stage.window_weights.all()
    x = np.random.default_rng(6).integers(-128, 128, (4, 5, 3), np.int8)
    values = golden.run(table, {"x": x})
    assert np.array_equal(front_of(stage, x), values["p"])
    assert_right([stage], values)


def test_nothing_to_do():
    table = network((2,), Layer("q", "quantize", ("x",), int8(2)))
    with pytest.raises(GenError, match="^net: the accelerator has nothing to do: no layer runs on it$"):
        stages_of(table)


def windows(x, stage, kernel):
    """(rows, columns, kernel height, kernel width, C) of a padded source, every place of a region's windows."""
    top, bottom, left, right = stage.padding
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=stage.pad).astype(np.int64)
    shown = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    region = stage.region
    return shown[:: stage.stride[0], :: stage.stride[1]][region.top : region.bottom, region.left : region.right]


def front_of(stage, x):
    """What the depthwise engine makes of ``x`` in the stage's region: (rows, columns, C)."""
    shown = windows(x, stage, stage.kernel)
    if stage.maximum:
        # As the lanes do it: only what has a weight counts.
        sums = 2 * np.where(stage.window_weights != 0, shown, -128).max(axis=(2, 3))
    else:
        weights = stage.window_weights.astype(np.int64)
        if stage.repeats > 1:
            # The same window several times.
            assert (stage.kernel, weights.shape[:3]) == ((1, 1), (stage.repeats, 1, 1))
            weights = weights.sum(axis=0)
        sums = np.einsum("yxijc,ijc->yxc", shown, weights.reshape(*stage.kernel, -1))
    assert (np.abs(sums) <= np.maximum(stage.window_scaling.reach, 256 * stage.maximum)).all()
    return stage.window_scaling.results(sums + stage.window_scaling.bias)


def run_stage(stage, x, residual=None):
    """What the engines make of ``x`` (and ``residual``) in the stage's region: plain sums and scalings of raw bytes."""
    x = x.reshape(stage.source_shape)
    patches = windows(x, stage, stage.kernel)
    if stage.front is not None:
        patches = front_of(stage, x)[:, :, None, None]
    sums = np.einsum("yxijc,oijc->yxo", patches, stage.weights.astype(np.int64))
    assert (np.abs(sums) <= stage.scaling.reach).all()
    made = stage.scaling.results(sums + stage.scaling.bias)
    assert (stage.residual_scaling is None) == (stage.residual is None) == (residual is None) == (stage.sum is None)
    if residual is None:
        return made
    scaling, region = stage.residual_scaling, stage.region
    other = residual.reshape(stage.output_shape)[region.top : region.bottom, region.left : region.right]
    scaled = [
        golden.multiply_by_quantized_multiplier((value.astype(np.int64) - zero) << 20, multiplier, shift)
        for value, zero, multiplier, shift in zip(
            (made, other), scaling.zero_points, scaling.multipliers[:2], scaling.shifts[:2], strict=True
        )
    ]
    return scaling.results(scaled[0] - scaled[1] if scaling.subtract else scaled[0] + scaled[1])


def assert_right(stages, values):
    """Every tensor that the stages make, regions side by side, is the golden model's."""
    made = {}
    for stage in stages:
        region = stage.region
        whole = made.setdefault(stage.output, np.full(stage.output_shape, 999))
        part = whole[region.top : region.bottom, region.left : region.right]
        assert (part == 999).all(), "regions overlap"
        part[:] = run_stage(stage, values[stage.source], *([values[stage.residual]] if stage.residual else []))
    for name, tensor in made.items():
        assert np.array_equal(tensor.reshape(-1), values[name].reshape(-1)), name


#: What the engines may refuse of a random network.
REFUSED = (
    "its constant must be one value, or one a channel",
    "no weight and multiplier give its values exactly",
    "mul of two tensors has no engine",
    "the accelerator has nothing to do",
    "reads concatenation",
)


def test_stages_compute_the_network():
    """Random networks, extreme numbers: every stage's output is the golden model's, constant channels and all."""
    ran, kinds = 0, {}
    for seed in range(160):
        rng = np.random.default_rng(seed)
        chain = mobilenet_chain(rng, 2) if seed % 8 == 0 else None
        paddings = ("valid", "pad") if seed % 4 else ("same", "valid")
        table = lower(random_table(rng, chain=chain, kinds=KINDS, paddings=paddings, max_size=9, max_channels=12))
        try:
            stages = stages_of(table)
        except GenError as error:
            assert all(any(why in line for why in REFUSED) for line in str(error).splitlines()), (seed, error)
            continue
        ran += 1
        for _ in range(2):
            assert_right(stages, golden.run(table, random_input(rng, table)))
        for stage in stages:
            for scaling in (stage.scaling, stage.window_scaling):
                if scaling is not None:
                    assert scaling.window_bits.max() <= 32
            if stage.residual_scaling is not None:
                assert stage.residual_scaling.window_bits <= 30
            for name, is_one in {
                "sum": stage.sum is not None,
                "maximum": stage.maximum,
                "constant": stage.front is not None and stage.front.constant is not None,
                "region": stage.region.top > 0,
                "fused sum": stage.sum is not None and len(stage.layers) > 1,
                "multiplier": stage.array is not None and stage.array.operator == "depthwise_conv2d",
            }.items():
                kinds[name] = kinds.get(name, 0) + is_one
    assert ran > 100
    assert min(kinds.values()) >= 5, kinds


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
        (bits,) = scaling.window_bits
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
