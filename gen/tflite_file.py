"""Reading a .tflite file into plain records, without trusting a byte of it.

The generated accessors of the ``tflite`` package do not verify a file: offsets, lengths and indices are whatever it
says. Here every vector is read through a bounded view, every index is compared with what it points into, and whatever
the accessors raise becomes one :class:`gen.errors.GenError`. What the records mean is the importer's business.
"""

import struct
from dataclasses import dataclass, field

import numpy as np
import tflite

from gen.errors import GenError

__all__ = ["Graph", "Operator", "Tensor", "read"]

#: Schema version and file identifier of every .tflite file since 2017.
VERSION, IDENTIFIER = 3, b"TFL3"

#: Far beyond any network for a small FPGA. Records of a hostile file may overlap, so its size bounds nothing.
MAX_TENSORS = MAX_OPERATORS = 5_000
MAX_RANK, MAX_OPERANDS = 8, 256

#: What the accessors raise when an offset or a length leads out of the file.
ACCESS_ERRORS = (struct.error, TypeError, ValueError, IndexError, OverflowError)

#: Options of the operators that the importer understands: their table in the schema, and the fields to read.
OPTIONS = {
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "AVERAGE_POOL_2D": (
        "Pool2DOptions",
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "CONV_2D": (
        "Conv2DOptions",
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2DOptions",
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "MAX_POOL_2D": (
        "Pool2DOptions",
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "PACK": ("PackOptions", ("Axis",)),
    "RESHAPE": ("ReshapeOptions", ("NewShapeAsNumpy",)),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
    "STRIDED_SLICE": ("StridedSliceOptions", ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask")),
    "SUB": ("SubOptions", ("FusedActivationFunction",)),
}


def _enumeration(schema_enum):
    return {value: name for name, value in vars(schema_enum).items() if isinstance(value, int)}


OPERATOR_CODES = _enumeration(tflite.BuiltinOperator)
TENSOR_TYPES = _enumeration(tflite.TensorType)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor as the file describes it, batch included; nothing compares its fields with one another.

    ``shape`` and ``signature`` may hold any int32 (a signature's -1 is a size left open; empty where there is none).
    ``data`` is the constant's bytes, a view into the file, or None. ``special`` names what makes the tensor more than
    an array (``variable``, ``sparse``), or is empty.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    scales: np.ndarray
    zero_points: np.ndarray
    quantized_dimension: int
    data: np.ndarray | None
    special: str


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator: its place in the file, its code's name, tensor indices (-1: left out) and its options by name.

    ``options`` is empty for an operator without any, and for one that the importer does not understand.
    """

    index: int
    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Graph:
    """The file's one subgraph: tensors, operators in execution order, and the indices of its inputs and outputs."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read(data, name):
    """Read the bytes of a .tflite file into a :class:`Graph`.

    Parameters
    ----------
    data : bytes
        The file.
    name : str
        What messages call it.

    Raises
    ------
    GenError
        If it is no .tflite file, is damaged, or holds several subgraphs.
    """
    if data[4:8] != IDENTIFIER:
        raise GenError(
            f"{name}: not a TensorFlow Lite file: bytes 4 to 7 must be {IDENTIFIER.decode()}, not {data[4:8]!r}"
        )
    try:
        return _graph(data)
    except ACCESS_ERRORS as error:
        raise GenError(f"{name}: the TensorFlow Lite file is damaged or cut short: {error}") from None


def _graph(data):
    model = tflite.Model.GetRootAs(data, 0)
    _require(model.Version() == VERSION, f"schema version must be {VERSION}, not {model.Version()}")
    _require(model.SubgraphsLength() == 1, f"it must have 1 subgraph, not {model.SubgraphsLength()}")
    subgraph = model.Subgraphs(0)
    tensors = _tensors(data, model, subgraph)
    count = subgraph.OperatorsLength()
    _require(count <= MAX_OPERATORS, f"at most {MAX_OPERATORS} operators are allowed, not {count}")
    operators = tuple(_operator(model, subgraph.Operators(i), i, len(tensors)) for i in range(count))
    return Graph(
        tensors,
        operators,
        _indices(subgraph, "Inputs", len(tensors), 0),
        _indices(subgraph, "Outputs", len(tensors), 0),
    )


def _require(condition, message):
    if not condition:
        raise ValueError(message)


def _vector(accessor, name, dtype):
    """Vector field ``name`` as an array that lies within the file; empty when absent (the accessor returns 0)."""
    array = getattr(accessor, f"{name}AsNumpy")()
    return array if isinstance(array, np.ndarray) else np.empty(0, dtype)


def _sizes(accessor, name):
    """A short vector of int32, as a tuple."""
    array = _vector(accessor, name, np.int32)
    _require(array.size <= MAX_RANK, f"a tensor has at most {MAX_RANK} dimensions, not {array.size}")
    return tuple(array.tolist())


def _indices(accessor, name, count, least):
    """A vector of tensor indices, as a tuple; ``least`` is -1 where an operand may be left out."""
    array = _vector(accessor, name, np.int32)
    _require(array.size <= MAX_OPERANDS, f"at most {MAX_OPERANDS} operands are allowed, not {array.size}")
    indices = tuple(array.tolist())
    for index in indices:
        _require(least <= index < count, f"a tensor index must be in 0..{count - 1}, not {index}")
    return indices


def _tensors(data, model, subgraph):
    count = subgraph.TensorsLength()
    _require(count <= MAX_TENSORS, f"at most {MAX_TENSORS} tensors are allowed, not {count}")
    tensors, name_bytes = [], 0
    for index in range(count):
        tensor = subgraph.Tensors(index)
        name = tensor.Name() or b""
        # Names may overlap in a hostile file, each as long as the file; an honest file holds every name once.
        name_bytes += len(name)
        _require(name_bytes <= len(data), "its tensor names are longer than the file")
        buffer = tensor.Buffer()
        _require(
            buffer < model.BuffersLength(),
            f"tensor {index} lies in buffer {buffer}, but there are {model.BuffersLength()}",
        )
        constant = _vector(model.Buffers(buffer), "Data", np.uint8)
        quantization = tensor.Quantization()
        special = "variable" if tensor.IsVariable() else "sparse" if tensor.Sparsity() is not None else ""
        tensors.append(
            Tensor(
                index=index,
                name=name.decode("utf-8", "replace"),
                dtype=TENSOR_TYPES.get(tensor.Type(), f"type {tensor.Type()}"),
                shape=_sizes(tensor, "Shape"),
                signature=_sizes(tensor, "ShapeSignature"),
                scales=np.empty(0, np.float32) if quantization is None else _vector(quantization, "Scale", np.float32),
                zero_points=(
                    np.empty(0, np.int64) if quantization is None else _vector(quantization, "ZeroPoint", np.int64)
                ),
                quantized_dimension=0 if quantization is None else quantization.QuantizedDimension(),
                data=constant if constant.size else None,
                special=special,
            )
        )
    return tuple(tensors)


def _operator(model, operator, index, tensor_count):
    opcode = operator.OpcodeIndex()
    _require(
        opcode < model.OperatorCodesLength(),
        f"operator {index} has operator code {opcode}, but there are {model.OperatorCodesLength()}",
    )
    entry = model.OperatorCodes(opcode)
    # Files older than the 32-bit field carry the code in the deprecated one, newer files in either or both.
    number = max(entry.BuiltinCode(), entry.DeprecatedBuiltinCode())
    code = OPERATOR_CODES.get(number, f"operator code {number}")
    if code == "CUSTOM":
        code = f"custom operator {(entry.CustomCode() or b'')[:64]!r}"
    return Operator(
        index,
        code,
        _indices(operator, "Inputs", tensor_count, -1),
        _indices(operator, "Outputs", tensor_count, 0),
        _options(operator, code),
    )


def _options(operator, code):
    if code not in OPTIONS:
        return {}
    kind, fields = OPTIONS[code]
    union = operator.BuiltinOptions()
    if union is None or operator.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, kind):
        return {}
    options = getattr(tflite, kind)()
    options.Init(union.Bytes, union.Pos)
    return {name: getattr(options, name)() for name in fields}
