"""The printed layer table: what rows of operators on several tensors show."""

import io

import numpy as np
import rich.console

from gen.builders import mobilenet_v1
from gen.passes import lower
from gen.table import Layer, Quantization, Table, TensorType
from gen.table_file import from_document
from gen.table_print import describe, render
from gen.whereabouts import whereabouts

Q = Quantization(0.5, 3)
LINEAR = {"scale": 0.1, "zero_point": 0}
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


def lines(table, lanes=8):
    console = rich.console.Console(file=io.StringIO(), width=200)
    console.print(render(whereabouts(table, lower(table), lanes)))
    return console.file.getvalue().splitlines()


def words(line):
    return " ".join(line.split())


def test_what_a_layer_reads_is_shown_where_it_is_not_the_layer_above():
    title, _, header, _, *rows = lines(network())
    assert title.startswith("net: 5 layers, 0 MACs, 4 parameters")
    assert header.split()[:3] == ["layer", "operator", "reads"]
    assert [*map(words, rows)][:5] == [
        "offset add image, constant -1 4x4x3 → 4x4x3 1 48 accelerator",
        "peak max_pool2d 4x4x3 → 4x4x3 3x3 1x1 1 48 accelerator",
        "rest sub 3 constants, peak 4x4x3 → 4x4x3 3 48 accelerator",
        "skip mul rest, offset 4x4x3 → 4x4x3 48 accelerator",
        "all concatenation skip, peak 4x4x3 → 4x4x6 96 host",
    ]
    assert [*map(words, rows)][-2:] == [
        "the accelerator cannot run it:", "net: skip: mul of two tensors has no engine",
    ]  # fmt: skip


def test_a_chain_needs_no_column_for_it():
    header = lines(mobilenet_v1(0.25, 32, classes=4, seed=None))[2]
    assert header.split()[:3] == ["layer", "operator", "input"]


def test_description_of_constants_and_axes():
    offset, peak, rest, skip, everything = describe(whereabouts(network(), network()))["layers"]
    assert offset["constant"] == {"shape": [], "dtype": "int8", "scale": 0.125, "zero_point": -7, "first": False}
    assert (rest["constant"]["shape"], rest["constant"]["first"], peak["constant"]) == ([3], True, None)
    assert (skip["inputs"], skip["axis"], everything["axis"]) == (["rest", "offset"], None, 2)
    assert (offset["parameters"], rest["parameters"], skip["parameters"]) == (1, 3, 0)


def test_places_of_layers(every_ring):
    """A wide tensor in a ring, a pad and a reshape that are folded, and layers that share a stage."""
    rows = [
        {"name": "first", "operator": "conv2d", "channels": 4, "kernel": 3, "padding": "same", **LINEAR},
        {"name": "wide", "operator": "conv2d", "channels": 24, **LINEAR},
        {"name": "border", "operator": "pad", "padding": [0, 1, 0, 1]},
        {"name": "window", "operator": "depthwise_conv2d", "kernel": 3, "stride": 2, **LINEAR},
        {"name": "narrow", "operator": "conv2d", "channels": 4, **LINEAR},
        {"name": "flat", "operator": "reshape", "shape": [100]},
        {"name": "logits", "operator": "fully_connected", "channels": 3, **LINEAR},
        {"name": "scores", "operator": "softmax"},
    ]
    image = {"shape": [10, 10, 3], "scale": 0.02, "zero_point": 0}
    document = {"name": "net", "inputs": {"image": image}, "layers": rows, "weights": {"seed": 1}}
    table = from_document(document, where="net")
    _, _, _, _, *printed = map(words, lines(table, lanes=4))
    assert [line.split("→")[1].split(" ", 2)[2] for line in printed[:8]] == [
        "3x3 1x1 1 10,800 112 400 accelerator 1",
        "1x1 1x1 0 9,600 120 2,400 accelerator 2 6 of 10",
        "0 1 0 1 folded into window",
        "3x3 2x2 0 1 0 1 5,400 240 600 accelerator 3 none",
        "1x1 1x1 0 2,400 100 100 accelerator 3",
        "folded into logits",
        "300 303 3 accelerator 4",
        "3 host",
    ]
    described = describe(whereabouts(table, lower(table), 4))
    assert described["packing"] and printed[-2] == "multipliers: two MACs each, unless with --packing off"
    assert printed[-1] == f"feature memory: {described['feature_bytes']:,} bytes with 4 lanes, N of --array KxN"
    layers = described["layers"]
    assert [layer["rows_kept"] for layer in layers] == [10, 6, None, 0, 5, None, 1, None]
    assert [layer["stages"] for layer in layers] == [[0], [1], [], [2], [2], [], [3], []]
    assert [layer["folded_into"] for layer in layers] == [[], [], ["window"], [], [], ["logits"], [], []]
    assert [layer["on_host"] for layer in layers] == [False] * 7 + [True]


def test_a_pool_of_many_stages():
    """A padded average pool has a stage for each number of positions that it averages."""
    rows = [{"name": "pool", "operator": "average_pool2d", "kernel": 3, "padding": "same"}]
    image = {"shape": [4, 4, 3], "scale": 0.02, "zero_point": 0}
    table = from_document({"name": "net", "inputs": {"image": image}, "layers": rows}, where="net")
    assert words(lines(table)[4]) == "pool average_pool2d 4x4x3 → 4x4x3 3x3 1x1 1 48 accelerator 1-9"
