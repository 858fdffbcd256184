"""The printed layer table: what rows of operators on several tensors show."""

import io

import numpy as np
import rich.console

from gen.builders import mobilenet_v1
from gen.table import Layer, Quantization, Table, TensorType
from gen.table_print import describe, render

Q = Quantization(0.5, 3)
HERE = TensorType((4, 4, 3), "int8", Q)


def network():
    def constant(value, first=False):
        return {
            "constant": np.array(value, np.int8),
            "constant_quantization": Quantization(0.125, -7),
            "constant_first": first,
        }

    layers = (
        Layer("offset", "add", ("image",), HERE, **constant(-15)),
        Layer("peak", "max_pool2d", ("offset",), HERE, kernel=(3, 3), padding=(1, 1, 1, 1)),
        Layer("rest", "sub", ("peak",), HERE, **constant([1, 2, 3], first=True)),
        Layer("skip", "mul", ("rest", "offset"), HERE),
        Layer("all", "concatenation", ("skip", "peak"), TensorType((4, 4, 6), "int8", Q), axis=2),
    )
    return Table("net", {"image": HERE}, layers, ("all",))


def lines(table):
    console = rich.console.Console(file=io.StringIO(), width=200)
    console.print(render(table))
    return console.file.getvalue().splitlines()


def test_what_a_layer_reads_is_shown_where_it_is_not_the_layer_above():
    title, _, header, _, *rows = lines(network())
    assert title.startswith("net: 5 layers, 0 MACs, 4 parameters")
    assert header.split()[:3] == ["layer", "operator", "reads"]
    cells = [" ".join(row.split()) for row in rows]
    assert cells[:5] == [
        "offset add image, constant -1 4x4x3 → 4x4x3 1 48",
        "peak max_pool2d 4x4x3 → 4x4x3 3x3 1x1 1 48",
        "rest sub 3 constants, peak 4x4x3 → 4x4x3 3 48",
        "skip mul rest, offset 4x4x3 → 4x4x3 48",
        "all concatenation skip, peak 4x4x3 → 4x4x6 96",
    ]


def test_a_chain_needs_no_column_for_it():
    header = lines(mobilenet_v1(0.25, 32, classes=4, seed=None))[2]
    assert header.split()[:3] == ["layer", "operator", "input"]


def test_description_of_constants_and_axes():
    offset, peak, rest, skip, everything = describe(network())["layers"]
    assert offset["constant"] == {"shape": [], "dtype": "int8", "scale": 0.125, "zero_point": -7, "first": False}
    assert (rest["constant"]["shape"], rest["constant"]["first"], peak["constant"]) == ([3], True, None)
    assert (skip["inputs"], skip["axis"], everything["axis"]) == (["rest", "offset"], None, 2)
    assert (offset["parameters"], rest["parameters"], skip["parameters"]) == (1, 3, 0)
