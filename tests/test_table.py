"""The layer table's own checks: rows that are no layer are refused by name, all at once."""

import numpy as np
import pytest

from gen.table import (
    ELEMENTWISE,
    HOST_OPERATORS,
    OPERATORS,
    POOLS,
    WEIGHTED,
    WINDOWED,
    Layer,
    Quantization,
    Table,
    TableError,
    TensorType,
)

Q = Quantization(0.5, 3)
HERE = TensorType((4, 4, 3), "int8", Q)
SMALL = TensorType((1, 1, 3), "int8", Q)
WIDE = TensorType((4, 4, 6), "int8", Q)
FLOAT = TensorType((4, 4, 3), "float32")
CONSTANT = {"constant": np.array([1, 2, 3], np.int8), "constant_quantization": Quantization(0.25, -1)}
INPUTS = {"x": HERE, "y": HERE, "small": SMALL, "real": FLOAT}


def table(operator, inputs=("x",), output=HERE, **fields):
    return Table("net", INPUTS, (Layer("layer", operator, inputs, output, **fields),), ("layer",))


def depthwise(channels, made):
    return {
        "weights": np.zeros((1, 1, made), np.int8),
        "bias": np.zeros(made, np.int32),
        "weight_scales": np.ones(made, np.float32),
        "inputs": ("x",),
        "output": TensorType((4, 4, made), "int8", Q),
    }


def test_groups_of_operators():
    assert {*ELEMENTWISE, *HOST_OPERATORS, *POOLS, *WEIGHTED, *WINDOWED} <= set(OPERATORS)
    assert HOST_OPERATORS == ("quantize", "dequantize", "softmax")


@pytest.mark.parametrize(
    ("operator", "fields"),
    [
        ("add", {"inputs": ("x", "y")}),
        ("add", {"inputs": ("x", "x")}),
        ("mul", CONSTANT),
        ("sub", CONSTANT | {"constant_first": True}),
        *(("add", CONSTANT | {"constant": np.zeros(shape, np.int8)}) for shape in ((), (1,), (4, 1), (4, 1, 3))),
        ("max_pool2d", {"kernel": (3, 3), "padding": (2, 0, 1, 1)}),
        ("concatenation", {"inputs": ("x", "y"), "output": WIDE, "axis": 2}),
        ("concatenation", {"inputs": ("x", "x", "y"), "output": TensorType((12, 4, 3), "int8", Q), "axis": 0}),
        ("depthwise_conv2d", depthwise(3, 3)),
        ("depthwise_conv2d", depthwise(3, 12)),
    ],
)
def test_rows_that_are_layers(operator, fields):
    layer = table(operator, **fields).layers[0]
    assert layer.macs == (layer.output.size if layer.weights is not None else 0)
    assert layer.parameters == sum(a.size for a in (layer.weights, layer.bias, layer.constant) if a is not None)


@pytest.mark.parametrize(
    ("operator", "fields", "message"),
    [
        ("add", {}, "must read two tensors, or one and a constant, not 1"),
        ("add", {"inputs": ("x", "y", "x")}, "must read two tensors, or one and a constant, not 3"),
        ("mul", CONSTANT | {"inputs": ("x", "y")}, "must read two tensors, or one and a constant, not 2 and one"),
        ("mul", {"inputs": ("x", "small")}, "must read and make tensors of one shape, not (1, 1, 3) to (4, 4, 3)"),
        ("mul", {"inputs": ("small", "small")}, "must read and make tensors of one shape, not (1, 1, 3) to (4, 4, 3)"),
        ("sub", {"inputs": ("x", "real")}, "runs on int8 tensors only, not float32"),
        ("sub", {"inputs": ("x", "y"), "constant_first": True}, "only a sub of a constant can have it first"),
        ("add", CONSTANT | {"constant_first": True}, "only a sub of a constant can have it first"),
        ("pad", CONSTANT, "a pad has no constant operand"),
        ("pad", {"inputs": ("x", "y")}, "must read one tensor, not 2"),
        (
            "add",
            CONSTANT | {"constant": np.zeros(4, np.int8)},
            "constant must be int8 and broadcast to (4, 4, 3), not int8 (4,)",
        ),
        (
            "add",
            CONSTANT | {"constant": np.zeros((1, 4, 4, 3), np.int8)},
            "constant must be int8 and broadcast to (4, 4, 3), not int8 (1, 4, 4, 3)",
        ),
        (
            "add",
            CONSTANT | {"constant": np.zeros(3, np.int32)},
            "constant must be int8 and broadcast to (4, 4, 3), not int32 (3,)",
        ),
        ("add", CONSTANT | {"constant_quantization": None}, "a constant needs a quantisation"),
        (
            "add",
            CONSTANT | {"constant_quantization": Quantization(float("nan"), 0)},
            "scale of the constant must be positive and finite, not nan",
        ),
        (
            "add",
            CONSTANT | {"constant_quantization": Quantization(1.0, 128)},
            "zero point of the constant must be in -128..127, not 128",
        ),
        (
            "max_pool2d",
            {"kernel": (3, 3), "padding": (3, 0, 1, 1), "output": TensorType((5, 4, 3), "int8", Q)},
            "padding must be smaller than the kernel (3, 3) of a pool, not (3, 0, 1, 1)",
        ),
        ("max_pool2d", {"output": WIDE}, "must keep its 3 channels, not make 6"),
        (
            "max_pool2d",
            {"output": TensorType((4, 4, 3), "int8", Quantization(0.5, 4))},
            "must keep its quantisation Quantization(scale=0.5, zero_point=3), "
            "not make Quantization(scale=0.5, zero_point=4)",
        ),
        (
            "concatenation",
            {"inputs": ("x", "y"), "output": TensorType((4, 4, 6), "int8", Quantization(0.25, 3)), "axis": 2},
            "must keep its quantisation Quantization(scale=0.5, zero_point=3), "
            "not make Quantization(scale=0.25, zero_point=3)",
        ),
        ("concatenation", {"inputs": ("x", "y"), "output": WIDE, "axis": 3}, "axis must be in 0..2, not 3"),
        ("concatenation", {"inputs": ("x", "y"), "output": WIDE, "axis": -1}, "axis must be in 0..2, not -1"),
        (
            "concatenation",
            {"inputs": ("x", "y"), "output": WIDE, "axis": 1},
            "cannot make (4, 4, 6) of (4, 4, 3), (4, 4, 3) along axis 1",
        ),
        (
            "concatenation",
            {"inputs": ("x", "small"), "output": WIDE, "axis": 2},
            "cannot make (4, 4, 6) of (4, 4, 3), (1, 1, 3) along axis 2",
        ),
        (
            "concatenation",
            {"inputs": ("x", "y"), "output": TensorType((4, 6), "int8", Q), "axis": 1},
            "must read and make tensors of one rank, not (4, 4, 3), (4, 4, 3) to (4, 6)",
        ),
        ("depthwise_conv2d", depthwise(3, 7), "must make a multiple of its 3 channels, not 7"),
    ],
)
def test_rows_that_are_no_layers(operator, fields, message):
    with pytest.raises(TableError) as refusal:
        table(operator, **fields)
    assert f"net: layer: {message}" in str(refusal.value).splitlines()


def test_sources_in_order():
    read = table("add", ("y", "x"))
    assert read.sources(read["layer"]) == (HERE, HERE) and read.consumers("x") == [read["layer"]]
