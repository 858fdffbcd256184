"""The passes: what they remove, what they leave, and that the golden model agrees before and after."""

import numpy as np
import pytest
from random_tables import random_input, random_table

from gen.importer import load_tflite
from gen.passes import PASSES, drop_reshapes, fold_padding, lower
from gen.table import Layer, Quantization, Table, TensorType
from sim import golden

Q = Quantization(0.5, 3)


def feature_map(*shape, quantization=Q):
    return TensorType(shape, "int8", quantization)


def pad(name, source, shape, padding, quantization=Q):
    return Layer(name, "pad", (source,), feature_map(*shape, quantization=quantization), padding=padding)


def reshape(name, source, *shape):
    return Layer(name, "reshape", (source,), feature_map(*shape))


def weighted(name, operator, source, shape, weights_shape, **fields):
    rng = np.random.default_rng(len(name))
    return Layer(
        name,
        operator,
        (source,),
        feature_map(*shape),
        weights=rng.integers(-128, 128, weights_shape).astype(np.int8),
        bias=rng.integers(-100, 100, shape[-1]).astype(np.int32),
        weight_scales=np.full(shape[-1], 0.02, np.float32),
        **fields,
    )


def conv(name, source, height, width, padding=(0, 0, 0, 0)):
    return weighted(
        name, "conv2d", source, (height, width, 2), (2, 3, 3, 2), kernel=(3, 3), stride=(1, 1), padding=padding
    )


def depthwise(name, source, height, width):
    return weighted(name, "depthwise_conv2d", source, (height, width, 2), (3, 3, 2), kernel=(3, 3), stride=(2, 2))


def pool(name, source, height, width):
    return Layer(name, "average_pool2d", (source,), feature_map(height, width, 2), kernel=(3, 3))


def max_pool(name, source, height, width, padding=(0, 0, 0, 0)):
    return Layer(name, "max_pool2d", (source,), feature_map(height, width, 2), kernel=(3, 3), padding=padding)


def add(name, first, second, *shape):
    return Layer(name, "add", (first, second), feature_map(*shape))


def fully_connected(name, source, inputs):
    return weighted(name, "fully_connected", source, (4,), (4, inputs))


def network(*layers, outputs=None, shape=(5, 6, 2)):
    return Table("net", {"x": feature_map(*shape)}, layers, outputs or (layers[-1].name,))


def assert_same_tensors(before, after, seed=0):
    """Every tensor that is left has its type and its values, and all inputs and outputs are left."""
    inputs = random_input(np.random.default_rng(seed), before)
    expected, actual = golden.run(before, inputs), golden.run(after, inputs)
    assert (before.name, before.inputs, before.outputs) == (after.name, after.inputs, after.outputs)
    assert list(actual) == [name for name in expected if name in actual]
    for name, tensor in actual.items():
        assert after.tensor(name) == before.tensor(name)
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


def names(table):
    return [layer.name for layer in table.layers]


@pytest.mark.parametrize("run", [*PASSES, lower], ids=lambda run: run.__name__)
@pytest.mark.parametrize("seed", range(25))
def test_random_table_computes_the_same(run, seed):
    table = random_table(np.random.default_rng(seed), kernels=((1, 1), (3, 3), (2, 5)), max_size=9, max_channels=8)
    assert_same_tensors(table, run(table), seed)


@pytest.mark.parametrize(
    ("model", "dropped"),
    [
        ("ad01_int8", []),
        ("kws_ref_model", ["flatten"]),
        ("micro_speech_quantized", []),
        ("mobilenetv2_160_035", ["SpatialSqueeze1"]),
        ("person_detect", []),
        ("pretrainedResnet_quant", ["flatten"]),
        ("tinymaix_mbnet128_0.25_q", ["conv_pad_2", "conv_pad_4", "conv_pad_6", "conv_pad_12"]),
        ("tinymaix_mnist_resnet_q", ["reshape"]),
        ("vww_96_int8", ["flatten"]),
    ],
)
def test_published_model(models_dir, model, dropped):
    table = load_tflite(models_dir / f"{model}.tflite")
    lowered = lower(table)
    assert [name for name in names(table) if name not in names(lowered)] == dropped
    assert_same_tensors(table, lowered)


def test_pad_folds_into_every_convolution_that_reads_it():
    table = network(
        pad("pad", "x", (8, 10, 2), (1, 2, 0, 4)),
        conv("conv", "pad", 8, 10, padding=(1, 1, 1, 1)),
        depthwise("dw", "pad", 3, 4),
        outputs=("conv", "dw"),
    )
    folded = fold_padding(table)
    assert names(folded) == ["conv", "dw"]
    assert folded["conv"].padding == (2, 3, 1, 5) and folded["dw"].padding == (1, 2, 0, 4)
    assert folded["conv"].inputs == folded["dw"].inputs == ("x",)
    assert_same_tensors(table, folded)


def test_pad_behind_a_pad_folds():
    table = network(
        pad("one", "x", (6, 6, 2), (1, 0, 0, 0)),
        pad("two", "one", (6, 9, 2), (0, 0, 1, 2)),
        conv("conv", "two", 4, 7),
    )
    folded = fold_padding(table)
    assert names(folded) == ["conv"] and folded["conv"].padding == (1, 0, 1, 2)
    assert_same_tensors(table, folded)


@pytest.mark.parametrize(
    ("layers", "outputs"),
    [
        pytest.param((conv("conv", "pad", 5, 4),), ("conv", "pad"), id="output"),
        pytest.param((conv("conv", "pad", 5, 4), pool("pool", "pad", 5, 4)), ("conv", "pool"), id="pool reads it too"),
        pytest.param((pool("pool", "pad", 5, 4),), ("pool",), id="pool reads it"),
        pytest.param((max_pool("pool", "pad", 5, 4),), ("pool",), id="max pool reads it"),
        pytest.param((conv("conv", "pad", 5, 4), max_pool("pool", "pad", 5, 4)), ("conv", "pool"), id="max pool too"),
        pytest.param((max_pool("pool", "pad", 7, 6, (1, 1, 1, 1)),), ("pool",), id="max pool pads as well"),
        pytest.param((add("sum", "pad", "pad", 7, 6, 2),), ("sum",), id="sum reads it"),
        pytest.param((), ("pad",), id="nobody reads it"),
    ],
)
def test_pad_stays(layers, outputs):
    table = network(pad("pad", "x", (7, 6, 2), (1, 1, 0, 0)), *layers, outputs=outputs)
    assert names(fold_padding(table)) == names(table)
    assert_same_tensors(table, fold_padding(table))


@pytest.mark.parametrize("other", [Quantization(0.5, 4), Quantization(0.25, 3)])
def test_pad_that_changes_the_quantisation_stays(other):
    """Its fill is not the zero point that the convolution would pad its source with, or means another value."""
    table = network(pad("pad", "x", (7, 6, 2), (1, 1, 0, 0), other), conv("conv", "pad", 5, 4))
    assert names(fold_padding(table)) == ["pad", "conv"]


def test_reshape_before_fully_connected_goes():
    table = network(reshape("flat", "x", 60), fully_connected("fc", "flat", 60))
    dropped = drop_reshapes(table)
    assert names(dropped) == ["fc"] and dropped["fc"].inputs == ("x",)
    assert_same_tensors(table, dropped)


def test_reshapes_behind_reshapes_go():
    table = network(
        reshape("one", "x", 60),
        reshape("two", "one", 3, 20),
        fully_connected("fc", "two", 60),
        reshape("three", "two", 5, 6, 2),
        conv("conv", "three", 3, 4),
        outputs=("fc", "conv"),
    )
    dropped = drop_reshapes(table)
    assert names(dropped) == ["fc", "conv"] and dropped["conv"].inputs == ("x",)
    assert_same_tensors(table, dropped)


def test_each_operand_skips_its_own_reshape():
    """One reshape changes nothing, the other one what the sum reads."""
    table = network(
        reshape("same", "x", 5, 6, 2),
        reshape("flat", "x", 60),
        reshape("back", "flat", 5, 6, 2),
        conv("conv", "x", 5, 6, padding=(1, 1, 1, 1)),
        add("sum", "conv", "same", 5, 6, 2),
        reshape("row", "sum", 1, 60),
        reshape("other", "conv", 1, 60),
        add("flat_sum", "row", "other", 1, 60),
        add("again", "back", "sum", 5, 6, 2),
        outputs=("flat_sum", "again"),
    )
    dropped = drop_reshapes(table)
    assert names(dropped) == ["conv", "sum", "row", "other", "flat_sum", "again"]
    assert [dropped[name].inputs for name in ("sum", "flat_sum", "again")] == [
        ("conv", "x"),
        ("row", "other"),
        ("x", "sum"),
    ]
    assert_same_tensors(table, dropped)


def test_reshape_that_gives_an_output_its_shape_stays():
    table = network(reshape("one", "x", 3, 20), reshape("two", "one", 60), fully_connected("fc", "two", 60))
    table = table.with_layers(table.layers, outputs=("two", "fc"))
    dropped = drop_reshapes(table)
    assert names(dropped) == ["two", "fc"] and dropped["two"].inputs == ("x",) and dropped["fc"].inputs == ("x",)
    assert_same_tensors(table, dropped)


def test_reshape_that_gives_a_host_operator_its_shape_stays():
    """Softmax runs over the last axis, so its source's shape matters."""
    softmax = Layer("softmax", "softmax", ("flat",), feature_map(60, quantization=Quantization(1 / 256, -128)))
    table = network(reshape("flat", "x", 60), softmax, fully_connected("fc", "flat", 60), outputs=("softmax", "fc"))
    dropped = drop_reshapes(table)
    assert names(dropped) == ["flat", "softmax", "fc"] and dropped["fc"].inputs == ("x",)
    assert_same_tensors(table, dropped)


def test_reshape_that_gives_a_convolution_its_shape_stays():
    table = network(reshape("map", "x", 5, 6, 2), conv("conv", "map", 3, 4), shape=(60,))
    assert names(drop_reshapes(table)) == ["map", "conv"]
    assert_same_tensors(table, drop_reshapes(table))


def test_lower_folds_and_drops():
    table = network(
        pad("pad", "x", (7, 8, 2), (1, 1, 1, 1)),
        conv("conv", "pad", 5, 6),
        reshape("flat", "conv", 60),
        fully_connected("fc", "flat", 60),
    )
    assert names(lower(table)) == ["conv", "fc"]
    assert names(table) == ["pad", "conv", "flat", "fc"]
    assert_same_tensors(table, lower(table))
