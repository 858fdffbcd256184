"""The layer table's text form: what rows leave out, the exact round trip, and everything that can be wrong."""

import copy
import io
import tomllib
import zipfile
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_tables import random_table

from gen.builders import mobilenet_v1
from gen.errors import GenError
from gen.importer import load_tflite
from gen.table import Layer, Quantization, TensorType
from gen.table_file import from_document, load, save
from sim import golden

TINY = """
name = "tiny"
weights = {seed = 1}
inputs.image = {shape = [8, 8, 3], scale = 0.0078125, zero_point = -1}
layers = [
    {name = "conv", operator = "conv2d", channels = 4, kernel = 3, stride = 2, padding = "same", activation = "relu6"},
    {name = "dw", operator = "depthwise_conv2d", kernel = [3, 1], padding = [1, 1, 0, 0], activation = "relu6"},
    {name = "pool", operator = "average_pool2d"},
    {name = "logits", operator = "fully_connected", channels = 10, scale = 0.1},
    {name = "scores", operator = "softmax"},
]
"""


@pytest.fixture
def tiny(tmp_path):
    """Writes TINY, a piece of it replaced by another, and gives its path."""

    def write(old="", new="", *, text=TINY):
        assert old in text
        path = tmp_path / "tiny.toml"
        path.write_text(text.replace(old, new, 1) if old else text)
        return path

    return write


@pytest.fixture
def stored(tmp_path):
    """A small table saved with its weights; gives the .toml's path."""
    path = tmp_path / "stored.toml"
    save(from_document(tomllib.loads(TINY), where="TINY"), path)
    return path


def assert_equal(one, other):
    """The two tables are the same in every field, arrays in shape, type and value."""
    assert (one.name, list(one.inputs.items()), one.outputs) == (other.name, list(other.inputs.items()), other.outputs)
    for left, right in zip(one.layers, other.layers, strict=True):
        for field in fields(Layer):
            a, b = getattr(left, field.name), getattr(right, field.name)
            if isinstance(a, np.ndarray):
                assert (a.dtype, a.shape) == (b.dtype, b.shape), (left.name, field.name)
                assert np.array_equal(a, b), (left.name, field.name)
            else:
                assert (type(a), a) == (type(b), b), (left.name, field.name)


def test_what_rows_leave_out(tiny):
    table = load(tiny())
    conv, dw, pool, logits, scores = table.layers
    six = Quantization(float(np.float32(6 / 255)), -128)
    assert table.inputs == {"image": TensorType((8, 8, 3), "int8", Quantization(0.0078125, -1))}
    assert (conv.inputs, conv.output, conv.padding) == (("image",), TensorType((4, 4, 4), "int8", six), (0, 1, 0, 1))
    assert (conv.kernel, conv.stride, conv.clamp, conv.weights.shape) == ((3, 3), (2, 2), (-128, 127), (4, 3, 3, 3))
    assert (dw.inputs, dw.kernel, dw.stride, dw.weights.shape) == (("conv",), (3, 1), (1, 1), (3, 1, 4))
    assert (pool.kernel, pool.output) == ((4, 4), TensorType((1, 1, 4), "int8", six))
    assert logits.output == TensorType((10,), "int8", Quantization(float(np.float32(0.1)), 0))
    assert (logits.weights.shape, logits.activation) == ((10, 4), "none")
    assert (scores.output, table.outputs) == (TensorType((10,), "int8", Quantization(1 / 256, -128)), ("scores",))


def test_the_name_may_come_from_the_file(tiny):
    path = tiny('name = "tiny"', "")
    assert load(path.rename(path.with_name("other.toml"))).name == "other"


@pytest.mark.parametrize(
    "activation, scale, zero_point, clamp",
    [
        ("relu", 0.05, 3, (3, 127)),
        ("relu6", 0.05, -100, (-100, 20)),
        ("relu6", 0.08, 0, (0, 75)),
        ("relu6", 4.0, 5, (5, 7)),  # 6 / 4 = 1.5 rounds away from zero
        ("relu6", 1e-40, 0, (0, 127)),
        ("none", 0.05, 3, (-128, 127)),
    ],
)
def test_clamp_follows_the_activation(activation, scale, zero_point, clamp):
    document = tomllib.loads(TINY)
    document["layers"][0] |= {"activation": activation, "scale": scale, "zero_point": zero_point}
    del document["weights"]
    assert from_document(document, where="x")["conv"].clamp == clamp


def test_same_random_weights_as_the_builder():
    table = mobilenet_v1(0.25, 32, classes=4, seed=9)
    rows = [
        {"name": "conv1", "operator": "conv2d", "channels": 8, "kernel": 3, "stride": 2, "padding": "same"}
        | {"activation": "relu6"}
    ]
    image = {"shape": [32, 32, 3], "scale": 1 / 127.5, "zero_point": -1}
    document = {"weights": {"seed": 9}, "inputs": {"image": image}, "layers": rows}
    conv1 = from_document(document, where="x")["conv1"]
    assert np.array_equal(conv1.weights, table["conv1"].weights)
    assert np.array_equal(conv1.weight_scales, table["conv1"].weight_scales)


@pytest.mark.parametrize("seed", range(80))
def test_round_trip_of_random_tables(tmp_path, seed):
    table = random_table(np.random.default_rng(seed), layers=6, outputs=1 + seed % 3)
    save(table, tmp_path / "x.toml")
    assert_equal(load(tmp_path / "x.toml"), table)


def test_round_trip_of_a_builder(tmp_path):
    table = mobilenet_v1(0.25, 32, classes=4)
    save(table, tmp_path / "deep" / "x.toml")
    read = load(tmp_path / "deep" / "x.toml")
    assert_equal(read, table)
    first, again = ((tmp_path / "deep" / f"x.{suffix}").read_bytes() for suffix in ("toml", "npz"))
    save(read, tmp_path / "y.toml")
    assert ((tmp_path / "y.toml").read_bytes(), (tmp_path / "y.npz").read_bytes()) == (first, again)


def test_round_trip_of_published_models(models_dir, tmp_path):
    paths = sorted(models_dir.glob("*.tflite"))
    assert len(paths) >= 11
    for path in paths:
        table = load_tflite(path)
        save(table, tmp_path / f"{path.stem}.toml")
        assert_equal(load(tmp_path / f"{path.stem}.toml"), table)


def test_round_trip_of_names_and_several_inputs(tmp_path):
    text = """
    inputs."a/b;c" = {shape = [4, 4, 2], scale = 0.5}
    inputs."ünï \\"q\\" \\\\" = {shape = [5], dtype = "float32"}
    outputs = ["conv/1.x", "q", "p"]
    layers = [
        {name = "conv/1.x", operator = "conv2d", channels = 1, scale = 0.5, zero_point = 7, clamp = [-3, 9]},
        {name = "q", operator = "quantize", inputs = "ünï \\"q\\" \\\\", scale = 1, zero_point = 200, dtype = "uint8"},
        {name = "p", operator = "pad", inputs = ["a/b;c"], padding = [0, 1, 2, 3]},
        {name = "file", operator = "mean", shape = [1, 1, 2], scale = 0.25},
    ]
    weights = {seed = 3}
    """
    table = from_document(tomllib.loads(text), where="x")
    assert (table["conv/1.x"].clamp, table["p"].output.shape) == ((-3, 9), (5, 9, 2))
    assert (table["file"].inputs, table["file"].output.shape) == (("p",), (1, 1, 2))
    save(table, tmp_path / "x.toml")
    assert_equal(load(tmp_path / "x.toml"), table)


SEVERAL = """
weights = {seed = 2}
inputs.image = {shape = [8, 8, 3], scale = 0.0078125, zero_point = -1}
outputs = ["joined", "rest"]
layers = [
    {name = "twice", operator = "mul", constant = {value = 127, scale = 0.015748}, scale = 0.0078125, zero_point = -1},
    {name = "rest", operator = "sub", constant = {value = [1, -2, 3], scale = 0.1, first = true}, scale = 0.02},
    {name = "wide", operator = "depthwise_conv2d", channels = 6, kernel = 3, padding = "same", activation = "relu6"},
    {name = "narrow", operator = "conv2d", channels = 3, scale = 0.05},
    {name = "skip", operator = "add", inputs = ["narrow", "twice"], activation = "relu", scale = 0.1, zero_point = -9},
    {name = "peak", operator = "max_pool2d", kernel = 3, padding = "same"},
    {name = "rows", operator = "concatenation", inputs = ["peak", "skip", "peak"], axis = 0},
    {name = "joined", operator = "concatenation", inputs = ["rows", "rows"]},
    {name = "top", operator = "max_pool2d"},
]
"""


def test_operators_on_several_tensors(tmp_path):
    path = tmp_path / "several.toml"
    path.write_text(SEVERAL)
    table = load(path)
    twice, rest, wide, narrow, skip, peak, rows, joined, top = table.layers
    assert (twice.constant.shape, int(twice.constant), twice.constant_first) == ((), 127, False)
    assert twice.constant_quantization == Quantization(float(np.float32(0.015748)), 0)
    assert (rest.constant.tolist(), rest.constant.dtype, rest.constant_first) == ([1, -2, 3], np.int8, True)
    assert (wide.output.shape, wide.weights.shape, wide.bias.shape) == ((8, 8, 6), (3, 3, 6), (6,))
    assert (skip.inputs, skip.clamp, skip.output.shape) == (("narrow", "twice"), (-9, 127), (8, 8, 3))
    assert peak.output == skip.output and peak.padding == (1, 1, 1, 1)
    assert (rows.axis, rows.output.shape, rows.output.quantization) == (0, (24, 8, 3), skip.output.quantization)
    assert (joined.axis, joined.output.shape, top.kernel, top.output.shape) == (2, (24, 8, 6), (24, 8), (1, 1, 6))
    tensors = golden.run(table, {"image": np.random.default_rng(0).integers(-128, 128, (8, 8, 3), np.int8)})
    assert len(np.unique(tensors["wide"])) > 20
    save(table, tmp_path / "again.toml")
    assert_equal(load(tmp_path / "again.toml"), table)
    lines = (tmp_path / "again.toml").read_text().splitlines()
    assert lines[4] == (
        '    {name = "twice", operator = "mul", constant = {value = 127, scale = 0.015748, zero_point = 0}, '
        "scale = 0.0078125, zero_point = -1},"
    )
    assert "constant = {value = [1, -2, 3], scale = 0.1, zero_point = 0, first = true}" in lines[5]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value = 127", "value = 128", "twice: constant: value: must be an integer in -128..127, not 128"),
        ("value = 127", "value = []", "twice: constant: value: must be a number, or lists of equal lengths up to four"),
        ("[1, -2, 3]", "[1, [2], 3]", "rest: constant: value: must be an integer in -128..127, not [2]"),
        ("[1, -2, 3]", "[[1, 2], 3]", "rest: constant: value: must be a number, or lists of equal lengths up to four"),
        ("[1, -2, 3]", "[[[[[1]]]]]", "rest: constant: value: must be a number, or lists of equal lengths up to four"),
        ("[1, -2, 3]", "[1, -2]", "rest: constant must be int8 and broadcast to (8, 8, 3), not int8 (2,)"),
        ("value = 127", "walue = 127", "twice: constant: field must be one of value, scale, zero_point, first, not"),
        ("value = 127, ", "", "twice: constant: value: must be an integer in -128..127, not None"),
        (", scale = 0.015748", "", "twice: constant: scale must be a positive number that float32 can hold, not None"),
        ("{value = 127, scale = 0.015748}", "127", "twice: constant: must be {value = n, scale = s, zero_point = z}"),
        ("first = true", "first = 1", "rest: constant: first must be true or false, not 1"),
        ("scale = 0.015748", "scale = 0.015748, first = true", "twice: only a sub of a constant can have it first"),
        ("channels = 6", "channels = 7", "wide: must make a multiple of its 3 channels, not 7"),
        ('["narrow", "twice"]', '["narrow"]', "skip: must read two tensors, or one and a constant, not 1"),
        ('["narrow", "twice"]', '["narrow", "wide"]', "skip: must read and make tensors of one shape, not (8, 8, 6)"),
        (" scale = 0.1, zero_point = -9", " scale = 1e-8", "skip: output scale must be above 2**-19 times the greater"),
        ("[1, -2, 3], scale = 0.1", "1, scale = 3e38", "rest: output scale must be above 2**-19 times the greater of"),
        ("0.015748", "2e5", "twice: the accumulator of channel 0, -16129 to 16256 at worst, shifted left by 18 must"),
        ("0.015748", "3e38", "twice: the accumulator of channel 0, "),
        ("axis = 0", "axis = 3", "rows: axis: must be an integer in 0..2, not 3"),
        ("axis = 0", "axis = -1", "rows: axis: must be an integer in 0..2, not -1"),
        ('["peak", "skip", "peak"]', '["peak", "narrow"]', "rows: must keep its quantisation Quantization(scale="),
        ('["rows", "rows"]', '["rows", "peak"]', "joined: cannot make (24, 8, 6) of (24, 8, 3), "),
        ('kernel = 3, padding = "same"}', "kernel = 2, padding = [2, 0, 0, 0]}", "peak: padding must be smaller than"),
        ('"max_pool2d"}', '"max_pool2d", scale = 1}', "top (max_pool2d): field must be one of name, operator, inputs"),
        ('"max_pool2d"}', '"pad", inputs = ["rows", "rows"]}', "top: must read one tensor, not 2"),
    ],
)  # fmt: skip
def test_bad_operators_on_several_tensors(tiny, old, new, message):
    assert old in SEVERAL
    # The last place: where a piece of text stands more than once, the later row is meant.
    path = tiny(text=new.join(SEVERAL.rsplit(old, 1)))
    with pytest.raises(GenError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_random_weights_keep_small_tables_alive(tiny):
    table = load(tiny())
    tensors = golden.run(table, {"image": np.random.default_rng(0).integers(-128, 128, (8, 8, 3), np.int8)})
    assert len(np.unique(tensors["conv"])) > 20
    assert len(np.unique(tensors["logits"])) > 4


LAYER = (
    '{name = "conv", operator = "conv2d", channels = 4, kernel = 3, stride = 2, padding = "same", activation = "relu6"}'
)
ACTIVATIONS = "none, relu, relu6"
SIZES = 2**26


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("name", "nome", "field must be one of name, weights, inputs, layers, outputs, not 'nome'"),
        ('"tiny"', "7", "name: must be a name in printable characters, not 7"),
        ('"tiny"', '"a\\u0000"', "name: must be a name in printable characters, not 'a\\x00'"),
        ("{seed = 1}", "3", "weights must be {seed = n} or be left out, not 3"),
        ("{seed = 1}", "{seed = -1}", f"weights: seed: must be an integer in 0..{2**63 - 1}, not -1"),
        ("{seed = 1}", "{sead = 1}", "weights must be {seed = n} or be left out, not {'sead': 1}"),
        ("inputs.image", "inputs", "input shape: must be a table, not [8, 8, 3]"),
        ("[8, 8, 3]", "[8, 8, 0]", f"input image: shape: must be an integer in 1..{SIZES}, not 0"),
        ("[8, 8, 3]", "8", "input image: shape: must be a list of one to four sizes, not 8"),
        ("[8, 8, 3]", "[99999, 99999]", f"input image: shape: must have at most {SIZES} elements, not 9999800001"),
        ("[8, 8, 3]", "[192]", "conv: image must have (height, width, channels), not (192,)"),
        ("zero_point = -1", "zero_point = -129", "input image: zero_point: must be an integer in -128..127, not -129"),
        ("zero_point = -1", "zero_point = true", "input image: zero_point: must be an integer in -128..127, not True"),
        (
            "scale = 0.0078125",
            "scale = nan",
            "input image: scale must be a positive number that float32 can hold, not nan",
        ),
        ("0.0078125", "1e-60", "input image: scale must be a positive number that float32 can hold, not 1e-60"),
        ("0.0078125", "1e60", "input image: scale must be a positive number that float32 can hold, not 1e+60"),
        (
            "zero_point = -1",
            'dtype = "float32"',
            "input image: scale must be left out of a float32 tensor, not 0.0078125",
        ),
        ("zero_point = -1", 'dtype = "int4"', "input image: dtype: must be one of int8, uint8, float32, not 'int4'"),
        ("zero_point = -1", 'dtype = "uint8"', "conv: image must be int8 for a conv2d, not uint8"),
        (LAYER, "3", "layer 1: must be a table, not 3"),
        (LAYER, "{}", "layer 1: name: must be a name in printable characters, not None"),
        ('"conv2d"', '"conv3d"', "conv: operator: must be one of conv2d, depthwise_conv2d"),
        ("channels = 4", "channels = 0", f"conv: channels: must be an integer in 1..{SIZES}, not 0"),
        ("channels = 4, ", "", f"conv: channels: must be an integer in 1..{SIZES}, not None"),
        ("channels = 4", "channels = 67000000", f"conv: output must have at most {SIZES} elements, not 1072000000"),
        ("channels = 10", "channels = 60000000", f"logits: must have at most {SIZES} weights, not 240000000"),
        ("channels = 10", "channels = 4096", "scores: must have at most 4095 classes, not 4096"),
        ("kernel = 3,", "kernel = [3],", "conv: kernel: must be a list of 2 integers, not [3]"),
        ("kernel = 3,", "kernel = 0,", "conv: kernel: must be an integer in 1..255, not 0"),
        ("kernel = 3,", "kernal = 3,", "conv (conv2d): field must be one of name, operator, inputs, channels, kernel"),
        ("stride = 2", "stride = 3", "conv: stride must be 1 or 2, not 3"),
        ('"same"', '"some"', 'conv: padding must be "same", "valid" or [above, below, left, right], not \'some\''),
        ('"same"', "[1, 1]", "conv: padding: must be a list of 4 integers, not [1, 1]"),
        ("[1, 1, 0, 0]", "[1, -1, 0, 0]", f"dw: padding: must be an integer in 0..{SIZES}, not -1"),
        ("[3, 1]", "[9, 1]", "dw: kernel (9, 1) does not fit into (4, 4, 4) with padding (1, 1, 0, 0)"),
        ('"relu6"', '"tanh"', f"conv: activation: must be one of {ACTIVATIONS}, not 'tanh'"),
        ('"relu6"', '["relu6"]', f"conv: activation: must be one of {ACTIVATIONS}, not ['relu6']"),
        ('activation = "relu6"', "scale = 0", "conv: scale must be a positive number that float32 can hold, not 0"),
        (", scale = 0.1", "", "logits: scale must be a positive number that float32 can hold, not None"),
        ("scale = 0.1", "scale = 0.1, clamp = [0, 128]", "logits: clamp: must be an integer in -128..127, not 128"),
        ("scale = 0.1", "scale = 0.1, clamp = [3, 2]", "tiny: logits: clamp must be ascending within -128..127"),
        ("scale = 0.1", 'scale = 0.1, inputs = "dv"', "logits: inputs: must name inputs or layers above, not 'dv'"),
        ("scale = 0.1", "scale = 0.1, inputs = []", "logits: inputs: must name at least one input or layer"),
        ("0.0078125", "1e-44", "tiny: conv: scale is too far from the input's for weight scales in float32"),
        ('"dw"', '"conv"', "tiny: conv: the name is taken already"),
        ('"average_pool2d"', '"average_pool2d", kernel = 2, padding = [2, 0, 0, 0]', "pool: padding must be smaller"),
        ('operator = "softmax"', 'operator = "softmax", scale = 1', "scores (softmax): field must be one of"),
        ('"softmax"', '"dequantize"}, {name = "z", operator = "softmax"', "z: scores must be int8 for a softmax"),
        ("layers", 'outputs = ["image"]\nlayers', "outputs: must name inputs or layers above, not 'image'"),
        ("channels = 4", f"channels = 0x{'f' * 5000}", "not an integer of 20000 bits"),
        ("0.0078125", f"0x{'f' * 5000}", "that float32 can hold, not an integer of 20000 bits"),
    ],
)
def test_bad_documents(tiny, old, new, message):
    path = tiny(old, new)
    with pytest.raises(GenError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "x", "layers = 3\ninputs.a = {shape = [1], scale = 1}", "inputs = {}", "inputs = 3"]
)
def test_documents_without_a_network(tiny, text):
    path = tiny(text=text)
    with pytest.raises(GenError, match="tiny.toml: "):
        load(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x = " + b"[" * 100_000, b"x = " + b"9" * 5000, b"\0"])
def test_not_toml(tmp_path, content):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(GenError, match="x.toml: is no TOML: "):
        load(path)


def test_no_file(tmp_path):
    with pytest.raises(GenError, match="nothing.toml: cannot be read: No such file"):
        load(tmp_path / "nothing.toml")
    with pytest.raises(GenError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_accumulators_must_fit_int32(stored):
    arrays = dict(np.load(stored.with_suffix(".npz")))
    arrays["conv.bias"] = np.array([0, 2**31 - 5, 0, 0], np.int32)
    np.savez(stored.with_suffix(".npz"), **arrays)
    with pytest.raises(GenError, match="stored.toml: conv: the accumulator of channel 1, .* must fit int32"):
        load(stored)
    arrays["conv.bias"] = np.array([0, 2**29, 0, 0], np.int32)
    arrays["conv.weight_scales"] = np.full(4, 20, np.float32)
    np.savez(stored.with_suffix(".npz"), **arrays)
    with pytest.raises(GenError, match="stored.toml: conv: the accumulator of channel 1, .* shifted left by 3"):
        load(stored)


def replace_array(path, key, array):
    arrays = dict(np.load(path.with_suffix(".npz")))
    if array is None:
        del arrays[key]
    else:
        arrays[key] = array
    np.savez(path.with_suffix(".npz"), **arrays)


@pytest.mark.parametrize(
    "key, array, message",
    [
        ("conv.weights", None, "conv.weights: is missing from the archive"),
        (
            "conv.weights",
            np.zeros((4, 3, 3, 3), np.float32),
            r"must be int8 \(4, 3, 3, 3\), not float32 \(4, 3, 3, 3\)",
        ),
        ("conv.weights", np.zeros((3, 3, 3, 4), np.int8), r"must be int8 \(4, 3, 3, 3\), not int8 \(3, 3, 3, 4\)"),
        ("dw.bias", np.zeros(4, ">i4"), r"dw.bias: must be int32 \(4,\), not >i4 \(4,\)"),
        ("dw.weight_scales", np.zeros(1, np.float32), r"must be float32 \(4,\), not float32 \(1,\)"),
        ("logits.weight_scales", np.zeros(3, np.float32), r"must be float32 \(1,\) or \(10,\), not float32 \(3,\)"),
        ("logits.weight_scales", np.array([np.nan], np.float32), "logits: weight_scales must be positive, not nan"),
        ("logits.bias", np.array([None] * 10), r"logits.bias: must be int32 \(10,\), not object \(10,\)"),
    ],
)
def test_bad_arrays(stored, key, array, message):
    replace_array(stored, key, array)
    with pytest.raises(GenError, match=message):
        load(stored)


def test_a_single_scale_of_a_fully_connected_layer(stored):
    replace_array(stored, "logits.weight_scales", np.array([0.25], np.float32))
    assert load(stored)["logits"].weight_scales.tolist() == [0.25]


def test_no_weights_file(stored):
    stored.with_suffix(".npz").unlink()
    with pytest.raises(GenError, match=r"stored.npz: not found; .*stored.toml has its weights there unless it says"):
        load(stored)


def test_a_header_that_claims_more_than_memory_allocates_nothing(stored):
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "|i1", "fortran_order": False, "shape": (2**60,)})
    with zipfile.ZipFile(stored.with_suffix(".npz"), "w") as archive:
        archive.writestr("conv.weights.npy", huge.getvalue())
    with pytest.raises(GenError, match=r"must be int8 \(4, 3, 3, 3\), not int8 \(1152921504606846976,\)"):
        load(stored)


DAMAGE = settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@DAMAGE
@given(st.data())
def test_damaged_archives(stored, data):
    whole = stored.with_suffix(".npz").read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = stored.with_name("damaged.toml")
    path.write_bytes(stored.read_bytes())
    path.with_suffix(".npz").write_bytes(bytes(damaged))
    try:
        load(path)
    except GenError as error:
        assert "damaged.npz: " in str(error) or "damaged.toml: " in str(error)


@DAMAGE
@given(st.data())
def test_damaged_text(tiny, data):
    text = data.draw(st.sampled_from([TINY, SEVERAL]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 8)))
        text = text[:start] + data.draw(st.text(st.sampled_from('{}[]",= .\n-0179eaxn_#\\'), max_size=4)) + text[end:]
    path = tiny(text=text)
    try:
        load(path)
    except GenError as error:
        assert str(path.with_suffix("")) in str(error)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["conv", "image"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["seed", "shape", "scale"]), inner),
    max_leaves=5,
)


@DAMAGE
@given(st.data())
def test_any_value_anywhere(data):
    document = tomllib.loads(data.draw(st.sampled_from([TINY, SEVERAL])))
    if data.draw(st.booleans()):
        del document["weights"]
    constants = [row["constant"] for row in document["layers"] if "constant" in row]
    place = data.draw(st.sampled_from([document, document["inputs"]["image"], *document["layers"], *constants]))
    fields = ("outputs", "shape", "dtype", "inputs", "clamp", "padding", "stride", "constant", "axis", "value")
    field = data.draw(st.sampled_from([*place, *fields]))
    place[field] = data.draw(VALUES)
    before = copy.deepcopy(document)
    try:
        from_document(document, where="here")
    except GenError as error:
        assert str(error).startswith("here: ")
    assert repr(document) == repr(before)


def test_save_refuses(tmp_path, stored):
    table = load(stored)
    with pytest.raises(GenError, match="x.txt: a layer table's file must end in .toml"):
        save(table, tmp_path / "x.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(GenError, match="x.toml: cannot be written: "):
        save(table, tmp_path / "file" / "x.toml")
