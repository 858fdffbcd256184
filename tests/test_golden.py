"""The golden model against LiteRT's reference kernels, and its arithmetic against their own steps in big integers.

Tensor by tensor, on random networks that reach the corners and on published ones. Where LiteRT is not installed the
comparisons are skipped; the arithmetic's own tests are not.
"""

from fractions import Fraction
from functools import cache
from math import floor

import numpy as np
import pytest
import tflite
from random_tables import CORE_KINDS, mobilenet_chain, random_input, random_table
from tflite_writer import activation_clamp, same_padding, write_tflite

from gen.table import ELEMENTWISE, OPERATORS, WEIGHTED, WINDOWED, Layer, Quantization, Table, TableError, TensorType
from sim import golden

CORPUS = range(160)
PUBLISHED = (
    "ad01_int8",
    "kws_ref_model",
    "micro_speech_quantized",
    "mobilenetv2_160_035",
    "person_detect_fixed",
    "pretrainedResnet_quant",
    "tf2_mobilenet_v2_1.0_224_ptq",
    "tinymaix_mbnet128_0.25_q",
    "tinymaix_mnist_resnet_q",
    "vww_96_int8",
)


@pytest.fixture(scope="session")
def run_reference():
    """LiteRT's reference kernels: model and inputs to every tensor by name."""
    pytest.importorskip("ai_edge_litert")
    from oracle import run_reference

    return run_reference


@cache
def corpus_case(seed):
    """A random table, an input for it and the golden model's tensors."""
    rng = np.random.default_rng(seed)
    table = random_table(rng, outputs=1 + seed % 3)
    inputs = random_input(rng, table)
    return table, inputs, golden.run(table, inputs)


def corpus_layers(*operators):
    """Every (table, layer, tensors) of the corpus with one of ``operators``."""
    for seed in CORPUS:
        table, _, tensors = corpus_case(seed)
        for layer in table.layers:
            if layer.operator in operators:
                yield table, layer, tensors


def assert_agrees(run_reference, table, inputs):
    """Every tensor that golden makes of ``inputs`` equals LiteRT's, element by element."""
    tensors = golden.run(table, inputs)
    reference = run_reference(write_tflite(table), inputs)
    assert tensors.keys() == {*table.inputs, *(layer.name for layer in table.layers)}
    for name, tensor in tensors.items():
        assert_same(name, tensor, reference[name])


def assert_same(name, tensor, expected):
    assert tensor.dtype == expected.dtype, name
    assert (1, *tensor.shape) == expected.shape, name
    wrong = np.argwhere(tensor != expected[0])
    if len(wrong):
        at = tuple(wrong[0])
        pytest.fail(f"{name}: {len(wrong)} of {tensor.size} differ, first {at}: {tensor[at]}, not {expected[0][at]}")


def one_layer(operator, source, output, **fields):
    """A table of a single layer that reads a tensor of type ``source``."""
    return Table("one", {"input": source}, (Layer("layer", operator, ("input",), output, **fields),), ("layer",))


def int8(shape, scale, zero_point=0):
    return TensorType(tuple(shape), "int8", Quantization(float(np.float32(scale)), zero_point))


# Multiplier and shift


def two_step_reference(x, m, shift):
    """MultiplyByQuantizedMultiplier step by step on Python's integers, as common.h and gemmlowp write it."""
    left, right = max(shift, 0), max(-shift, 0)
    a = x << left
    assert -(2**31) <= a < 2**31, "outside the contract"
    product = a * m
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = nudged // 2**31 if nudged >= 0 else -(-nudged // 2**31)  # C++ division truncates
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (high < 0)
    return (high >> right) + ((high & mask) > threshold)


def test_multiply_is_the_two_steps():
    rng = np.random.default_rng(1)
    shift = rng.integers(-31, 3, 20_000)
    m = rng.integers(2**30, 2**31, shift.size)
    bits = rng.integers(0, 32, shift.size)
    x = rng.integers(-(2**31), 2**31, shift.size) >> bits >> np.maximum(shift, 0)
    expected = [two_step_reference(*case) for case in zip(x.tolist(), m.tolist(), shift.tolist(), strict=True)]
    np.testing.assert_array_equal(golden.multiply_by_quantized_multiplier(x, m, shift), expected)


@pytest.mark.parametrize("shift", range(-31, 3))
def test_multiply_at_corners(shift):
    limit = 2 ** (31 - max(shift, 0))
    magnitudes = {0, 1, 2, 3, 5, limit - 1, *(2**bit + d for bit in range(31) for d in (-1, 0, 1))}
    values = sorted({sign * x for x in magnitudes if x < limit for sign in (1, -1)} | {-limit})
    for m in (0, 2**30, 2**30 + 1, 3 * 2**29, 2**31 - 1):
        expected = [two_step_reference(x, m, shift) for x in values]
        np.testing.assert_array_equal(golden.multiply_by_quantized_multiplier(values, m, shift), expected)


def test_multiply_by_hand():
    """A quarter of 5: 2.5 rounds up to 3, and half of that to 2; rounded once it would be 1."""
    cases = {5: 2, -5: -1, 1: 1, -1: 0, -3: -1, 6: 2, -6: -2}
    assert golden.multiply_by_quantized_multiplier(list(cases), 2**30, -1).tolist() == list(cases.values())


def test_multiply_broadcasts_channels():
    x, m, shift = np.arange(-300, 300).reshape(10, 20, 3), np.array([2**30, 2**31 - 1, 3 * 2**29]), np.array([-3, 0, 2])
    whole = golden.multiply_by_quantized_multiplier(x, m, shift)
    for c in range(3):
        one = golden.multiply_by_quantized_multiplier(x[..., c], int(m[c]), int(shift[c]))
        np.testing.assert_array_equal(whole[..., c], one)
    assert whole.dtype == np.int64


def multiplier_reference(real):
    """QuantizeMultiplier in exact fractions."""
    if real == 0:
        return 0, 0
    value, shift = Fraction(real), 0
    while value >= 1:
        value, shift = value / 2, shift + 1
    while value < Fraction(1, 2):
        value, shift = value * 2, shift - 1
    m = floor(value * 2**31 + Fraction(1, 2))
    if m == 2**31:
        m, shift = 2**30, shift + 1
    return (0, 0) if shift < -31 else (m, shift)


def test_quantize_multiplier():
    rng = np.random.default_rng(2)
    corners = [0.0, 0.5, 1.0, 1 - 2.0**-32, 1 - 2.0**-33, np.nextafter(1.0, 0), 2.0**-32, np.nextafter(2.0**-32, 0)]
    corners += [2.0**-33, 0.75 + 2.0**-32, 0.75 + 2.0**-33, np.nextafter(0.75 + 2.0**-32, 0), 2.0**20, 3.999]
    reals = np.array([*corners, *2.0 ** rng.uniform(-34, 10, 2000)])
    expected = [multiplier_reference(real) for real in reals.tolist()]
    assert [golden.quantize_multiplier(real) for real in reals.tolist()] == expected
    m, shift = golden.quantize_multiplier(reals)
    assert list(zip(m.tolist(), shift.tolist(), strict=True)) == expected


def test_quantize_multiplier_carries_and_vanishes():
    assert golden.quantize_multiplier(1 - 2.0**-33) == (2**30, 1)
    assert golden.quantize_multiplier(2.0**-32) == (2**30, -31)
    assert golden.quantize_multiplier(np.nextafter(2.0**-32, 0)) == (2**30, -31)
    assert golden.quantize_multiplier(2.0**-32 * (1 - 2.0**-31)) == (0, 0)


# Random networks


@pytest.mark.parametrize("seed", CORPUS)
def test_random_network(run_reference, seed):
    table, inputs, _ = corpus_case(seed)
    assert_agrees(run_reference, table, inputs)


@pytest.mark.parametrize("seed", range(12))
def test_random_mobilenet(run_reference, seed):
    """Chains like MobileNetV1, whose every layer runs in the accelerator."""
    rng = np.random.default_rng([1, seed])
    table = random_table(rng, chain=mobilenet_chain(rng, blocks=4), kernels=((3, 3),), max_size=24)
    assert not any(layer.on_host for layer in table.layers)
    assert_agrees(run_reference, table, random_input(rng, table))


@pytest.mark.parametrize("seed", range(12))
def test_random_uneven_strides(run_reference, seed):
    rng = np.random.default_rng([2, seed])
    kinds = ("conv2d", "depthwise_conv2d", "average_pool2d")
    table = random_table(rng, kinds=kinds, strides=((1, 2), (2, 1), (3, 2)), max_size=20, layers=2)
    assert_agrees(run_reference, table, random_input(rng, table))


@pytest.mark.parametrize("seed", range(24))
def test_random_large_kernels(run_reference, seed):
    """Kernels beyond what one window or two hold, and far from square."""
    rng = np.random.default_rng([4, seed])
    kinds = ("conv2d", "depthwise_conv2d", "depthwise_multiplier", "average_pool2d", "max_pool2d")
    kernels = ((7, 7), (10, 10), (10, 4), (1, 12), (11, 2), (16, 16))
    table = random_table(rng, kinds=kinds, kernels=kernels, strides=((1, 1), (2, 2), (2, 1)), max_size=24, layers=2)
    assert_agrees(run_reference, table, random_input(rng, table))


@pytest.mark.parametrize("seed", range(24))
def test_random_residual_network(run_reference, seed):
    """Chains like MobileNetV2's, with tensors that several layers read, and several outputs."""
    rng = np.random.default_rng([5, seed])
    block = ("pointwise", "depthwise_conv2d", "residual")
    table = random_table(rng, chain=("conv2d", *block * 3, "elementwise", "mean"), max_size=16, outputs=3)
    assert max(len(table.consumers(layer.name)) for layer in table.layers) > 1
    assert len(table.outputs) == 3
    assert_agrees(run_reference, table, random_input(rng, table))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(600))
def test_many_random_networks(run_reference, seed):
    rng = np.random.default_rng([3, seed])
    table = random_table(rng, layers=6, max_size=20, outputs=3)
    assert_agrees(run_reference, table, random_input(rng, table))


# What the random networks witness: a rule that none of them reaches would pass untested.


def test_corpus_reaches_every_operator_and_geometry():
    layers = [(table, layer) for table, layer, _ in corpus_layers(*OPERATORS)]
    assert {layer.operator for _, layer in layers} == set(OPERATORS)
    for operator in WINDOWED:
        chosen = [(table.source(layer).shape, layer) for table, layer in layers if layer.operator == operator]
        assert {layer.stride for _, layer in chosen} == {(1, 1), (2, 2)}
        assert {(1, 1), (3, 3), (5, 5), (1, 3), (3, 1), (2, 5)} <= {layer.kernel for _, layer in chosen}
        assert any(layer.kernel == (1, 1) and layer.stride == (2, 2) for _, layer in chosen)
        assert {layer.activation for _, layer in chosen} == {"none", "relu", "relu6"}
        assert any(shape[:2] == (1, 1) for shape, _ in chosen)
        assert any(shape[0] % 2 for shape, _ in chosen)
        uneven = [layer.padding for _, layer in chosen if layer.padding[0] != layer.padding[1]]
        assert uneven, f"no {operator} pads more below than above"
    channels = {layer.output.shape[-1] for _, layer in layers}
    assert {1, 2, 3} <= channels
    assert max(channels) > 36
    scales = {layer.weight_scales.size > 1 for _, layer in layers if layer.operator == "fully_connected"}
    assert scales == {False, True}
    multipliers = {
        layer.output.shape[-1] // table.source(layer).shape[-1]
        for table, layer in layers
        if layer.operator == "depthwise_conv2d"
    }
    assert multipliers == {1, 2, 3}
    edges = {(table.source(layer).dtype, layer.output.dtype) for table, layer in layers if layer.operator == "quantize"}
    assert edges == {("int8", "int8"), ("uint8", "int8"), ("float32", "int8"), ("int8", "uint8")}


def test_corpus_reaches_every_form_of_an_operator_on_several_tensors():
    for operator in ELEMENTWISE:
        chosen = [layer for _, layer, _ in corpus_layers(operator)]
        constants = [layer.constant for layer in chosen if layer.constant is not None]
        assert {constant.ndim for constant in constants} >= {0, 1, 3}
        assert any(len(set(layer.inputs)) == 2 for layer in chosen)
        assert any(len(layer.inputs) == 2 and len(set(layer.inputs)) == 1 for layer in chosen)
        assert {layer.activation for layer in chosen} == {"none", "relu", "relu6"}
    assert {layer.constant_first for _, layer, _ in corpus_layers("sub")} == {False, True}
    concatenations = [layer for _, layer, _ in corpus_layers("concatenation")]
    assert {layer.axis for layer in concatenations} == {0, 1, 2}
    assert {len(layer.inputs) for layer in concatenations} == {2, 3}
    tables = [corpus_case(seed)[0] for seed in CORPUS]
    assert {len(table.outputs) for table in tables} == {1, 2, 3}
    readers = {len(table.consumers(layer.name)) for table in tables for layer in table.layers}
    assert {0, 1, 2, 3} <= readers


def test_corpus_pads_max_pools():
    """Also where every value that a window sees is negative, so that a padded 0 would win."""
    negative = 0
    for _, layer, tensors in corpus_layers("max_pool2d"):
        if any(layer.padding):
            x = tensors[layer.inputs[0]]
            zeros = golden._windows(x, layer).max(axis=(-2, -1)).clip(*layer.clamp)
            negative += int((zeros != tensors[layer.name]).sum())
    assert negative >= 10


def test_corpus_reaches_every_shift_and_extreme():
    shifts, biases, zero_points, weights = set(), [], set(), set()
    for table, layer, _ in corpus_layers(*WEIGHTED):
        shifts |= set(golden.layer_multipliers(table, layer)[1].tolist())
        biases += layer.bias.tolist()
        zero_points.add(table.source(layer).quantization.zero_point)
        weights |= {int(layer.weights.min()), int(layer.weights.max())}
    assert shifts == set(range(-31, 3))
    assert min(biases) < -(2**30) + 2**24
    assert max(biases) > 2**30 - 2**24
    assert {-128, 0, 127} <= zero_points
    assert {-128, 127} <= weights


def test_corpus_reaches_many_shifts_of_elementwise_operators():
    sums, products = set(), set()
    for table, layer, _ in corpus_layers(*ELEMENTWISE):
        if layer.operator == "mul":
            products |= set(golden.layer_multipliers(table, layer)[1].tolist())
        else:
            sums.add(int(golden.addition_multipliers(table, layer)[1][2]))
    assert min(sums) < -25 and max(sums) >= -2
    assert min(products) < -15 and max(products) >= 5


@pytest.mark.parametrize("operator", ELEMENTWISE)
def test_corpus_reaches_both_clamp_ends_of_elementwise_operators(operator):
    at_low = inside = at_high = 0
    for _, layer, tensors in corpus_layers(operator):
        y, (low, high) = tensors[layer.name], layer.clamp
        if high > low + 1:
            at_low, at_high = at_low + int((y == low).sum()), at_high + int((y == high).sum())
            inside += int(((y > low) & (y < high)).sum())
    assert min(at_low, inside, at_high) >= 100


@pytest.mark.parametrize("operator", WEIGHTED)
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_corpus_reaches_both_clamp_ends(operator, activation):
    below = inside = above = 0
    for table, layer, tensors in corpus_layers(operator):
        if layer.activation == activation and layer.clamp[1] > layer.clamp[0] + 1:
            sums = golden.accumulators(table, layer, tensors[layer.inputs[0]])
            scaled = golden.multiply_by_quantized_multiplier(sums, *golden.layer_multipliers(table, layer))
            scaled += layer.output.quantization.zero_point
            below += int((scaled < layer.clamp[0]).sum())
            above += int((scaled > layer.clamp[1]).sum())
            inside += int(((scaled > layer.clamp[0]) & (scaled < layer.clamp[1])).sum())
    assert min(below, inside, above) >= 10


def test_corpus_clamps_relu6_inside_int8():
    ends = {layer.clamp for _, layer, _ in corpus_layers(*WEIGHTED) if layer.activation == "relu6"}
    assert any(low > -128 and high < 127 for low, high in ends)


def test_corpus_tells_double_from_single_rounding():
    """Rounding once, half up or half away from zero, gives other outputs than the kernels'."""
    half_up = half_away = 0
    for table, layer, tensors in corpus_layers(*WEIGHTED):
        sums = golden.accumulators(table, layer, tensors[layer.inputs[0]])
        m, shift = golden.layer_multipliers(table, layer)
        magnitude, places = sums * m, 31 - shift
        # Products stay below 2**61 and places are 62 at most: int64 holds the sums.
        up = (magnitude + (1 << (places - 1))) >> places
        away = np.sign(magnitude) * ((np.abs(magnitude) + (1 << (places - 1))) >> places)
        for single, name in ((up, "up"), (away, "away")):
            output = np.clip(single + layer.output.quantization.zero_point, *layer.clamp)
            differs = int((output != tensors[layer.name]).sum())
            half_up += differs if name == "up" else 0
            half_away += differs if name == "away" else 0
    assert half_up >= 10
    assert half_away >= 10


@pytest.mark.parametrize("seed", range(30))
def test_random_tables_stay_inside_int32(seed):
    """Worst-case accumulators, shifted left where the multiplier says so, and biases with the zero point folded in."""
    table = random_table(np.random.default_rng(seed), kinds=CORE_KINDS)
    for layer in table.layers:
        if layer.operator in WEIGHTED:
            zero_point = table.source(layer).quantization.zero_point
            axes = (0, 1) if layer.operator == "depthwise_conv2d" else tuple(range(1, layer.weights.ndim))
            magnitudes = np.abs(layer.weights.astype(np.int64)).sum(axis=axes)
            bias = np.abs(layer.bias.astype(np.int64))
            worst = bias + magnitudes * max(127 - zero_point, zero_point + 128)
            shift = golden.layer_multipliers(table, layer)[1]
            assert (worst << np.maximum(shift, 0)).max() < 2**31
            assert (bias + magnitudes * abs(zero_point)).max() < 2**31


def test_random_tables_repeat_and_follow_their_options():
    options = {"kinds": ("conv2d", "pointwise"), "kernels": ((3, 3),), "strides": ((2, 2),), "paddings": ("same",)}
    options |= {"activations": ("relu6",), "max_size": 9, "max_channels": 5, "layers": 3}
    for seed in range(20):
        table, again = (random_table(np.random.default_rng(seed), **options) for _ in range(2))
        assert max(*table.inputs["input"].shape[:2]) <= 9
        assert [layer.operator for layer in table.layers] == ["conv2d"] * 3
        for layer, same in zip(table.layers, again.layers, strict=True):
            assert layer.kernel in ((1, 1), (3, 3))
            assert layer.kernel == (1, 1) or layer.stride == (2, 2)
            assert layer.activation == "relu6"
            assert layer.output.shape[-1] <= 5
            assert layer.padding == same_padding(table.source(layer).shape[:2], layer.kernel, layer.stride)
            assert layer.output == same.output
            np.testing.assert_array_equal(layer.weights, same.weights)
            np.testing.assert_array_equal(layer.bias, same.bias)


# One rule at a time


def scale_rules(layer, source):
    """The effective scale with the product of scales rounded to float32, and in double precision: two floats."""
    s_in, s_w, s_out = source.quantization.scale, float(layer.weight_scales[0]), layer.output.quantization.scale
    return float(np.float32(s_in) * np.float32(s_w)) / s_out, s_in * s_w / s_out


def telling_accumulators(first, second, count):
    """Accumulators that effective scales ``first`` and ``second`` bring to different outputs, near ties of rounding."""
    ties = np.rint((np.arange(-100, 100) + 0.5) / first).astype(np.int64)
    candidates = (ties[:, np.newaxis] + np.arange(-200, 200)).ravel()
    candidates = candidates[np.abs(candidates) < 2**30]
    results = [
        golden.multiply_by_quantized_multiplier(candidates, *golden.quantize_multiplier(real))
        for real in (first, second)
    ]
    telling = candidates[results[0] != results[1]]
    return np.random.default_rng(0).choice(telling, count).astype(np.int32)


@pytest.mark.parametrize("operator", ["conv2d", "depthwise_conv2d", "fully_connected", "fully_connected of one scale"])
def test_precision_of_effective_scale(run_reference, operator):
    """Which product of scales is rounded to float32 shows only beside ties, so the biases sit there."""
    channels = 64
    operator, _, single = operator.partition(" of ")
    depthwise = operator == "depthwise_conv2d"
    source = int8((1, 1, channels if depthwise else 1) if operator != "fully_connected" else (1,), 0.013)
    output = int8((1, 1, channels) if operator != "fully_connected" else (channels,), 0.0271)
    shape = {"conv2d": (channels, 1, 1, 1), "depthwise_conv2d": (1, 1, channels), "fully_connected": (channels, 1)}
    fields = {
        "weights": np.zeros(shape[operator], np.int8),
        "weight_scales": np.full(1 if single else channels, 2.3e-7, np.float32),
        "bias": np.zeros(channels, np.int32),
    }
    narrow, wide = scale_rules(one_layer(operator, source, output, **fields).layers[0], source)
    fields["bias"] = telling_accumulators(narrow, wide, channels)
    table = one_layer(operator, source, output, **fields)
    assert golden.effective_scales(table, table.layers[0])[0] == (narrow if single else wide)
    assert_agrees(run_reference, table, {"input": np.zeros(source.shape, np.int8)})


@pytest.mark.parametrize("exponent", [-33, -31.5, -31, -30.2, -27, -20, -9, -1, 0, 0.3, 1, 2.5])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2), (7, 7), (5, 13), (64, 64)])
def test_mean(run_reference, size, exponent):
    """Also where a small scale leaves the multiplier less room than log2 N bits, or none."""
    rng = np.random.default_rng(0)
    source, output = int8((*size, 9), 2.0**-8, -128), int8((9,), 2.0 ** (-8 - exponent), 100)
    table = one_layer("mean", source, output)
    for x in (rng.integers(-128, 128, source.shape), np.full(source.shape, 127), rng.integers(120, 128, source.shape)):
        assert_agrees(run_reference, table, {"input": x.astype(np.int8)})


def test_mean_truncates_its_multiplier(run_reference):
    """7 pixels at a ratio of 5/2: an odd mean makes a tie, which the truncated multiplier leaves just below."""
    source, output = int8((1, 7, 20), 2.5), int8((20,), 1)
    table = one_layer("mean", source, output)
    x = np.broadcast_to(np.arange(1, 40, 2, dtype=np.int8), source.shape)
    m, shift = golden.layer_multipliers(table, table.layers[0])
    assert (m.tolist(), shift.tolist()) == ([(5 << 28 << 2) // 7], [0])
    assert golden.run(table, {"input": x})["layer"][:3].tolist() == [2, 7, 12]
    assert_agrees(run_reference, table, {"input": x})


def test_mean_keeps_its_shift_in_range():
    """Where log2 N bits would lead below a shift of -31, the multiplier gets fewer."""
    table = one_layer("mean", int8((64, 64, 1), 2.0**-8), int8((1,), 2.0**19))
    m, shift = golden.layer_multipliers(table, table.layers[0])
    assert (m.tolist(), shift.tolist()) == ([(2**30 << 5) // 4096], [-31])


def test_average_pool_of_every_sum(run_reference):
    """Two pixels of every sum and sign, three with every remainder, and windows cut short by SAME."""
    x = np.arange(-128, 128, dtype=np.int8)
    pairs = np.stack([x, np.roll(x, 1), x[::-1]]).T[np.newaxis]
    for kernel in ((1, 2), (1, 3), (1, 4)):
        sides = same_padding((1, 256), kernel, (1, 1))
        tensor = int8((1, 256, 3), 0.1, 3)
        table = one_layer("average_pool2d", tensor, tensor, kernel=kernel, padding=sides)
        assert_agrees(run_reference, table, {"input": pairs})


def elementwise_table(operator, first, second, output, activation="none"):
    """An elementwise operator on two tensors of types ``first`` and ``second``."""
    clamp = activation_clamp(activation, output.quantization)
    layer = Layer("layer", operator, ("first", "second"), output, activation=activation, clamp=clamp)
    return Table("two", {"first": first, "second": second}, (layer,), ("layer",))


EVERY_PAIR = np.meshgrid(np.arange(-128, 128, dtype=np.int8), np.arange(-128, 128, dtype=np.int8))


@pytest.mark.parametrize("operator", ELEMENTWISE)
@pytest.mark.parametrize(
    ("first", "second", "output", "activation"),
    [
        ((0.1, 0), (0.1, 0), (0.2, 0), "none"),
        ((0.1, -128), (0.1, -128), (0.2, -128), "none"),
        ((0.1, 127), (0.1, -128), (0.1, 3), "none"),
        ((0.4411499, 22), (0.3593361, -4), (0.3958591, -1), "none"),
        ((0.2531197, 27), (0.2836352, -3), (0.2934311, 3), "none"),
        ((0.0165712, -128), (0.0294371, 4), (0.0274342, -5), "relu"),
        ((0.0231, -5), (0.0187, 9), (0.0471, -120), "relu6"),
        ((0.0001, 5), (1.7, -9), (1.3, 7), "none"),
        ((37.0, 5), (0.003, -9), (0.01, 7), "none"),
        ((2.5, 5), (0.5, -9), (2.5 * 2**-18, 7), "none"),
        ((0.01, 5), (0.02, -9), (300.0, 7), "none"),
        ((1e-30, 5), (2e-30, -9), (1e20, 7), "none"),
        ((0.3, 5), (1e-30, -9), (0.1, 7), "none"),
    ],
)
def test_elementwise_of_every_pair(run_reference, operator, first, second, output, activation):
    """Both operands take every value: all ties and ends that the scales have."""
    if operator == "mul" and output[0] < 1e-4:
        output = (1e-4, output[1])  # a product below 2**16 bears a shift of 15 at most
    types = [int8((256, 256), *quantization) for quantization in (first, second, output)]
    table = elementwise_table(operator, *types, activation)
    assert_agrees(run_reference, table, dict(zip(("first", "second"), EVERY_PAIR, strict=True)))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("operator", ["add", "sub"])
def test_addition_of_every_pair_at_random_scales(run_reference, operator, seed):
    """The operands keep 20 bits below the point, so it takes many pairs to meet the lowest ones beside a tie."""
    rng = np.random.default_rng([seed])
    scales, zero_points = 2.0 ** rng.uniform(-5, -2, 3), rng.integers(-128, 128, 3)
    types = [int8((256, 256), scale, int(zero)) for scale, zero in zip(scales, zero_points, strict=True)]
    table = elementwise_table(operator, *types)
    assert_agrees(run_reference, table, dict(zip(("first", "second"), EVERY_PAIR, strict=True)))


def test_addition_multipliers():
    """1 / 6, 1 / 2 and 6 / (2**20 * 4), each q * 2**shift with q in 0.5..1 as m * 2**-31."""
    table = elementwise_table("add", int8((4,), 1), int8((4,), 3), int8((4,), 4))
    m, shift = golden.addition_multipliers(table, table.layers[0])
    assert m.tolist() == [round(2 / 3 * 2**31), 2**30, round(0.75 * 2**31)]
    assert shift.tolist() == [-2, 0, -19]


def test_add_by_hand():
    """1 * 10 + 3 * 20 = 70 in units of 4 is 17.5: away from zero, as is its negative."""
    table = elementwise_table("add", int8((2,), 1), int8((2,), 3), int8((2,), 4))
    x, y = np.array([10, -10], np.int8), np.array([20, -20], np.int8)
    assert golden.run(table, {"first": x, "second": y})["layer"].tolist() == [18, -18]


@pytest.mark.parametrize(
    ("first", "second", "output"),
    [
        (0.019339749589562416, 0.040521152317523956, 0.09335747361183167),
        (0.01056839432567358, 0.00793084129691124, 0.0006009936332702637),
        (0.014347593300044537, 0.04365785792469978, 0.040582701563835144),
    ],
)
def test_precision_of_product_scale(run_reference, first, second, output):
    """Found by search: some product lies beside a tie that float32 and double precision see on different sides."""
    table = elementwise_table("mul", *(int8((256, 256), scale) for scale in (first, second, output)))
    rounded, m_and_shift = golden.effective_scales(table, table.layers[0])[0], []
    for real in (rounded, first * second / output):
        m_and_shift.append(golden.quantize_multiplier(real))
    products = EVERY_PAIR[0].astype(np.int64) * EVERY_PAIR[1]
    narrow, wide = (golden.multiply_by_quantized_multiplier(products, *pair) for pair in m_and_shift)
    assert (narrow != wide).any()
    assert_agrees(run_reference, table, dict(zip(("first", "second"), EVERY_PAIR, strict=True)))


@pytest.mark.parametrize("constant_first", [False, True])
def test_subtraction_of_constants(run_reference, constant_first):
    """A constant for each channel, and the whole range of inputs."""
    constant = np.array([-128, -3, 0, 127], np.int8)
    fields = {"constant": constant, "constant_quantization": Quantization(float(np.float32(0.02)), 3)}
    x = np.arange(-128, 128, dtype=np.int8).repeat(4).reshape(16, 16, 4)
    output = int8(x.shape, 0.03, -7)
    table = one_layer("sub", int8(x.shape, 0.01, 5), output, constant_first=constant_first, **fields)
    y = golden.run(table, {"input": x})["layer"]
    sign = -1 if constant_first else 1
    real = sign * (0.01 * (x.astype(float) - 5) - 0.02 * (constant.astype(float) - 3))
    assert np.abs(np.clip(real / 0.03 - 7, -128, 127) - y).max() <= 0.51
    assert_agrees(run_reference, table, {"input": x})


@pytest.mark.parametrize("kernel", [(1, 2), (3, 3), (5, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize("zero_point", [-128, 0, 127])
def test_padding_never_wins_a_max_pool(run_reference, kernel, stride, zero_point):
    sides = same_padding((7, 6), kernel, stride)
    shape = -(-7 // stride[0]), -(-6 // stride[1])
    table = one_layer(
        "max_pool2d",
        int8((7, 6, 3), 0.1, zero_point),
        int8((*shape, 3), 0.1, zero_point),
        kernel=kernel,
        stride=stride,
        padding=sides,
    )
    rng = np.random.default_rng(0)
    for low, high in ((-128, -127), (-128, -100), (-128, 127)):
        x = rng.integers(low, high, (7, 6, 3), endpoint=True).astype(np.int8)
        assert golden.run(table, {"input": x})["layer"].max() <= high
        assert_agrees(run_reference, table, {"input": x})


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("multiplier", [2, 3, 8])
def test_depthwise_multiplier(run_reference, channels, multiplier):
    rng = np.random.default_rng([channels, multiplier])
    made = channels * multiplier
    table = one_layer(
        "depthwise_conv2d",
        int8((6, 7, channels), 0.02, 11),
        int8((6, 7, made), 0.9, -20),
        kernel=(3, 3),
        padding=(1, 1, 1, 1),
        weights=rng.integers(-128, 128, (3, 3, made)).astype(np.int8),
        bias=rng.integers(-9000, 9000, made).astype(np.int32),
        weight_scales=rng.uniform(0.05, 0.2, made).astype(np.float32),
    )
    x = rng.integers(-128, 128, (6, 7, channels)).astype(np.int8)
    tensors = golden.run(table, {"input": x})
    assert table.layers[0].macs == 6 * 7 * made * 9
    assert len(np.unique(tensors["layer"])) > 20
    assert_agrees(run_reference, table, {"input": x})


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3)])
def test_concatenation_along_every_axis(run_reference, shape):
    rng = np.random.default_rng(0)
    for axis in range(len(shape)):
        inputs = {f"input{i}": int8((*shape[:axis], i + 1, *shape[axis + 1 :]), 0.3, 5) for i in range(3)}
        output = int8((*shape[:axis], 1 + 2 + 3 + 2, *shape[axis + 1 :]), 0.3, 5)
        names = ("input1", "input0", "input2", "input1")
        layer = Layer("layer", "concatenation", names, output, axis=axis)
        table = Table("many", inputs, (layer,), ("layer",))
        assert_agrees(run_reference, table, random_input(rng, table))


@pytest.mark.parametrize(("source", "target"), [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8")])
@pytest.mark.parametrize("seed", range(8))
def test_requantise_every_value(run_reference, source, target, seed):
    rng = np.random.default_rng(seed)
    ratio = 2.0 ** rng.uniform(-10, 3) if seed else 1.0
    types = []
    for dtype, scale in ((source, 0.0123 * ratio), (target, 0.0123)):
        limits = np.iinfo(dtype)
        zero_point = int(rng.integers(limits.min, limits.max + 1))
        types.append(TensorType((256,), dtype, Quantization(float(np.float32(scale)), zero_point)))
    table = one_layer("quantize", *types)
    assert_agrees(run_reference, table, {"input": np.arange(256).astype(source)})


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("scale", [0.5, 0.1, 1 / 3, 6 / 255])
def test_quantize_and_dequantize_floats(run_reference, dtype, scale):
    """Every tie, its neighbours in float32, and far beyond both ends."""
    limits = np.iinfo(dtype)
    target = TensorType((2048,), dtype, Quantization(float(np.float32(scale)), limits.min + 110))
    ties = (np.arange(-300, 300, 0.5) * np.float32(scale)).astype(np.float32)
    rng = np.random.default_rng(0)
    values = np.concatenate([ties[:600], np.nextafter(ties, np.float32(np.inf)), [1e6, -1e6]])
    x = rng.permutation(np.concatenate([values, rng.normal(0, 50 * scale, 2048 - values.size)])).astype(np.float32)
    quantize = Layer("quantize", "quantize", ("input",), target)
    dequantize = Layer("dequantize", "dequantize", ("quantize",), TensorType(target.shape, "float32"))
    table = Table("edges", {"input": TensorType(target.shape, "float32")}, (quantize, dequantize), ("dequantize",))
    assert_agrees(run_reference, table, {"input": x})


def test_quantize_saturates_what_int32_cannot_hold():
    """The kernel's conversion is undefined there."""
    table = one_layer("quantize", TensorType((2,), "float32"), int8((2,), 1e-3))
    largest = np.array([3e38, -3e38], np.float32)
    assert golden.run(table, {"input": largest})["layer"].tolist() == [127, -128]


def softmax_table(classes, scale, zero_point=0):
    return one_layer("softmax", int8((classes,), scale, zero_point), int8((classes,), 1 / 256, -128))


@pytest.mark.parametrize("scale", [1.6e-8, 1e-6, 1e-3, 0.01, 0.0375, 0.1, 0.25, 1, 3.3, 15.9, 31, 40, 1000])
def test_softmax_of_random_logits(run_reference, scale):
    rng = np.random.default_rng(0)
    for classes in (1, 2, 3, 10, 12, 100, 511):
        logits = rng.integers(-128, 128, classes)
        narrow = rng.integers(100, 128, classes)
        for x in (logits, narrow, np.clip(np.rint(rng.normal(0, 20, classes)), -128, 127), np.full(classes, 5)):
            assert_agrees(run_reference, softmax_table(classes, scale, 7), {"input": x.astype(np.int8)})


def test_softmax_of_every_pair(run_reference):
    """Both logits' difference takes every value, at a scale that meets every factor of the exponential."""
    differences = np.arange(256)
    x = np.stack([np.full(256, -128), differences - 128], axis=-1).astype(np.int8)[np.newaxis]
    for scale in (0.0121, 0.0833, 0.124):
        source, output = int8(x.shape, scale), int8(x.shape, 1 / 256, -128)
        assert_agrees(run_reference, one_layer("softmax", source, output), {"input": x})


@pytest.mark.parametrize("scale", [0.0188, 0.0258, 0.0665, 0.1031])
def test_softmax_of_many_rows(run_reference, scale):
    """So many that the low bits of the sum, the exponential and its reciprocal decide some outputs."""
    rng = np.random.default_rng(0)
    below = np.abs(rng.normal(0, 2 / scale, (50_000, 4)))
    x = np.clip(np.rint(127 - below), -128, 127).astype(np.int8)
    table = one_layer("softmax", int8(x.shape, scale), int8(x.shape, 1 / 256, -128))
    assert_agrees(run_reference, table, {"input": x})


@pytest.mark.parametrize(
    ("scale", "logits"),
    [
        (0.0187870804220438, [127, -128, 108, 47]),
        (0.06653014570474625, [127, 43, 63]),
        (0.11609701067209244, [127, 119, 43]),
    ],
)
def test_softmax_beside_a_tie(run_reference, scale, logits):
    """Found by search: an output that changes when half the denominator or exp(-4) is off by one, or exp(-8) by 100."""
    assert_agrees(run_reference, softmax_table(len(logits), scale), {"input": np.array(logits, np.int8)})


def test_softmax_goes_on_where_litert_aborts():
    """Equal logits of 1000 classes are each 0.256 steps above zero; one that stands out has its probability."""
    assert (golden.run(softmax_table(1000, 0.1), {"input": np.zeros(1000, np.int8)})["layer"] == -128).all()
    x = np.zeros(1000, np.int8)
    x[7] = 100
    output = golden.run(softmax_table(1000, 0.1), {"input": x})["layer"][7]
    assert output == round(256 * np.exp(10) / (np.exp(10) + 999)) - 128


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (softmax_table(4096, 0.1), "layer: softmax takes at most 4095 classes, not 4096"),
        (softmax_table(4, 2.0**-26), "layer: softmax needs an input scale above 2**-26, not 1.4901161193847656e-08"),
        (
            one_layer("softmax", int8((4,), 0.1), TensorType((4,), "float32")),
            "layer: softmax runs on int8 tensors only, not int8 to float32",
        ),
    ],
)
def test_softmax_refuses(table, message):
    with pytest.raises(TableError) as refusal:
        golden.run(table, {"input": np.zeros(table.inputs["input"].shape, np.int8)})
    assert str(refusal.value) == message


def test_multipliers_of_an_operator_without_any():
    table = one_layer("reshape", int8((4,), 0.1), int8((2, 2), 0.1))
    with pytest.raises(TableError, match="^layer: a reshape has no multipliers$"):
        golden.layer_multipliers(table, table.layers[0])


# Inputs


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "one: inputs must be input, not none"),
        ({"other": np.zeros(4, np.int8)}, "one: inputs must be input, not other"),
        ({"input": np.zeros(5, np.int8)}, "one: input input must be int8 (4,), not int8 (5,)"),
        ({"input": np.zeros(4, np.uint8)}, "one: input input must be int8 (4,), not uint8 (4,)"),
    ],
)
def test_run_refuses_other_inputs(inputs, message):
    table = one_layer("reshape", int8((4,), 0.1), int8((2, 2), 0.1))
    with pytest.raises(ValueError) as refusal:
        golden.run(table, inputs)
    assert str(refusal.value) == message


def test_run_refuses_floats_that_are_no_number():
    table = one_layer("quantize", TensorType((2,), "float32"), int8((2,), 0.1))
    with pytest.raises(ValueError, match="^one: input input must be finite$"):
        golden.run(table, {"input": np.array([0, np.nan], np.float32)})


# The writer


def test_writer_refuses_a_padding_that_tflite_has_not():
    tensor, output = int8((4, 4, 1), 0.1), int8((3, 3, 1), 0.1)
    table = one_layer("average_pool2d", tensor, output, kernel=(3, 3), padding=(1, 0, 1, 0))
    with pytest.raises(ValueError, match=r"^layer: padding \(1, 0, 1, 0\) is neither SAME nor VALID; put a pad before"):
        write_tflite(table)


@pytest.mark.parametrize(("operator", "activation"), [("average_pool2d", "none"), ("reshape", "relu")])
def test_writer_refuses_a_clamp_without_its_activation(operator, activation):
    tensor = int8((4, 4, 1), 0.1)
    table = one_layer(operator, tensor, tensor, clamp=(0, 127), activation=activation)
    with pytest.raises(ValueError, match=r"with (none|relu) cannot clamp to \(0, 127\)$"):
        write_tflite(table)


# Published networks


def outputs_in_order(path):
    """Names of the tensors that the file's operators make, in execution order, computations of shapes left out."""
    model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    codes = [model.OperatorCodes(op.OpcodeIndex()) for op in operators]
    # Every file has codes below 127, as these three are, in the deprecated field; old ones have them only there.
    shapes = {tflite.BuiltinOperator.SHAPE, tflite.BuiltinOperator.STRIDED_SLICE, tflite.BuiltinOperator.PACK}
    kept = [op for op, code in zip(operators, codes, strict=True) if code.DeprecatedBuiltinCode() not in shapes]
    return [graph.Tensors(op.Outputs(0)).Name().decode() for op in kept]


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_network(run_reference, models_dir, inputs_dir, model):
    """Every tensor of every layer, on the real inputs at hand and on random ones."""
    from gen.importer import load_tflite

    path = models_dir / f"{model}.tflite"
    table = load_tflite(path)
    ((name, tensor),) = table.inputs.items()
    rng = np.random.default_rng(0)
    real = [np.load(file)[0] for file in sorted(inputs_dir.glob(f"{model.removesuffix('_fixed')}__*.npy"))]
    limits = np.iinfo(tensor.dtype)
    noise = [rng.integers(limits.min, limits.max, tensor.shape, tensor.dtype, endpoint=True) for _ in range(2)]
    for x in (*real, *noise):
        tensors = golden.run(table, {name: x.reshape(tensor.shape)})
        reference = run_reference(path, [x])
        made = outputs_in_order(path)
        assert len(made) == len(table.layers)
        for layer, original in zip(table.layers, made, strict=True):
            assert_same(layer.name, tensors[layer.name], reference[original])
