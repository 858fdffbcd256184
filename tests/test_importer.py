"""The importer: published models, generated ones, and files that nobody should trust."""

import dataclasses
import time
import tracemalloc

import numpy as np
import pytest
import tflite
import tflite_writer
from random_tables import KINDS, random_input, random_table
from tflite_writer import _Writer, write_tflite

from gen import tflite_file
from gen.errors import GenError
from gen.importer import _names, import_tflite, load_tflite
from gen.table import Layer, Quantization, Table, TensorType
from gen.tflite_operators import worst_case
from sim import golden

#: A quantisation in the middle of a network runs on nothing that this project has.
IMPORTABLE_KINDS = [kind for kind in KINDS if kind != "quantize"]


def assert_same_table(actual, expected):
    assert (actual.name, actual.inputs, actual.outputs) == (expected.name, expected.inputs, expected.outputs)
    assert [layer.name for layer in actual.layers] == [layer.name for layer in expected.layers]
    for one, other in zip(actual.layers, expected.layers, strict=True):
        for field in dataclasses.fields(Layer):
            a, b = getattr(one, field.name), getattr(other, field.name)
            same = a.dtype == b.dtype and np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
            assert same, f"{one.name}: {field.name} is {a}, not {b}"


def weighted(name, operator, source, shape, weights, quantization, **fields):
    channels = shape[-1]
    fields = {"bias": np.arange(channels, dtype=np.int32), "clamp": (-128, 127)} | fields
    scales = np.linspace(0.01, 0.02, channels, dtype=np.float32)
    output = TensorType(shape, "int8", quantization)
    return Layer(name, operator, (source,), output, weights=weights, weight_scales=scales, **fields)


def network():
    """A small network with one of every operator that is no host's, a branch, and two outputs."""
    rng = np.random.default_rng(5)
    q = Quantization(0.5, 3)
    square = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}

    def ints(*shape):
        return rng.integers(-128, 128, shape).astype(np.int8)

    layers = (
        weighted(
            "conv", "conv2d", "image", (6, 6, 4), ints(4, 3, 3, 2), q, activation="relu", **square | {"clamp": (3, 127)}
        ),
        Layer("pad", "pad", ("conv",), TensorType((7, 8, 4), "int8", q), padding=(0, 1, 1, 1)),
        weighted("dw", "depthwise_conv2d", "pad", (3, 3, 4), ints(3, 3, 4), q, kernel=(3, 3), stride=(2, 2)),
        Layer("pool", "average_pool2d", ("dw",), TensorType((1, 1, 4), "int8", q), kernel=(3, 3), stride=(1, 1)),
        Layer("flat", "reshape", ("pool",), TensorType((4,), "int8", q)),
        weighted("fc", "fully_connected", "flat", (5,), ints(5, 4), Quantization(0.25, -7)),
        Layer("mean", "mean", ("conv",), TensorType((4,), "int8", Quantization(0.25, 0))),
        Layer("softmax", "softmax", ("fc",), TensorType((5,), "int8", Quantization(1 / 256, -128))),
    )
    return Table("net", {"image": TensorType((6, 6, 2), "int8", Quantization(0.5, 5))}, layers, ("softmax", "mean"))


class EditedWriter(_Writer):
    """Writes a table with some records changed.

    ``edits`` maps the kind of a record to fields that replace its own, and ``tensor NAME`` to a function that takes the
    writer and returns arguments of ``_tensor`` that replace the tensor's own.
    """

    def __init__(self, table, edits):
        self.edits = edits
        super().__init__(table)

    def _record(self, kind, **fields):
        return super()._record(kind, **(fields | self.edits.get(kind, {})))

    def _tensor(self, name, shape, dtype, quantization, buffer):
        arguments = {"name": name, "shape": shape, "dtype": dtype, "quantization": quantization, "buffer": buffer}
        edit = self.edits.get(f"tensor {name}")
        return super()._tensor(**(arguments | (edit(self) if edit else {})))


def refusal(edits, table=None):
    """The message about the network with ``edits``."""
    with pytest.raises(GenError) as caught:
        import_tflite(EditedWriter(table or network(), edits).file(), "net")
    return str(caught.value)


def quantized(scales, zero_points, dimension=0):
    return lambda writer: {"quantization": writer._quantization(scales, zero_points, dimension)}


# Models that can be imported


@pytest.mark.parametrize(
    ("model", "layers", "macs", "parameters", "output"),
    [
        ("ad01_int8", 10, 264_192, 265_864, "fc9"),
        ("kws_ref_model", 13, 2_656_768, 22_604, "softmax12"),
        ("micro_speech_quantized", 4, 336_000, 16_652, "labels_softmax"),
        ("mobilenetv2_160_035", 68, 29_597_360, 391_652, "final_result_0_int8"),
        ("person_detect", 31, 7_157_888, 210_706, "Predictions"),
        ("person_detect_fixed", 31, 7_157_888, 210_706, "Predictions"),
        ("pretrainedResnet_quant", 16, 12_501_632, 77_706, "softmax15"),
        ("tf2_mobilenet_v2_1.0_224_ptq", 68, 300_775_552, 3_489_097, "quantize67"),
        ("tinymaix_mbnet128_0.25_q", 35, 13_570_048, 467_336, "softmax37"),
        ("tinymaix_mnist_resnet_q", 8, 499_824, 22_690, "softmax7"),
        ("vww_96_int8", 31, 7_489_664, 210_850, "softmax30"),
    ],
)
def test_published_model(models_dir, model, layers, macs, parameters, output):
    table = load_tflite(models_dir / f"{model}.tflite")
    assert (table.name, len(table.layers), table.macs, table.parameters) == (model, layers, macs, parameters)
    assert table.outputs == (output,)


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("ad01_int8", "normal_0"),
        ("kws_ref_model", "left_2"),
        ("micro_speech_quantized", None),
        ("mobilenetv2_160_035", "00001_7281"),
        ("person_detect_fixed", None),
        ("pretrainedResnet_quant", "frog"),
        ("tf2_mobilenet_v2_1.0_224_ptq", "cat"),
        ("tinymaix_mbnet128_0.25_q", None),
        ("tinymaix_mnist_resnet_q", None),
        ("vww_96_int8", "yes_0"),
    ],
)
def test_published_model_computes_what_the_reference_kernels_do(models_dir, inputs_dir, model, source):
    pytest.importorskip("ai_edge_litert")
    from oracle import run_reference

    path = models_dir / f"{model}.tflite"
    table = load_tflite(path)
    inputs = random_input(np.random.default_rng(1), table)
    if source:
        inputs = {name: np.load(inputs_dir / f"{model}__{source}.npy")[0] for name in inputs}
    expected = run_reference(path, list(inputs.values()))
    actual = golden.run(table, inputs)
    graph = tflite_file.read(path.read_bytes(), model)
    names = {name: graph.tensors[index].name for index, name in _names(graph).items() if name in actual}
    assert len(names) == len(table.layers) + 1
    for name, theirs in names.items():
        np.testing.assert_array_equal(actual[name], expected[theirs][0], err_msg=name)


def test_bias_with_a_quantised_dimension_that_it_does_not_have(models_dir):
    """person_detect's biases have one dimension and carry quantized_dimension 3, which means nothing."""
    published = load_tflite(models_dir / "person_detect.tflite")
    fixed = load_tflite(models_dir / "person_detect_fixed.tflite")
    assert_same_table(dataclasses.replace(published, name=fixed.name), fixed)


def test_first_layer_of_vww(models_dir):
    table = load_tflite(models_dir / "vww_96_int8.tflite")
    assert table.inputs == {
        "input_1_int8": TensorType((96, 96, 3), "int8", Quantization(float(np.float32(1 / 255)), -128))
    }
    layer = table.layers[0]
    assert (layer.kernel, layer.stride, layer.padding) == ((3, 3), (2, 2), (0, 1, 0, 1))
    assert (layer.activation, layer.clamp, layer.output.shape) == ("relu", (-128, 127), (48, 48, 8))
    assert (layer.weights.shape, layer.bias.shape, layer.weight_scales.shape) == ((8, 3, 3, 3), (8,), (8,))


def test_preamble_and_residuals_of_mobilenet_v2(models_dir):
    table = load_tflite(models_dir / "mobilenetv2_160_035.tflite")
    double, less_one = table.layers[:2]
    assert (double.operator, double.inputs, double.constant.shape) == ("mul", ("Placeholder_0_int8",), ())
    assert (less_one.operator, less_one.inputs, less_one.constant_first) == ("sub", (double.name,), False)
    for layer, real in ((double, 2), (less_one, 1)):
        assert layer.constant_quantization.scale * int(layer.constant) == pytest.approx(real)
    adds = [layer for layer in table.layers if layer.operator == "add"]
    assert len(adds) == 10 and all(layer.constant is None for layer in adds)
    assert adds[0].inputs == ("conv10", "conv7")


@pytest.mark.parametrize("seed", range(80))
def test_random_table_comes_back(seed):
    table = random_table(np.random.default_rng(seed), kinds=IMPORTABLE_KINDS, outputs=1 + seed % 3)
    assert_same_table(import_tflite(write_tflite(table), table.name), table)


def test_branches_and_several_outputs_come_back():
    assert_same_table(import_tflite(write_tflite(network()), "net"), network())


def test_load_names_the_table_after_the_file(tmp_path):
    path = tmp_path / "some.model.tflite"
    path.write_bytes(write_tflite(network()))
    assert load_tflite(path).name == load_tflite(str(path)).name == "some.model"


def test_relu6_clamps_in_float32():
    """With this scale, 6 / scale is a tie in float32, but just off it in double precision."""
    scale = float(np.float32(6 / 99.5))
    assert np.float32(6) / np.float32(scale) == 99.5 and 6 / scale < 99.5
    q = Quantization(scale, -128)
    high = -128 + 100
    ones = np.ones((1, 1, 1, 1), np.int8)
    conv = weighted("conv", "conv2d", "x", (1, 1, 1), ones, q, activation="relu6", clamp=(-128, high))
    table = Table("net", {"x": TensorType((1, 1, 1), "int8", Quantization(0.5, 0))}, (conv,), ("conv",))
    assert import_tflite(write_tflite(table), "net")["conv"].clamp == (-128, high)


def test_bias_left_out_is_zero():
    class Writer(_Writer):
        def _constants(self, layer):
            constants = super()._constants(layer)
            if layer.name == "conv":
                return constants[:1]
            return [constants[0], -1] if layer.name == "fc" else constants

    table = import_tflite(Writer(network()).file(), "net")
    assert not table["conv"].bias.any() and not table["fc"].bias.any() and table["dw"].bias.any()
    assert table["conv"].bias.dtype == np.int32


def test_one_scale_for_all_channels_of_a_convolution_is_spread():
    edits = {
        "tensor conv/weights": quantized([0.01], [0]),
        "tensor conv/bias": quantized([0.005], [0]),
        "tensor fc/weights": quantized([0.01], [0]),
        "tensor fc/bias": quantized([0.005], [0]),
    }
    table = import_tflite(EditedWriter(network(), edits).file(), "net")
    np.testing.assert_array_equal(table["conv"].weight_scales, np.full(4, 0.01, np.float32))
    np.testing.assert_array_equal(table["fc"].weight_scales, np.full(1, 0.01, np.float32))


def test_depthwise_of_one_channel_into_many_is_a_convolution():
    rng = np.random.default_rng(6)
    weights = rng.integers(-128, 128, (5, 3, 2, 1)).astype(np.int8)
    conv = weighted("conv", "conv2d", "x", (2, 4, 5), weights, Quantization(0.5, 3), kernel=(3, 2))
    table = Table("net", {"x": TensorType((4, 5, 1), "int8", Quantization(0.5, 5))}, (conv,), ("conv",))

    class Writer(_Writer):
        def _constant(self, name, array, scales=None, dimension=0):
            depthwise = name == "conv/weights"
            return super()._constant(name, array.transpose(3, 1, 2, 0) if depthwise else array, scales, 3)

        def _record(self, kind, **fields):
            if kind == "OperatorCode":
                code = tflite.BuiltinOperator.DEPTHWISE_CONV_2D
                fields |= {"builtin_code": code, "deprecated_builtin_code": code}
            if kind == "Operator":
                options = super()._record(
                    "DepthwiseConv2DOptions", padding=1, stride_h=1, stride_w=1, depth_multiplier=5
                )
                kind_of_options = tflite.BuiltinOptions.DepthwiseConv2DOptions
                fields |= {"builtin_options_type": kind_of_options, "builtin_options": options}
            return super()._record(kind, **fields)

    assert_same_table(import_tflite(Writer(table).file(), "net"), table)


def test_names():
    paths = {
        "conv": "net/conv_1/Relu;net/conv_1/BiasAdd",  # fused of several: says too little
        "pad": "MobilenetV1/Conv2d_2_pad/Pad",
        "dw": "MobilenetV1/MobilenetV1/Conv2d_2_depthwise/Relu6",
        "pool": "AvgPool:0",
        "flat": "net/same/Reshape",
        "fc": "net/same/BiasAdd",
        "mean": "mean of the image: half\n\x1b[31m",
        "softmax": "StatefulPartitionedCall:0",
    }
    edits = {f"tensor {name}": lambda writer, path=path: {"name": path} for name, path in paths.items()}
    edits["tensor image"] = lambda writer: {"name": "serving_default_image:0"}
    table = import_tflite(EditedWriter(network(), edits).file(), "net")
    assert list(table.inputs) == ["serving_default_image"]
    assert " ".join(layer.name for layer in table.layers) == (
        "conv0 Conv2d_2_pad Conv2d_2_depthwise pool3 reshape4 fc5 mean_of_the_image_half_31m softmax7"
    )


def test_names_stay_unique_when_a_tensor_is_called_like_another_operator():
    edits = {
        "tensor conv": lambda writer: {"name": ""},
        "tensor pad": lambda writer: {"name": "conv0"},
        "tensor dw": lambda writer: {"name": "depthwise2"},
    }
    table = import_tflite(EditedWriter(network(), edits).file(), "net")
    assert [layer.name for layer in table.layers[:3]] == ["conv0", "pad1", "depthwise2"]


# Shapes that operators compute


class ComputedShapeWriter(_Writer):
    """Writes a reshape's shape as SHAPE, STRIDED_SLICE and PACK: [shape(source)[0], last]."""

    def __init__(self, table, last=-1, axis=0):
        self.last, self.axis = last, axis
        super().__init__(table)

    def _constants(self, layer):
        if layer.operator != "reshape":
            return super()._constants(layer)
        shape = self._tensor("shape", (4,), "int32", None, 0)
        begin, end = (self._constant(f"at{i}", np.array([i], np.int32)) for i in (self.axis, self.axis + 1))
        batch = self._tensor("batch", (), "int32", None, 0)
        last = self._constant("last", np.array(self.last, np.int32))
        packed = self._tensor("packed", (2,), "int32", None, 0)
        self._emit("SHAPE", "ShapeOptions", [self.indices[layer.inputs[0]]], shape)
        step = self._constant("step", np.array([1], np.int32))
        self._emit("STRIDED_SLICE", "StridedSliceOptions", [shape, begin, end, step], batch, shrink_axis_mask=1)
        self._emit("PACK", "PackOptions", [batch, last], packed, values_count=2)
        return [packed]

    def _emit(self, code, options, inputs, output, **fields):
        self.codes.append((getattr(tflite.BuiltinOperator, code), 1))
        operator = self._record(
            "Operator",
            opcode_index=len(self.codes) - 1,
            inputs=self._ints(inputs),
            outputs=self._ints([output]),
            builtin_options_type=getattr(tflite.BuiltinOptions, options),
            builtin_options=self._record(options, **fields),
        )
        self.operators.append(operator)


@pytest.mark.parametrize("last", [-1, 4])
def test_computed_shape_folds_away(last):
    assert_same_table(import_tflite(ComputedShapeWriter(network(), last).file(), "net"), network())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 0), "operator 7, flat: makes shape [1, 5], but its output is [1, 4]"),
        ((-1, 3), "operator 7, flat: makes shape [4, -1], but its output is [1, 4]"),
        ((-1, 9), "operator 5, batch: begin must lie in a shape of 4 sizes, not 9"),
    ],
)
def test_computed_shape_that_does_not_fit(arguments, message):
    with pytest.raises(GenError) as caught:
        import_tflite(ComputedShapeWriter(network(), *arguments).file(), "net")
    assert str(caught.value) == f"net: {message}"


# Models that cannot be imported


def test_every_unsupported_operator_is_listed(monkeypatch):
    for operator, code, options in (("add", "DIV", "DivOptions"), ("max_pool2d", "L2_POOL_2D", "Pool2DOptions")):
        monkeypatch.setitem(tflite_writer.OPERATORS, operator, (code, 1, options, True))
    assert refusal({}, several()).split("\n") == [
        "net: 3 problems",
        "  operator 0, peak: L2_POOL_2D is not supported",
        "  operator 3, skip: DIV is not supported",
        "  operator 6, offset: DIV is not supported",
    ]


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("PADV2", "pad with zeros, which becomes PAD"),
        ("RELU6", "convert again with a current converter, which fuses it into the convolution before it"),
    ],
)
def test_unsupported_operator_with_a_way_out(monkeypatch, code, hint):
    monkeypatch.setitem(tflite_writer.OPERATORS, "max_pool2d", (code, 1, "Pool2DOptions", True))
    assert refusal({}, several()) == f"net: operator 0, peak: {code} is not supported: {hint}"


@pytest.mark.parametrize(
    ("tensor_type", "description", "places"),
    [
        ("UINT8", "a legacy uint8 model, whose arithmetic is another", "conv, pad, dw, pool, flat"),
        ("FLOAT32", "a float model (float32 weights or activations)", "conv, pad, dw, pool, flat"),
        ("INT16", "a model with 16-bit activations", "image"),
    ],
)
def test_model_of_another_element_type(monkeypatch, tensor_type, description, places):
    monkeypatch.setitem(tflite_writer.TYPES, "int8", getattr(tflite.TensorType, tensor_type))
    layers = [layer for layer in network().layers if layer.name in ("conv", "pad", "dw", "pool", "flat")]
    table = Table("net", network().inputs, tuple(layers), ("flat",))
    message = refusal({}, table)
    assert message.startswith(f"net: this is {description} (at {places}): convert the float model")
    assert "TFLITE_BUILTINS_INT8" in message and "\n" not in message


def test_int8_weights_between_float_activations_are_a_float_model():
    floats = {f"tensor {name}": lambda writer: {"dtype": "float32", "quantization": None} for name in ("image", "conv")}
    assert "this is a float model (float32 weights or activations) (at conv" in refusal(floats)


EDITS = {
    "stride": ({"Conv2DOptions": {"stride_h": 3, "stride_w": 3}}, "operator 0, conv: stride must be 1 or 2, not 3"),
    "stride 0": ({"Conv2DOptions": {"stride_w": 0}}, "operator 0, conv: stride must be 1 or 2, not 0"),
    "negative stride": ({"Pool2DOptions": {"stride_h": -1}}, "operator 3, pool: stride must be 1 or 2, not -1"),
    "dilation": (
        {"DepthwiseConv2DOptions": {"dilation_h_factor": 2}},
        "operator 2, dw: dilation must be 1, not 2",
    ),
    "activation": (
        {"FullyConnectedOptions": {"fused_activation_function": 4}},
        "operator 5, fc: activation must be NONE, RELU or RELU6, not 4",
    ),
    "padding": ({"Conv2DOptions": {"padding": 2}}, "operator 0, conv: padding must be SAME or VALID, not 2"),
    "kernel": (
        {"Pool2DOptions": {"filter_height": 2**31 - 1, "padding": 0}},
        "operator 3, pool: kernel must be 1x1 to 255x255, not 2147483647x3",
    ),
    "window too large": (
        {"Pool2DOptions": {"filter_height": 9}},
        "operator 3, pool: output must be -5x1, not 1x1",
    ),
    "weights format": (
        {"FullyConnectedOptions": {"weights_format": 1}},
        "operator 5, fc: weights format must be 0 (default), not 1",
    ),
    "beta": ({"SoftmaxOptions": {"beta": 0.5}}, "operator 7, softmax: beta must be 1, not 0.5"),
    "keep_dims": ({"ReducerOptions": {"keep_dims": True}}, "operator 6, mean: output must be (1, 1, 4), not (4,)"),
    "asymmetric weights": (
        {"tensor conv/weights": quantized(np.linspace(0.01, 0.02, 4), [0, 7, 0, 0])},
        "operator 0, conv: zero points of weights must be 0, not 7",
    ),
    "NaN weight scale": (
        {"tensor dw/weights": quantized([0.01, np.nan, 0.01, 0.01], [0] * 4, 3)},
        "operator 2, dw: scales of weights must be positive and finite, not nan",
    ),
    "number of weight scales": (
        {"tensor conv/weights": quantized([0.01] * 3, [0] * 3)},
        "operator 0, conv: weights must have 1 or 4 scales and as many zero points, not 3 and 3",
    ),
    "dimension of weight scales": (
        {"tensor conv/weights": quantized(np.linspace(0.01, 0.02, 4), [0] * 4, 3)},
        "operator 0, conv: weight scales must run along dimension 0, not 3",
    ),
    "weights without data": (
        {"tensor conv/weights": lambda writer: {"buffer": 0}},
        "operator 0, conv: weights must be a constant in the file",
    ),
    "weights larger than their data": (
        {"tensor conv/weights": lambda writer: {"shape": (4, 3, 3, 2**30)}},
        "operator 0, conv: weights of shape [4, 3, 3, 1073741824] cannot be what 72 bytes hold",
    ),
    "negative weights shape": (
        {"tensor conv/weights": lambda writer: {"shape": (-4, 3, -3, 2)}},
        "operator 0, conv: weights of shape [-4, 3, -3, 2] cannot be what 72 bytes hold",
    ),
    "weights for other channels": (
        {"tensor conv/weights": lambda writer: {"shape": (4, 3, 6, 1)}},
        "operator 0, conv: weights must read 2 channels, not 1; convolutions in groups are not supported",
    ),
    "weights for more channels": (
        {"tensor conv/weights": lambda writer: {"shape": (4, 3, 2, 3)}},
        "operator 0, conv: weights must read 2 channels, not 3",
    ),
    "NaN scale": (
        {"tensor fc": quantized([np.nan], [0])},
        "operator 5, fc: output scale must be positive and finite, not nan",
    ),
    "bias scale": (
        {"tensor fc/bias": quantized([0.5] * 5, [0] * 5)},
        "operator 5, fc: scale of bias 0 must be input scale times weight scale, 0.005, not 0.5",
    ),
    "bias zero point": (
        {"tensor fc/bias": quantized(0.5 * np.linspace(0.01, 0.02, 5, dtype=np.float32), [0, 0, 0, 0, -1])},
        "operator 5, fc: zero points of bias must be 0, not -1",
    ),
    "bias type": (
        {"tensor fc/bias": lambda writer: {"dtype": "float32"}},
        "operator 5, fc: bias must be INT32, not FLOAT32",
    ),
    "bias shape": (
        {"tensor fc/bias": lambda writer: {"shape": (1, 5)}},
        "operator 5, fc: bias must have shape [5], not [1, 5]",
    ),
    "scale 0": ({"tensor image": quantized([0], [0])}, "input image: scale must be positive and finite, not 0.0"),
    "infinite scale": (
        {"tensor image": quantized([np.inf], [0])},
        "input image: scale must be positive and finite, not inf",
    ),
    "zero point": (
        {"tensor image": quantized([0.5], [-129])},
        "input image: zero point must be in -128..127, not -129",
    ),
    "scale missing": (
        {"tensor image": lambda writer: {"quantization": None}},
        "input image: must have one scale and one zero point, not 0 and 0",
    ),
    "batch": (
        {"tensor image": lambda writer: {"shape": (2, 6, 6, 2)}},
        "input image: shape must have a batch of 1 in front, not [2, 6, 6, 2]",
    ),
    "gigantic shape": (
        {"tensor image": lambda writer: {"shape": (1, 2**31 - 1, 2**31 - 1, 3)}},
        "input image: shape must have 1 to 67108864 elements, not [1, 2147483647, 2147483647, 3]",
    ),
    "negative shape": (
        {"tensor image": lambda writer: {"shape": (1, 6, -6, 2)}},
        "input image: shape must have 1 to 67108864 elements, not [1, 6, -6, 2]",
    ),
    "output shape": (
        {"tensor mean": lambda writer: {"shape": (1, 5)}},
        "operator 6, mean: output must be (4,), not (5,)",
    ),
    "pad shape": (
        {"tensor pad": lambda writer: {"shape": (1, 8, 8, 4)}},
        "operator 1, pad: output must be (7, 8, 4), not (8, 8, 4)",
    ),
    "pad quantisation": (
        {"tensor pad": quantized([0.5], [4])},
        "operator 1, pad: must keep its quantisation Quantization(scale=0.5, zero_point=3), "
        "not make Quantization(scale=0.5, zero_point=4)",
    ),
    "reshape": (
        {"tensor flat": lambda writer: {"shape": (1, 2, 2)}},
        "operator 4, flat: makes shape [1, 4], but its output is [1, 2, 2]",
    ),
    "softmax scale": (
        {"tensor softmax": quantized([1 / 128], [-128])},
        "operator 7, softmax: output must have Quantization(scale=0.00390625, zero_point=-128), "
        "not Quantization(scale=0.0078125, zero_point=-128)",
    ),
    "shift": (
        {"tensor mean": quantized([1e-9], [0])},
        "operator 6, mean: the worst accumulator of channel 0, -4716 to 4464, leaves int32 when shifted left by 24",
    ),
    "subgraphs": (
        {"Model": {"subgraphs": 0}},
        "the TensorFlow Lite file is damaged or cut short: it must have 1 subgraph, not 0",
    ),
    "version": (
        {"Model": {"version": 2}},
        "the TensorFlow Lite file is damaged or cut short: schema version must be 3, not 2",
    ),
}


@pytest.mark.parametrize(("edits", "message"), EDITS.values(), ids=EDITS)
def test_refusal_names_the_place_and_the_value(edits, message):
    assert refusal(edits) == f"net: {message}"


def test_all_problems_are_listed_at_once():
    """Those of one operator, and those behind it."""
    edits = {
        "Conv2DOptions": {"stride_h": 3, "dilation_w_factor": 2},
        "tensor conv/weights": quantized(np.linspace(0.01, 0.02, 4), [-3] * 4),
        "tensor fc/bias": lambda writer: {"shape": (4,)},
        "SoftmaxOptions": {"beta": 2.0},
    }
    assert refusal(edits).split("\n") == [
        "net: 5 problems",
        "  operator 0, conv: zero points of weights must be 0, not -3",
        "  operator 0, conv: dilation must be 1, not 2",
        "  operator 0, conv: stride must be 1 or 2, not 3",
        "  operator 5, fc: bias of shape [4] cannot be what 20 bytes hold",
        "  operator 7, softmax: beta must be 1, not 2.0",
    ]


def test_depthwise_multiplier():
    """Output channels c * m to c * m + m - 1 read channel c."""
    weights = np.arange(-4, 4, dtype=np.int8).reshape(1, 1, 8)
    dw = weighted("dw", "depthwise_conv2d", "x", (2, 2, 8), weights, Quantization(0.5, 0))
    table = Table("net", {"x": TensorType((2, 2, 4), "int8", Quantization(0.5, 0))}, (dw,), ("dw",))
    assert_same_table(import_tflite(write_tflite(table), "net"), table)
    assert table.macs == 32
    message = refusal({"tensor dw": lambda writer: {"shape": (1, 2, 2, 7)}}, table)
    assert message == "net: operator 0, dw: must make a multiple of its 4 channels, not 7"


# Operators on several tensors


def several():
    """A network with one of every operator on several tensors or with a constant, and a max pool."""
    q = Quantization(0.5, 3)
    here = TensorType((4, 4, 3), "int8", q)
    half = Quantization(0.25, -1)
    layers = (
        Layer("peak", "max_pool2d", ("image",), here, kernel=(3, 3), padding=(1, 1, 1, 1)),
        weighted("conv", "conv2d", "image", (4, 4, 3), np.ones((3, 1, 1, 3), np.int8), half),
        Layer("concat", "concatenation", ("peak", "image"), TensorType((4, 4, 6), "int8", q), axis=2),
        Layer("skip", "add", ("conv", "peak"), here, activation="relu", clamp=(3, 127)),
        Layer("gate", "mul", ("skip", "conv"), TensorType((4, 4, 3), "int8", half)),
        Layer(
            "rest",
            "sub",
            ("gate",),
            here,
            constant=np.array([1, -2, 127], np.int8),
            constant_quantization=Quantization(0.125, -7),
            constant_first=True,
        ),
        Layer(
            "offset",
            "add",
            ("rest",),
            here,
            constant=np.array(-128, np.int8),
            constant_quantization=Quantization(2.0, 5),
        ),
    )
    return Table("net", {"image": here}, layers, ("offset", "concat"))


def test_operators_on_several_tensors_come_back():
    assert_same_table(import_tflite(write_tflite(several()), "net"), several())


class ConstantWriter(_Writer):
    """Writes the constant of ``rest`` in another shape, and that of ``offset`` in front, where a sum is the same."""

    def __init__(self, table, shape):
        self.shape = shape
        super().__init__(table)

    def _constant_operand(self, layer):
        if layer.name == "rest":
            layer = dataclasses.replace(layer, constant=layer.constant.reshape(self.shape))
        return super()._constant_operand(layer)

    def _layer(self, layer):
        super()._layer(dataclasses.replace(layer, constant_first=True) if layer.name == "offset" else layer)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1, 1, 3)])
def test_constant_operand_in_any_shape_and_place(shape):
    assert_same_table(import_tflite(ConstantWriter(several(), shape).file(), "net"), several())


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((), ()),
        ((1,), ()),
        ((1, 1, 1, 1), ()),
        ((3,), (3,)),
        ((1, 3), (3,)),
        ((4, 3), (4, 3)),
        ((4, 1), (4, 1)),
        ((4, 1, 1), (4, 1, 1)),
        ((1, 4, 4, 3), (4, 4, 3)),
    ],
)
@pytest.mark.parametrize(
    ("operator", "first"), [("add", False), ("add", True), ("sub", False), ("sub", True), ("mul", True)]
)
def test_constant_operand_computes_what_the_reference_kernels_do(operator, first, shape, kept):
    pytest.importorskip("ai_edge_litert")
    from oracle import run_reference

    rng = np.random.default_rng(0)
    here = TensorType((4, 4, 3), "int8", Quantization(0.5, 3))
    layer = Layer(
        "layer",
        operator,
        ("x",),
        TensorType(here.shape, "int8", Quantization(0.75, -9)),
        constant=rng.integers(-128, 128, shape).astype(np.int8),
        constant_quantization=Quantization(0.25, 11),
        constant_first=first,
    )

    class Writer(_Writer):
        """Takes a constant of any rank, in either place."""

        def __init__(self):
            super().__init__(Table("net", {"x": here}, (Layer("layer", "reshape", ("x",), here),), ("layer",)))

        def _layer(self, _):
            super()._layer(layer)

    data = Writer().file()
    table = import_tflite(data, "net")
    assert table["layer"].constant_first == (first and operator == "sub")
    assert table["layer"].constant.shape == kept
    x = rng.integers(-128, 128, here.shape).astype(np.int8)
    np.testing.assert_array_equal(golden.run(table, {"x": x})["layer"], run_reference(data, {"x": x})["layer"][0])


SEVERAL_EDITS = {
    "pool quantisation": (
        {"tensor peak": quantized([0.5], [4])},
        "operator 0, peak: must keep its quantisation Quantization(scale=0.5, zero_point=3), "
        "not make Quantization(scale=0.5, zero_point=4)",
    ),
    "pool stride": ({"Pool2DOptions": {"stride_w": 3}}, "operator 0, peak: stride must be 1 or 2, not 3"),
    "concatenated quantisation": (
        {"tensor concat": quantized([0.25], [3])},
        "operator 2, concat: must keep its quantisation Quantization(scale=0.5, zero_point=3), "
        "not make Quantization(scale=0.25, zero_point=3)",
    ),
    "batch axis": (
        {"ConcatenationOptions": {"axis": 0}},
        "operator 2, concat: axis must be in 1..3 or -3..-1, not 0",
    ),
    "batch axis from behind": (
        {"ConcatenationOptions": {"axis": -4}},
        "operator 2, concat: axis must be in 1..3 or -3..-1, not -4",
    ),
    "other axis": (
        {"ConcatenationOptions": {"axis": -2}},
        "operator 2, concat: cannot make (4, 4, 6) of (4, 4, 3), (4, 4, 3) along axis 1",
    ),
    "fused activation": (
        {"ConcatenationOptions": {"fused_activation_function": 1}},
        "operator 2, concat: activation must be NONE, not 1",
    ),
    "tanh": (
        {"AddOptions": {"fused_activation_function": 4}},
        "operator 3, skip: activation must be NONE, RELU or RELU6, not 4",
    ),
    "constant scale": (
        {"tensor rest/constant": quantized([0], [0])},
        "operator 5, rest: the constant operand's scale must be positive and finite, not 0.0",
    ),
    "constant NaN": (
        {"tensor rest/constant": quantized([np.nan], [0])},
        "operator 5, rest: the constant operand's scale must be positive and finite, not nan",
    ),
    "constant zero point": (
        {"tensor rest/constant": quantized([1], [128])},
        "operator 5, rest: the constant operand's zero point must be in -128..127, not 128",
    ),
    "scale per channel": (
        {"tensor rest/constant": quantized([1, 2, 3], [0, 0, 0])},
        "operator 5, rest: the constant operand's must have one scale and one zero point, not 3 and 3",
    ),
    "constant type": (
        {"tensor rest/constant": lambda writer: {"dtype": "uint8"}},
        "operator 5, rest: the constant operand must be INT8, not UINT8",
    ),
    "constant size": (
        {"tensor rest/constant": lambda writer: {"shape": (4,)}},
        "operator 5, rest: the constant operand of shape [4] cannot be what 3 bytes hold",
    ),
    "constant shape": (
        {"tensor rest/constant": lambda writer: {"shape": (3, 1, 1)}},
        "operator 5, rest: the constant operand must spread over (4, 4, 3), not have shape [3, 1, 1]",
    ),
    "constant batch": (
        {"tensor rest/constant": lambda writer: {"shape": (3, 1, 1, 1)}},
        "operator 5, rest: the constant operand must spread over (4, 4, 3), not have shape [3, 1, 1, 1]",
    ),
    "output spread": (
        {"tensor rest": lambda writer: {"shape": (1, 4, 4, 1)}},
        "operator 5, rest: output must be (4, 4, 3), not (4, 4, 1)",
    ),
    "addition far out": (
        {"tensor offset": quantized([2**-20], [0])},
        "operator 6, offset: output scale must be above 2**-19 times the greater of the operands' scales 0.5 and 2 "
        "and below 2**108, not 9.53674e-07",
    ),
    "product far out": (
        {"tensor gate": quantized([2**-19], [0])},
        "operator 4, gate: the worst accumulator of channel 0, -16768 to 16637, leaves int32 when shifted left by 17",
    ),
    "product infinite": (
        {"tensor conv": quantized([3e38], [-1])},
        "operator 4, gate: the operands' scales over output scale is infinite",
    ),
}


@pytest.mark.parametrize(("edits", "message"), SEVERAL_EDITS.values(), ids=SEVERAL_EDITS)
def test_refusal_of_operators_on_several_tensors(edits, message):
    assert f"net: {message}" in refusal(edits, several()).replace("\n  ", "\nnet: ").splitlines()


TAKEN = "which is written already, an input or a constant"


class GraphWriter(_Writer):
    """Writes a table whose operators and subgraph read and write other tensors, given by name or index.

    ``edits`` maps ``inputs`` and ``outputs`` to those of the subgraph, a layer's name to a pair of both.
    """

    def __init__(self, table, **edits):
        self.edits = edits
        super().__init__(table)

    def _record(self, kind, **fields):
        if kind == "Operator":
            name = list(self.indices)[-1]
            if name in self.edits:
                source, output = self.edits[name]
                fields |= {"inputs": self._ints(self._resolved(source)), "outputs": self._ints(self._resolved(output))}
        if kind == "SubGraph":
            for field in ("inputs", "outputs"):
                if field in self.edits:
                    fields[field] = self._ints(self._resolved(self.edits[field]))
        return super()._record(kind, **fields)

    def _resolved(self, names):
        return [self.indices.get(name, name) for name in names]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"pad": ([14, 4], ["pad"])}, "operator 1, pad: reads tensor 14 before any operator has written it"),
        ({"conv": (["conv", 1, 2], ["conv"])}, "operator 0, conv: reads tensor 3 before any operator has written it"),
        ({"pad": ([1, 4], ["pad"])}, "operator 1, pad: must read a tensor of the network, not a constant"),
        ({"pad": ([-1, 4], ["pad"])}, "operator 1, pad: must read a tensor of the network, not a constant"),
        ({"fc": (["flat", 12, 13], ["conv"])}, f"operator 5, conv: writes tensor 3, {TAKEN}"),
        ({"softmax": (["fc"], ["image"])}, f"operator 7, image: writes tensor 0, {TAKEN}"),
        ({"softmax": (["fc"], [13])}, f"operator 7, bias: writes tensor 13, {TAKEN}"),
        ({"softmax": (["fc"], [])}, "operator 7, softmax7: must read a tensor and make one, not 1 and 0"),
        ({"softmax": ([], ["softmax"])}, "operator 7, softmax: must read a tensor and make one, not 0 and 1"),
        ({"outputs": []}, "the network has no outputs"),
        ({"outputs": ["softmax", "image"]}, "output tensor 0: no layer makes it"),
        ({"outputs": ["softmax", 1]}, "output tensor 1: no layer makes it"),
        ({"inputs": ["image", "image"]}, "inputs must be different tensors, not [0, 0]"),
        ({"inputs": ["image", 1]}, "input weights: must not be a constant"),
        ({"inputs": ["image", "conv"]}, f"operator 0, conv: writes tensor 3, {TAKEN}"),
        ({"inputs": ["image", 99]}, "damaged or cut short: a tensor index must be in 0..17, not 99"),
        ({"conv": (["image", -2, 2], ["conv"])}, "damaged or cut short: a tensor index must be in 0..17, not -2"),
    ],
)
def test_graph_that_is_no_network(edits, message):
    with pytest.raises(GenError) as caught:
        import_tflite(GraphWriter(network(), **edits).file(), "net")
    assert any(line.endswith(message) for line in str(caught.value).splitlines())


def test_all_problems_of_operators_on_several_tensors_are_listed_at_once():
    kept = "must keep its quantisation Quantization(scale=0.5, zero_point=3)"
    edits = {
        "Pool2DOptions": {"stride_w": 3},
        "ConcatenationOptions": {"fused_activation_function": 1},
        "tensor concat": quantized([0.25], [3]),
        "AddOptions": {"fused_activation_function": 4},
        "tensor offset": quantized([0], [0]),
        "tensor rest/constant": quantized([np.nan], [200]),
    }
    assert refusal(edits, several()).split("\n") == [
        "net: 7 problems",
        "  operator 0, peak: stride must be 1 or 2, not 3",
        f"  operator 2, concat: {kept}, not make Quantization(scale=0.25, zero_point=3)",
        "  operator 2, concat: activation must be NONE, not 1",
        "  operator 3, skip: activation must be NONE, RELU or RELU6, not 4",
        "  operator 5, rest: the constant operand's scale must be positive and finite, not nan",
        "  operator 5, rest: the constant operand's zero point must be in -128..127, not 200",
        "  operator 6, offset: output scale must be positive and finite, not 0.0",
    ]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"skip": (["conv", "pool"], ["skip"])}, "cannot spread one tensor over another: both must have one shape, "
         "not (4, 4, 3) and (2, 2, 3)"),
        ({"skip": (["conv"], ["skip"])}, "must read two tensors, not 1"),
        ({"skip": (["conv", "peak", "image"], ["skip"])}, "must read two tensors, not 3"),
        ({"skip": (["weights", "bias"], ["skip"])}, "must read a tensor of the network, not a constant"),
        ({"skip": (["conv", -1], ["skip"])}, "must read a tensor of the network, not a constant"),
        ({"skip": (["conv", "skip"], ["skip"])}, "before any operator has written it"),
        ({"concat": (["peak", "weights"], ["concat"])}, "must read a tensor of the network, not a constant"),
        ({"concat": ([], ["concat"])}, "must read a tensor and make one, not 0 and 1"),
        ({"concat": (["peak", "pool"], ["concat"])}, "cannot make (4, 4, 6) of (4, 4, 3), (2, 2, 3) along axis 2"),
        ({"concat": (["peak", "flat"], ["concat"])}, "must read and make tensors of one rank, not (4, 4, 3), (12,) to"),
    ],
)  # fmt: skip
def test_operators_on_several_tensors_that_do_not_fit(edits, message):
    pool, flat = TensorType((2, 2, 3), "int8", Quantization(0.5, 3)), TensorType((12,), "int8", Quantization(0.5, 3))
    table = several()
    image, *layers = table.layers
    pool = Layer("pool", "max_pool2d", ("image",), pool, kernel=(2, 2), stride=(2, 2))
    layers = [image, pool, Layer("flat", "reshape", ("pool",), flat), *layers]
    with pytest.raises(GenError) as caught:
        # Tensors of the file in its own order: the constants of conv lie behind what was made before it.
        writer = GraphWriter(table.with_layers(layers), **edits)
        writer.indices |= {"weights": 5, "bias": 6}
        import_tflite(writer.file(), "net")
    assert message in str(caught.value)
    (name,) = edits
    assert f"operator {[layer.name for layer in layers].index(name)}, {name}: " in str(caught.value)


def test_quantise_in_front_of_one_operand_of_many():
    """The first operand comes from the accelerator, the second one from the host."""
    table = several()
    here = table["skip"].output
    other = Layer("other", "quantize", ("conv",), TensorType(here.shape, "int8", Quantization(0.125, 0)))
    layers = [
        dataclasses.replace(layer, inputs=("peak", "other")) if layer.name == "skip" else layer
        for layer in table.layers
    ]
    table = table.with_layers([*layers[:2], other, *layers[2:]])
    assert refusal({}, table) == (
        "net: other: quantize runs on the host, at the edges of the network, but skip reads it; "
        "end the network before it"
    )


def host_layer(name, operator, source, dtype, quantization):
    return Layer(name, operator, (source,), TensorType((4,), dtype, quantization))


def test_host_operator_in_the_middle():
    q = Quantization(0.5, 3)
    layers = (
        host_layer("first", "quantize", "x", "int8", q),
        host_layer("second", "quantize", "first", "int8", Quantization(0.25, 3)),
        weighted("fc", "fully_connected", "second", (2,), np.ones((2, 4), np.int8), q),
        Layer("last", "dequantize", ("fc",), TensorType((2,), "float32")),
    )
    table = Table("net", {"x": TensorType((4,), "uint8", Quantization(0.5, 131))}, layers, ("last",))
    assert refusal({}, table) == (
        "net: second: quantize runs on the host, at the edges of the network, but fc reads it; "
        "end the network before it"
    )


# Arithmetic


@pytest.mark.parametrize("operator", ["conv2d", "depthwise_conv2d", "fully_connected"])
def test_worst_case_is_reached(operator):
    """An input exists for either end, and no corner of the inputs goes further."""
    rng = np.random.default_rng(7)
    shape = {"conv2d": (2, 1, 1, 3), "depthwise_conv2d": (1, 1, 3), "fully_connected": (2, 3)}[operator]
    weights = rng.integers(-128, 128, shape).astype(np.int8)
    channels = 3 if operator == "depthwise_conv2d" else 2
    layer = weighted("layer", operator, "x", (1, 1, channels), weights, Quantization(0.5, 0))
    table = Table("net", {"x": TensorType((1, 1, 3), "int8", Quantization(0.5, 17))}, (layer,), ("layer",))
    corners = np.array(np.meshgrid(*[[-128, 127]] * 3)).reshape(3, -1).T.astype(np.int8)
    sums = np.array([golden.accumulators(table, layer, corner.reshape(1, 1, 3)).reshape(-1) for corner in corners])
    low, high = worst_case(table, layer)
    np.testing.assert_array_equal(low, sums.min(axis=0))
    np.testing.assert_array_equal(high, sums.max(axis=0))


@pytest.mark.parametrize("constant", [None, [[-5, 3]], [[4, 9]], [[-128, 127]]])
def test_worst_case_of_a_product_is_reached(constant):
    here = TensorType((256, 2), "int8", Quantization(0.5, 17))
    fields, inputs = {}, ("x", "y")
    if constant is not None:
        fields = {"constant": np.array(constant, np.int8), "constant_quantization": Quantization(0.5, 2)}
        inputs = ("x",)
    layer = Layer("layer", "mul", inputs, here, **fields)
    table = Table("net", {"x": here, "y": TensorType((256, 2), "int8", Quantization(0.5, -3))}, (layer,), ("layer",))
    x = np.arange(-128, 128)[:, np.newaxis] - 17
    y = (np.arange(-128, 128) + 3 if constant is None else np.array(constant[0]) - 2)[np.newaxis]
    low, high = worst_case(table, layer)
    assert (low.tolist(), high.tolist()) == ([(x * y).min()], [(x * y).max()])


@pytest.mark.parametrize(
    ("scale", "fits"), [(1.0001 * 2**-18, True), (2**-18, False), (2**-21, False), (2**107.9, True), (2**108, False)]
)
@pytest.mark.parametrize("operator", ["add", "sub"])
def test_addition_takes_multipliers_below_one(operator, scale, fits):
    here = TensorType((2,), "int8", Quantization(2.0, 0))
    layer = Layer(
        "layer",
        operator,
        ("x", "x"),
        TensorType((2,), "int8", Quantization(float(np.float32(scale)), 0)),
    )
    table = Table("net", {"x": here}, (layer,), ("layer",))
    if fits:
        assert_same_table(import_tflite(write_tflite(table), "net"), table)
    else:
        assert "output scale must be above 2**-19 times the greater of the operands' scales 2 and 2" in refusal(
            {}, table
        )


@pytest.mark.parametrize("scales", [(3e38, 1, 1), (1, 1, 3e38)])
def test_addition_whose_multipliers_leave_float32(scales):
    first, second, output = (TensorType((2,), "int8", Quantization(float(np.float32(scale)), 0)) for scale in scales)
    layer = Layer("layer", "add", ("x", "y"), output)
    table = Table("net", {"x": first, "y": second}, (layer,), ("layer",))
    assert "operator 0, layer: output scale must be above 2**-19 times" in refusal({}, table)


@pytest.mark.parametrize(("bias", "fits"), [(2**31 - 1 - 2 * 155, True), (2**31 - 2 * 155, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_accumulator_leaves_int32(bias, fits, sign):
    """Two weights of +-1 see x - z_in from -100 to 155; int32 reaches one further down than up."""
    weights = np.full((1, 2), sign, np.int8)
    quantization = Quantization(0.5, 0)
    bias = np.array([bias if sign > 0 else -bias - (2 if not fits else 1)], np.int32)
    fc = weighted("fc", "fully_connected", "x", (1,), weights, quantization, bias=bias)
    table = Table("net", {"x": TensorType((2,), "int8", Quantization(0.5, -28))}, (fc,), ("fc",))
    if fits:
        assert import_tflite(write_tflite(table), "net")["fc"].bias == bias
    else:
        assert refusal({}, table).startswith("net: operator 0, fc: the worst accumulator of channel 0, ")
        assert refusal({}, table).endswith(" leaves int32")


@pytest.mark.parametrize(("scale", "fits"), [(1.0, True), (0.1, False)])
def test_shifted_accumulator_leaves_int32(scale, fits):
    """An accumulator of 2**30 and a little leaves int32 once the effective scale is 1 or more."""
    fc = weighted("fc", "fully_connected", "x", (1,), np.ones((1, 2), np.int8), Quantization(scale, 0))
    fc = dataclasses.replace(fc, bias=np.array([2**30], np.int32), weight_scales=np.array([0.5], np.float32))
    table = Table("net", {"x": TensorType((2,), "int8", Quantization(0.5, 0))}, (fc,), ("fc",))
    if fits:
        assert import_tflite(write_tflite(table), "net")["fc"].bias == 2**30
    else:
        assert refusal({}, table).endswith("1073741568 to 1073742078, leaves int32 when shifted left by 2")


def test_shift_beyond_int32():
    """Even an accumulator that is always 0 cannot be shifted by more bits than it has."""
    fc = weighted("fc", "fully_connected", "x", (1,), np.zeros((1, 2), np.int8), Quantization(2**-40, 0))
    table = Table("net", {"x": TensorType((2,), "int8", Quantization(0.5, 0))}, (fc,), ("fc",))
    assert refusal({}, table).endswith("channel 0, 0 to 0, leaves int32 when shifted left by 33")


# Files that nobody should trust


@pytest.mark.parametrize(
    "data", [b"", b"TFL3", b"\0" * 8, b"hello, this is a text file", b"\x1c\0\0\0TFL2" + b"\0" * 40]
)
def test_not_a_tflite_file(data):
    with pytest.raises(GenError, match="^x: not a TensorFlow Lite file: bytes 4 to 7 must be TFL3, not "):
        import_tflite(data, "x")


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(GenError, match="there is no such file"):
        load_tflite(tmp_path / "missing.tflite")
    with pytest.raises(GenError, match="there is no such file"):
        load_tflite(tmp_path)
    large = tmp_path / "large.tflite"
    with large.open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(GenError, match="a model may have 268435456 bytes at most, not 268435457"):
        load_tflite(large)


def survives(data):
    """Import ``data``, whatever it holds: a table or a GenError, and nothing else, in bounded time and memory."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        import_tflite(bytes(data), "x")
    except GenError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.perf_counter() - begin < 5
    assert peak < 32e6


def mutated(rng, data):
    """``data`` with one to five places overwritten, with a random byte or a word that reaches an end of its type."""
    data = bytearray(data)
    words = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80", b"\0\0\xc0\x7f"]
    for _ in range(rng.integers(1, 6)):
        place = rng.integers(len(data) - 4)
        if rng.random() < 0.3:
            data[place : place + 4] = words[rng.integers(len(words))]
        else:
            data[place] = rng.integers(256)
    return data


@pytest.mark.parametrize("seed", range(8))
def test_mutated_file(seed):
    rng = np.random.default_rng(seed)
    tables = {0: network(), 1: several()}
    table = tables.get(seed) or random_table(rng, kinds=IMPORTABLE_KINDS, max_channels=6)
    data = write_tflite(table)
    for _ in range(100):
        survives(mutated(rng, data))


def test_truncated_file():
    data = write_tflite(network())
    for length in range(0, len(data), 37):
        survives(data[:length])


def test_mutated_and_truncated_published_file(models_dir):
    rng = np.random.default_rng(9)
    data = (models_dir / "kws_ref_model.tflite").read_bytes()
    for _ in range(40):
        survives(mutated(rng, data))
    for length in range(0, len(data), 2011):
        survives(data[:length])


def test_names_that_overlap_do_not_fill_memory():
    """Every tensor may claim the whole file for its name."""
    data = bytearray(write_tflite(network()))
    model = tflite.Model.GetRootAs(data, 0)
    for index in range(model.Subgraphs(0).TensorsLength()):
        tensor = model.Subgraphs(0).Tensors(index)
        start = tensor._tab.Pos + tensor._tab.Offset(10)
        start += int.from_bytes(data[start : start + 4], "little")
        data[start : start + 4] = len(data).to_bytes(4, "little")
    with pytest.raises(GenError, match="its tensor names are longer than the file"):
        import_tflite(bytes(data), "x")


def test_shared_weights_do_not_take_forever(monkeypatch):
    monkeypatch.setattr("gen.importer.MAX_BYTES", 200)
    with pytest.raises(GenError, match="^net: the constants that its operators read exceed 200 bytes$"):
        import_tflite(write_tflite(network()), "net")
