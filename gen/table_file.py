"""The layer table's text form: a TOML file that a person can write by hand, its weights apart.

::

    name = "tiny"                       # left out: the file's own name
    weights = {seed = 1}                # random weights; left out: they are in NAME.npz beside NAME.toml
    inputs.image = {shape = [32, 32, 3], scale = 0.0078125, zero_point = -1}
    layers = [
        {name = "conv", operator = "conv2d", channels = 8, kernel = 3, stride = 2, activation = "relu6"},
        {name = "dw", operator = "depthwise_conv2d", kernel = 3, padding = "same", activation = "relu6"},
        {name = "pw", operator = "conv2d", channels = 16, activation = "relu6"},
        {name = "pool", operator = "average_pool2d"},
        {name = "logits", operator = "fully_connected", channels = 10, scale = 0.1, zero_point = 0},
        {name = "scores", operator = "softmax"},
    ]

What a row leaves out follows from the rest:

========================  =============================================================================================
``inputs``                the layer above; the first layer reads the first input. One name, or a list of them
``channels``              of a depthwise_conv2d its input's; it may make any multiple of them
``kernel``                1, of a pool the whole feature map; one number, or ``[height, width]``
``stride``                1; one number, or ``[down, across]``
``padding``               ``"valid"``; or ``"same"``, or ``[above, below, left, right]``
``activation``            ``"none"``; or ``"relu"`` or ``"relu6"``
``clamp``                 what the activation is in the output's own numbers
``scale, zero_point``     with ``relu6`` 6/255 and -128, of a mean its input's; every other layer must give its scale,
                          its zero point is 0. A pool, concatenation, pad or reshape keeps its input's, a softmax
                          has 1/256 and -128
``constant``              of add, sub and mul: the second input is a tensor too
``axis``                  of a concatenation the last one
``dtype``                 ``"int8"``; of an input also ``"uint8"`` or ``"float32"``, of a quantize ``"uint8"``
``shape``                 of a fully_connected and a mean ``[channels]``, of a reshape one flat vector
``outputs``               (of the file) the last layer
========================  =============================================================================================

An add, sub or mul of a constant says ``constant = {value = 127, scale = 0.0157, zero_point = 0}``. ``value`` is an
integer or a list (of lists) of them, whose shape fits the output's last axes; ``first = true`` makes a sub
``constant - input``.

``NAME.npz`` holds ``LAYER.weights`` (int8), ``LAYER.bias`` (int32) and ``LAYER.weight_scales`` (float32) for each layer
with weights, in the shapes that :class:`gen.table.Layer` gives. A scale is rounded to float32.
"""

import json
import re
import reprlib
import tomllib
import zipfile
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from gen.errors import GenError
from gen.table import ELEMENTWISE, OPERATORS, POOLS, WEIGHTED, Layer, Quantization, Table, TableError, TensorType
from gen.tflite_operators import addition_problem, worst_case
from gen.weights import placeholders, with_random_weights
from sim import golden

__all__ = ["activation_clamp", "from_document", "load", "same_padding", "save"]

#: Most elements of a tensor, and of a layer's weights: far above any network for a small FPGA.
MAX_ELEMENTS = 2**26
MAX_KERNEL = 255
#: What TensorFlow Lite's softmax can add up.
MAX_CLASSES = 2**12 - 1

_TABLE_FIELDS = ("name", "weights", "inputs", "layers", "outputs")
_INPUT_FIELDS = ("shape", "dtype", "scale", "zero_point")
_LAYER_FIELDS = ("name", "operator", "inputs")
_SCALE_FIELDS = ("scale", "zero_point")
_CONSTANT_FIELDS = ("value", *_SCALE_FIELDS, "first")
_WINDOW_FIELDS = ("kernel", "stride", "padding")
_CLAMP_FIELDS = ("activation", "clamp")

#: What a row may say beyond ``_LAYER_FIELDS``.
_OPERATOR_FIELDS = {
    "conv2d": ("channels", *_WINDOW_FIELDS, *_CLAMP_FIELDS, *_SCALE_FIELDS),
    "depthwise_conv2d": ("channels", *_WINDOW_FIELDS, *_CLAMP_FIELDS, *_SCALE_FIELDS),
    "fully_connected": ("channels", "shape", *_CLAMP_FIELDS, *_SCALE_FIELDS),
    "mean": ("shape", *_CLAMP_FIELDS, *_SCALE_FIELDS),
    "concatenation": ("axis",),
    "pad": ("padding",),
    "reshape": ("shape",),
    "quantize": ("dtype", *_SCALE_FIELDS),
    "dequantize": (),
    "softmax": (),
    **dict.fromkeys(POOLS, (*_WINDOW_FIELDS, *_CLAMP_FIELDS)),
    **dict.fromkeys(ELEMENTWISE, ("constant", *_CLAMP_FIELDS, *_SCALE_FIELDS)),
}

_KEEPS_QUANTIZATION = (*POOLS, "mean", "concatenation", "pad", "reshape")
_ACTIVATIONS = ("none", "relu", "relu6")
_DTYPES = ("int8", "uint8", "float32")
#: Element types that an operator reads, where it is not int8 alone.
_SOURCE_DTYPES = {"quantize": _DTYPES, "dequantize": ("int8", "uint8")}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows before and after ``size`` rows for TensorFlow's SAME padding; an odd one goes behind."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def activation_clamp(activation: str, quantization: Quantization) -> tuple[int, int]:
    """Least and greatest int8 output of ``none``, ``relu`` or ``relu6`` in a tensor of that quantisation.

    Source: CalculateActivationRangeQuantized, tensorflow/lite/kernels/kernel_util.cc.
    """
    zero = quantization.zero_point
    if activation == "none":
        return -128, 127
    if activation == "relu":
        return max(-128, zero), 127
    with np.errstate(over="ignore"):
        six = float(np.float32(6) / np.float32(quantization.scale))
    return max(-128, zero), int(min(127.0, np.floor(six + 0.5) + zero))


def load(path: str | Path) -> Table:
    """Read a layer table from a TOML file and, unless it asks for random weights, the .npz file beside it.

    Raises
    ------
    GenError
        For everything wrong with either file, naming file, layer, field and value, and what is allowed.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise GenError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise GenError(f"{path}: is no TOML: {error}") from error
    return from_document(document, where=str(path), npz=path.with_suffix(".npz"), name=path.stem)


def from_document(document: dict, *, where: str, npz: Path | None = None, name: str = "network") -> Table:
    """The table that ``document``, the text form as read from TOML, describes.

    Parameters
    ----------
    document : dict
        See the module's description.
    where : str
        What messages call the document.
    npz : Path, optional
        Where the weights are, unless the document asks for random ones; without either all weights are 0.
    name : str
        The table's name, unless the document gives one.

    Raises
    ------
    GenError
        If the document describes no network.
    """
    _check_fields(document, _TABLE_FIELDS, where)
    name = _name(document.get("name", name), f"{where}: name")
    seed = _seed(document.get("weights"), where)
    inputs = document.get("inputs")
    if not isinstance(inputs, dict) or not inputs:
        raise GenError(f"{where}: inputs must be a table of one or more inputs, not {_brief(inputs)}")
    inputs = {_name(key, f"{where}: input"): _input(value, f"{where}: input {key}") for key, value in inputs.items()}
    rows = document.get("layers")
    if not isinstance(rows, list) or not rows:
        raise GenError(f"{where}: layers must be a list of one or more layers, not {_brief(rows)}")
    known, layers = dict(inputs), []
    previous = next(iter(inputs))
    for index, row in enumerate(rows):
        layer = _layer(row, known, previous, f"{where}: layer {index + 1}", where)
        layers.append(layer)
        known[layer.name], previous = layer.output, layer.name
    outputs = _names(document.get("outputs", previous), f"{where}: outputs", {layer.name for layer in layers})
    try:
        table = Table(name, inputs, tuple(layers), outputs)
        for layer in table.layers:
            # Random weights are drawn by running the other layers, so those come first.
            if layer.operator not in WEIGHTED:
                _check_int32(table, layer, where)
        if seed is not None:
            table = with_random_weights(table, seed)
        elif npz is not None:
            table = _with_weights(table, npz, where)
    except TableError as error:
        raise GenError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from error
    for layer in table.layers:
        if layer.operator in WEIGHTED:
            _check_int32(table, layer, where)
    return table


def _check_int32(table, layer, where):
    """Refuse a layer that can leave the int32 of TensorFlow Lite's kernels, where sums would wrap."""
    if layer.operator in ("add", "sub") and (problem := addition_problem(table, layer)):
        raise GenError(f"{where}: {layer.name}: {problem}")
    if layer.operator not in (*WEIGHTED, "mean", "mul"):
        return
    if layer.operator != "mean":
        with np.errstate(over="ignore", under="ignore"):
            scales = golden.effective_scales(table, layer)
        if not np.isfinite(scales).all():
            factors = "the operands' scales" if layer.operator == "mul" else "input scale times weight scale"
            raise GenError(f"{where}: {layer.name}: {factors} over output scale is infinite")
    low, high = worst_case(table, layer)
    shifts = np.maximum(golden.layer_multipliers(table, layer)[1], 0)
    for channel, (least, most, shift) in enumerate(zip(low.tolist(), high.tolist(), shifts.tolist(), strict=True)):
        if max(most, -least - 1) << shift >= 2**31:
            raise GenError(
                f"{where}: {layer.name}: the accumulator of channel {channel}, {least} to {most} at worst, shifted "
                f"left by {shift} must fit int32"
            )


def _layer(row, known, previous, where, file):
    """The layer that ``row`` describes, with placeholders for its weights."""
    if not isinstance(row, dict):
        raise GenError(f"{where}: must be a table, not {_brief(row)}")
    name = _name(row.get("name"), f"{where}: name")
    where = f"{file}: {name}"
    operator = _choice(row.get("operator"), OPERATORS, f"{where}: operator")
    _check_fields(row, (*_LAYER_FIELDS, *_OPERATOR_FIELDS[operator]), f"{where} ({operator})")
    inputs = _names(row.get("inputs", previous), f"{where}: inputs", known)
    source, sources = known[inputs[0]], [known[tensor] for tensor in inputs]
    windowed = "kernel" in _OPERATOR_FIELDS[operator]
    if (windowed or operator in ("pad", "mean")) and len(source.shape) != 3:
        raise GenError(f"{where}: {inputs[0]} must have (height, width, channels), not {source.shape}")
    for tensor, read in zip(inputs, sources, strict=True):
        if read.dtype not in (allowed := _SOURCE_DTYPES.get(operator, ("int8",))):
            raise GenError(f"{where}: {tensor} must be {' or '.join(allowed)} for a {operator}, not {read.dtype}")

    default_kernel = list(source.shape[:2]) if operator in POOLS else 1
    kernel = _pair(row.get("kernel", default_kernel), MAX_KERNEL, f"{where}: kernel")
    stride = _pair(row.get("stride", 1), MAX_ELEMENTS, f"{where}: stride")
    padding = _padding(row.get("padding", "valid"), source, kernel, stride, where)
    channels = source.shape[-1]
    if "channels" in _OPERATOR_FIELDS[operator]:
        default_channels = channels if operator == "depthwise_conv2d" else None
        channels = _integer(row.get("channels", default_channels), 1, MAX_ELEMENTS, f"{where}: channels")
    operands = _constant(row.get("constant"), f"{where}: constant") if "constant" in row else {}
    if operator == "concatenation":
        last = len(source.shape) - 1
        operands["axis"] = _integer(row.get("axis", last), 0, last, f"{where}: axis")
        shape = _concatenated_shape([read.shape for read in sources], operands["axis"])
    else:
        shape = _output_shape(operator, source.shape, channels, kernel, stride, padding)
    if "shape" in row:
        shape = _shape(row["shape"], f"{where}: shape")
    if min(shape) < 1:
        raise GenError(f"{where}: kernel {kernel} does not fit into {source.shape} with padding {padding}")
    if operator == "softmax" and shape[-1] > MAX_CLASSES:
        raise GenError(f"{where}: must have at most {MAX_CLASSES} classes, not {shape[-1]}")
    for step, size in zip(stride, shape, strict=False):
        if step > 2 and size > 1:
            raise GenError(f"{where}: stride must be 1 or 2, not {step}")
    if prod(shape) > MAX_ELEMENTS:
        raise GenError(f"{where}: output must have at most {MAX_ELEMENTS} elements, not {prod(shape)}")
    weights = placeholders(operator, kernel, channels, source.shape)
    if weights and weights["weights"].size > MAX_ELEMENTS:
        raise GenError(f"{where}: must have at most {MAX_ELEMENTS} weights, not {weights['weights'].size}")

    activation = _choice(row.get("activation", "none"), _ACTIVATIONS, f"{where}: activation")
    dtype = "float32" if operator == "dequantize" else "int8"
    if "dtype" in row:
        dtype = _choice(row["dtype"], ("int8", "uint8"), f"{where}: dtype")
    default = _default_quantization(operator, activation, source)
    output = TensorType(shape, dtype, _quantization(row, dtype, default, where))
    clamp = (-128, 127)
    if "clamp" in row:
        clamp = _integers(row["clamp"], 2, -128, 127, f"{where}: clamp")
    elif "clamp" in _OPERATOR_FIELDS[operator]:
        clamp = activation_clamp(activation, output.quantization)
    window = kernel, stride, padding
    return Layer(name, operator, inputs, output, *window, clamp, **weights, activation=activation, **operands)


def _constant(value, where):
    """Fields of a row with the constant operand ``value``."""
    if not isinstance(value, dict):
        raise GenError(f"{where}: must be {{value = n, scale = s, zero_point = z}}, not {_brief(value)}")
    _check_fields(value, _CONSTANT_FIELDS, where)
    first = value.get("first", False)
    if type(first) is not bool:
        raise GenError(f"{where}: first must be true or false, not {_brief(first)}")
    return {
        "constant": _int8_array(value.get("value"), f"{where}: value"),
        "constant_quantization": _quantization(value, "int8", None, where),
        "constant_first": first,
    }


def _int8_array(value, where):
    """``value``, an integer or lists in lists of them, as an array."""
    sizes, level = [], [value]
    while level and isinstance(level[0], list):
        if len(sizes) == 4 or len({len(item) if isinstance(item, list) else -1 for item in level}) > 1 or not level[0]:
            raise GenError(f"{where}: must be a number, or lists of equal lengths up to four deep, not {_brief(value)}")
        sizes.append(len(level[0]))
        level = [item for part in level for item in part]
    return np.array([_integer(item, -128, 127, where) for item in level], np.int8).reshape(sizes)


def _concatenated_shape(shapes, axis):
    """Shape of a concatenation; whether the shapes fit, the table finds out."""
    first = shapes[0]
    return (*first[:axis], sum(shape[axis] for shape in shapes if len(shape) > axis), *first[axis + 1 :])


def _default_quantization(operator, activation, source):
    """The quantisation of a layer that gives none, or None where nothing suggests one."""
    if operator in _KEEPS_QUANTIZATION:
        return source.quantization
    if operator == "softmax":
        return Quantization(1 / 256, -128)
    return Quantization(_float32(6 / 255), -128) if activation == "relu6" else None


def _output_shape(operator, source, channels, kernel, stride, padding):
    """What ``operator`` makes of a tensor of shape ``source``, as far as the row's other fields say."""
    if operator in ("fully_connected", "mean"):
        return (channels,)
    if operator == "reshape":
        return (prod(source),)
    if len(source) != 3 or operator in ("quantize", "dequantize", "softmax"):
        return source
    top, bottom, left, right = padding
    padded = source[0] + top + bottom, source[1] + left + right
    return (*((size - k) // s + 1 for size, k, s in zip(padded, kernel, stride, strict=True)), channels)


def _with_weights(table, npz, where):
    """``table`` with the weights in the file ``npz``."""
    if not any(layer.operator in WEIGHTED for layer in table.layers):
        return table
    try:
        with zipfile.ZipFile(npz) as archive:
            layers = [_read_weights(archive, npz, layer) for layer in table.layers]
    except GenError:
        raise
    except FileNotFoundError as error:
        raise GenError(
            f"{npz}: not found; {where} has its weights there unless it says weights = {{seed = n}}"
        ) from error
    except OSError as error:
        raise GenError(f"{npz}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises a dozen kinds of exception for a broken file
        raise GenError(f"{npz}: is no .npz archive: {error}") from error
    return table.with_layers(layers)


def _read_weights(archive, npz, layer):
    if layer.operator not in WEIGHTED:
        return layer
    scale_shapes = {layer.bias.shape, (1,)} if layer.operator == "fully_connected" else {layer.bias.shape}
    read = {
        "weights": _read_array(archive, npz, f"{layer.name}.weights", np.int8, {layer.weights.shape}),
        "bias": _read_array(archive, npz, f"{layer.name}.bias", np.int32, {layer.bias.shape}),
        "weight_scales": _read_array(archive, npz, f"{layer.name}.weight_scales", np.float32, scale_shapes),
    }
    return replace(layer, **read)


def _read_array(archive, npz, key, dtype, shapes):
    """The array called ``key``; its header is held against ``shapes`` before anything is allocated."""
    where = f"{npz}: {key}"
    if f"{key}.npy" not in archive.namelist():
        raise GenError(f"{where}: is missing from the archive")
    try:
        with archive.open(f"{key}.npy") as file:
            version = np.lib.format.read_magic(file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, found = header(file)
        if found == dtype and shape in shapes:
            with archive.open(f"{key}.npy") as file:
                return np.ascontiguousarray(np.lib.format.read_array(file, allow_pickle=False))
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds of exception for a broken array
        raise GenError(f"{where}: is no array of numbers: {error}") from error
    raise GenError(f"{where}: must be {np.dtype(dtype)} {' or '.join(map(str, sorted(shapes)))}, not {found} {shape}")


def _input(value, where):
    if not isinstance(value, dict):
        raise GenError(f"{where}: must be a table, not {_brief(value)}")
    _check_fields(value, _INPUT_FIELDS, where)
    shape = _shape(value.get("shape"), f"{where}: shape")
    dtype = _choice(value.get("dtype", "int8"), _DTYPES, f"{where}: dtype")
    return TensorType(shape, dtype, _quantization(value, dtype, None, where))


def _quantization(row, dtype, default, where):
    """Quantisation of a tensor of type ``dtype`` from ``row``'s scale and zero point, or else ``default``."""
    if dtype == "float32":
        for field in ("scale", "zero_point"):
            if field in row:
                raise GenError(f"{where}: {field} must be left out of a float32 tensor, not {_brief(row[field])}")
        return None
    scale = row.get("scale", default and default.scale)
    if type(scale) not in (int, float) or not 0 < _float32(scale) < np.inf:
        raise GenError(f"{where}: scale must be a positive number that float32 can hold, not {_brief(scale)}")
    limits = np.iinfo(dtype)
    zero_point = row.get("zero_point", default.zero_point if default else 0)
    return Quantization(_float32(scale), _integer(zero_point, limits.min, limits.max, f"{where}: zero_point"))


def _float32(value):
    """``value`` rounded to float32; what is too large becomes infinite."""
    try:
        with np.errstate(over="ignore", under="ignore"):
            return float(np.float32(value))
    except OverflowError:  # an integer beyond double
        return np.inf


def _padding(value, source, kernel, stride, where):
    if value == "valid":
        return (0, 0, 0, 0)
    if value == "same":
        return tuple(p for axis in (0, 1) for p in same_padding(source.shape[axis], kernel[axis], stride[axis]))
    if not isinstance(value, list):
        allowed = '"same", "valid" or [above, below, left, right]'
        raise GenError(f"{where}: padding must be {allowed}, not {_brief(value)}")
    return _integers(value, 4, 0, MAX_ELEMENTS, f"{where}: padding")


def _pair(value, largest, where):
    if isinstance(value, list):
        return _integers(value, 2, 1, largest, where)
    return (_integer(value, 1, largest, where),) * 2


def _shape(value, where):
    if not isinstance(value, list) or not 1 <= len(value) <= 4:
        raise GenError(f"{where}: must be a list of one to four sizes, not {_brief(value)}")
    shape = _integers(value, len(value), 1, MAX_ELEMENTS, where)
    if prod(shape) > MAX_ELEMENTS:
        raise GenError(f"{where}: must have at most {MAX_ELEMENTS} elements, not {prod(shape)}")
    return shape


def _integers(value, count, lo, hi, where):
    if not isinstance(value, list) or len(value) != count:
        raise GenError(f"{where}: must be a list of {count} integers, not {_brief(value)}")
    return tuple(_integer(item, lo, hi, where) for item in value)


def _integer(value, lo, hi, where):
    if type(value) is not int or not lo <= value <= hi:
        raise GenError(f"{where}: must be an integer in {lo}..{hi}, not {_brief(value)}")
    return value


def _choice(value, allowed, where):
    if value not in allowed:
        raise GenError(f"{where}: must be one of {', '.join(allowed)}, not {_brief(value)}")
    return value


def _name(value, where):
    if not isinstance(value, str) or not value or not value.isprintable():
        raise GenError(f"{where}: must be a name in printable characters, not {_brief(value)}")
    return value


def _names(value, where, known):
    """Names of tensors among ``known``; one name may stand without brackets."""
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise GenError(f"{where}: must name inputs or layers above, not {_brief(name)}")
    if not names:
        raise GenError(f"{where}: must name at least one input or layer")
    return tuple(names)


def _seed(weights, where):
    """The seed of random weights, or None."""
    if weights is None:
        return None
    if not isinstance(weights, dict) or list(weights) != ["seed"]:
        raise GenError(f"{where}: weights must be {{seed = n}} or be left out, not {_brief(weights)}")
    return _integer(weights["seed"], 0, 2**63 - 1, f"{where}: weights: seed")


def _check_fields(mapping, allowed, where):
    for field in mapping:
        if field not in allowed:
            raise GenError(f"{where}: field must be one of {', '.join(allowed)}, not {_brief(field)}")


class _Brief(reprlib.Repr):
    """``repr`` cut to a length that suits a message; Python refuses to print integers of thousands of digits."""

    def repr_int(self, x, level):
        return repr(x) if x.bit_length() <= 64 else f"an integer of {x.bit_length()} bits"


_brief = _Brief().repr


def save(table: Table, path: str | Path) -> None:
    """Write ``table`` to ``path`` (``NAME.toml``) and its weights to ``NAME.npz`` beside it.

    :func:`load` gives back an equal table, scales and weights to the last bit. The same table gives the same bytes.

    Raises
    ------
    GenError
        If a file cannot be written, or the table holds something that the text form cannot say.
    """
    path = Path(path)
    if path.suffix != ".toml":
        raise GenError(f"{path}: a layer table's file must end in .toml")
    text = _text(table, path)
    arrays = {
        f"{layer.name}.{field}": getattr(layer, field)
        for layer in table.layers
        if layer.weights is not None
        for field in ("weights", "bias", "weight_scales")
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if arrays:
            np.savez(path.with_suffix(".npz"), **arrays)
    except OSError as error:
        raise GenError(f"{path}: cannot be written: {error.strerror or error}") from error


def _text(table, path):
    """The TOML text of ``table``: a line a row."""
    for name in (table.name, *table.inputs, *(layer.name for layer in table.layers)):
        _name(name, f"{path}: name")
    lines = [f"name = {_toml(table.name)}"]
    for name, tensor in table.inputs.items():
        fields = {"shape": tensor.shape, **_tensor_fields(tensor, "int8", None)}
        lines.append(f"inputs.{_key(name)} = {_toml(fields)}")
    lines += [f"outputs = {_toml(table.outputs)}", "layers = ["]
    previous = next(iter(table.inputs))
    for layer in table.layers:
        row = _row(table, layer, previous)
        lines.append(f"    {_toml(row)},")
        previous = layer.name
    return "\n".join([*lines, "]", ""])


def _row(table, layer, previous):
    """The fields of ``layer`` that do not follow from the others."""
    source = table.source(layer)
    row = {"name": layer.name, "operator": layer.operator}
    if layer.inputs != (previous,):
        row["inputs"] = layer.inputs
    channels = layer.output.shape[-1]
    keeps_channels = layer.operator == "depthwise_conv2d" and channels == source.shape[-1]
    if "channels" in _OPERATOR_FIELDS[layer.operator] and not keeps_channels:
        row["channels"] = channels
    window = {"kernel": layer.kernel, "stride": layer.stride}
    row |= {key: low if low == high else (low, high) for key, (low, high) in window.items() if (low, high) != (1, 1)}
    if layer.operator in POOLS and layer.kernel == (1, 1):
        row["kernel"] = 1
    if layer.constant is not None:
        row["constant"] = {"value": layer.constant.tolist(), **_scale_fields(layer.constant_quantization)}
        row["constant"] |= {"first": True} if layer.constant_first else {}
    if any(layer.padding):
        same = _padding("same", source, layer.kernel, layer.stride, "")
        row["padding"] = "same" if layer.padding == same else layer.padding
    if layer.activation != "none":
        row["activation"] = _choice(layer.activation, _ACTIVATIONS, f"{table.name}: {layer.name}: activation")
    default = _default_quantization(layer.operator, layer.activation, source)
    row |= _tensor_fields(layer.output, "float32" if layer.operator == "dequantize" else "int8", default)
    quantization = layer.output.quantization
    if layer.clamp != ((-128, 127) if quantization is None else activation_clamp(layer.activation, quantization)):
        row["clamp"] = layer.clamp
    if layer.operator == "concatenation":
        if layer.axis != len(source.shape) - 1:
            row["axis"] = layer.axis
    elif layer.output.shape != _output_shape(
        layer.operator, source.shape, channels, layer.kernel, layer.stride, layer.padding
    ):
        row["shape"] = layer.output.shape
    for field in row:
        if field not in (*_LAYER_FIELDS, *_OPERATOR_FIELDS[layer.operator]):
            raise GenError(f"{table.name}: {layer.name}: a {layer.operator} has no {field} in the text form")
    return row


def _tensor_fields(tensor, dtype, default):
    """Element type and quantisation of ``tensor``, where they differ from what a row without them means."""
    fields = {"dtype": tensor.dtype} if tensor.dtype != dtype else {}
    if tensor.quantization not in (None, default):
        fields |= _scale_fields(tensor.quantization)
    return fields


def _scale_fields(quantization):
    # The shortest decimal that float32 reads back as the same number.
    return {"scale": float(str(np.float32(quantization.scale))), "zero_point": quantization.zero_point}


def _toml(value):
    """``value`` in TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=int)  # both languages write strings and numbers alike


def _key(name):
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)
