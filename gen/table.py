"""The layer table: the one description of a network between the front end and everything behind it.

A :class:`Table` lists the network's layers in execution order, one :class:`Layer` a row. Importer and builders write
it, passes rewrite it, and golden model, plan, reports and hardware read it and nothing else. Shapes leave out the
batch, which is always 1: a feature map is ``(height, width, channels)``, a vector ``(channels,)``.

This module imports nothing of the project.
"""

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

__all__ = [
    "ELEMENTWISE",
    "HOST_OPERATORS",
    "OPERATORS",
    "POOLS",
    "WEIGHTED",
    "WINDOWED",
    "Layer",
    "Quantization",
    "Table",
    "TableError",
    "TensorType",
]

#: Operators that run on the host, at the network's edges; everything else runs in the accelerator.
HOST_OPERATORS = ("quantize", "dequantize", "softmax")

#: Every operator a row may hold, host operators included.
OPERATORS = (
    "conv2d",
    "depthwise_conv2d",
    "fully_connected",
    "average_pool2d",
    "max_pool2d",
    "mean",
    "add",
    "sub",
    "mul",
    "concatenation",
    "pad",
    "reshape",
    *HOST_OPERATORS,
)

#: Operators with weights and a bias.
WEIGHTED = ("conv2d", "depthwise_conv2d", "fully_connected")

#: Operators on two operands, element by element: two tensors, or a tensor and a constant.
ELEMENTWISE = ("add", "sub", "mul")

#: Operators that reduce each window of a channel to one value.
POOLS = ("average_pool2d", "max_pool2d")

#: Operators with a window: kernel, stride and padding.
WINDOWED = ("conv2d", "depthwise_conv2d", *POOLS)


class TableError(ValueError):
    """A table that describes no network; the message names the layer, the value and what is allowed."""


@dataclass(frozen=True)
class Quantization:
    """``real = scale * (q - zero_point)``; ``scale`` holds a float32 value exactly."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class TensorType:
    """Shape (without the batch), element type (``int8``, ``uint8``, ``float32``) and quantisation of a tensor.

    ``quantization`` is None for float32.
    """

    shape: tuple[int, ...]
    dtype: str = "int8"
    quantization: Quantization | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class Layer:
    """One row of the table.

    Parameters
    ----------
    name : str
        Unique in the table; also the name of the tensor the layer makes.
    operator : str
        One of :data:`OPERATORS`.
    inputs : tuple of str
        Names of the layers, or of the table's inputs, that it reads. ``add``, ``sub`` and ``mul`` have their two
        operands, in order, or one and a ``constant``; a ``concatenation`` has any number; all others have one.
    output : TensorType
        What it makes.
    kernel, stride : (int, int)
        Height and width of the window (convolutions and pools), steps down and across.
    padding : (int, int, int, int)
        Rows above, rows below, columns left, columns right; always explicit. A convolution pads with its input's
        zero point, a pool leaves padded positions out, a ``pad`` row fills with its output's zero point.
    clamp : (int, int)
        Least and greatest output value: the activation function in the output's own numbers.
    weights : int8 array or None
        ``conv2d``: (C_out, kernel height, kernel width, C_in). ``depthwise_conv2d``: (kernel height, kernel width,
        C_out), where C_out is a multiple of C_in and channel c reads channel ``c // (C_out // C_in)``.
        ``fully_connected``: (C_out, C_in), where C_in runs over the flattened input.
    bias : int32 array (C_out,) or None
        Always there when ``weights`` is.
    weight_scales : float32 array or None
        (C_out,), or (1,) for a ``fully_connected`` with one scale, whose effective scale TFLite rounds differently.
    activation : str
        ``none``, ``relu`` or ``relu6``: where ``clamp`` came from, for people to read.
    constant : int8 array or None
        The operand of an ``add``, ``sub`` or ``mul`` that is no tensor. Its shape broadcasts to the output's: ``()``,
        ``(C,)``, or whatever else fits the last axes.
    constant_quantization : Quantization or None
        Always there when ``constant`` is.
    constant_first : bool
        Whether a ``sub`` is ``constant - x`` and not ``x - constant``; for other operators the order means nothing.
    axis : int
        The axis of its output's shape along which a ``concatenation`` puts its inputs one behind the other, from 0.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    output: TensorType
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    clamp: tuple[int, int] = (-128, 127)
    weights: np.ndarray | None = None
    bias: np.ndarray | None = None
    weight_scales: np.ndarray | None = None
    activation: str = "none"
    constant: np.ndarray | None = None
    constant_quantization: Quantization | None = None
    constant_first: bool = False
    axis: int = 0

    @property
    def on_host(self) -> bool:
        """Whether the host computes this layer."""
        return self.operator in HOST_OPERATORS

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference; a padded position counts."""
        if self.operator == "depthwise_conv2d":
            return self.output.size * prod(self.kernel)
        if self.weights is None:
            return 0
        return prod(self.output.shape[:-1]) * self.weights.size

    @property
    def parameters(self) -> int:
        """Number of weights and biases, or of values of a constant operand."""
        return sum(array.size for array in (self.weights, self.bias, self.constant) if array is not None)


@dataclass(frozen=True, eq=False)
class Table:
    """A network: its inputs, its layers in execution order, and the names of its outputs.

    Parameters
    ----------
    name : str
        What reports and folders call it.
    inputs : dict of str to TensorType
        The tensors that the user brings.
    layers : tuple of Layer
        In execution order: a layer reads only inputs and earlier layers.
    outputs : tuple of str
        Names of the layers whose tensors the user gets.
    unfolded : Table or None
        The network before constant channels were folded away, which gives the same outputs; None: none were.

    Raises
    ------
    TableError
        If the rows do not fit together; every problem found is listed, one a line.
    """

    name: str
    inputs: dict[str, TensorType]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]
    unfolded: "Table | None" = None
    _by_name: dict[str, Layer] = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "_by_name", {layer.name: layer for layer in self.layers})
        problems = list(_problems(self))
        if problems:
            raise TableError("\n".join(problems))

    def __getitem__(self, name: str) -> Layer:
        """The layer of that name."""
        return self._by_name[name]

    def tensor(self, name: str) -> TensorType:
        """Type of the tensor called ``name``, be it an input or a layer's output."""
        return self.inputs[name] if name in self.inputs else self._by_name[name].output

    def source(self, layer: Layer) -> TensorType:
        """Type of the first tensor that ``layer`` reads."""
        return self.tensor(layer.inputs[0])

    def sources(self, layer: Layer) -> tuple[TensorType, ...]:
        """Types of all tensors that ``layer`` reads, in order."""
        return tuple(self.tensor(name) for name in layer.inputs)

    def consumers(self, name: str) -> list[Layer]:
        """The layers that read tensor ``name``, in execution order."""
        return [layer for layer in self.layers if name in layer.inputs]

    def with_layers(self, layers, outputs=None) -> "Table":
        """A copy with other layers (and other outputs, where given)."""
        return replace(self, layers=tuple(layers), outputs=self.outputs if outputs is None else tuple(outputs))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights, biases and constant operands."""
        return sum(layer.parameters for layer in self.layers)


def _problems(table):
    """Yield a sentence for everything about ``table`` that cannot be."""
    known = dict(table.inputs)
    for layer in table.layers:
        where = f"{table.name}: {layer.name}"
        if layer.name in known:
            yield f"{where}: the name is taken already"
        missing = [name for name in layer.inputs if name not in known]
        if missing or not layer.inputs:
            yield f"{where}: inputs must name table inputs or earlier layers, not {', '.join(missing) or 'nothing'}"
        else:
            for problem in _layer_problems(layer, [known[name] for name in layer.inputs]):
                yield f"{where}: {problem}"
        known[layer.name] = layer.output
    for name in table.outputs:
        if name not in known:
            yield f"{table.name}: output {name!r} is no layer"
    if not table.outputs:
        yield f"{table.name}: at least one output is needed"


def _layer_problems(layer, sources):
    """Yield what is wrong with ``layer``, reading tensors of the types ``sources``."""
    source, shape = sources[0], layer.output.shape
    if layer.operator not in OPERATORS:
        yield f"operator must be one of {', '.join(OPERATORS)}, not {layer.operator!r}"
        return
    for read in sources:
        if min((*shape, *read.shape), default=0) < 1:
            yield f"shapes must have positive sizes, not {read.shape} to {shape}"
            return
    count = 2 if layer.operator in ELEMENTWISE and layer.constant is None else 1
    if len(sources) != count and layer.operator != "concatenation":
        allowed = "two tensors, or one and a constant" if layer.operator in ELEMENTWISE else "one tensor"
        yield f"must read {allowed}, not {len(sources)}{' and one' if layer.constant is not None else ''}"
        return
    lo, hi = layer.clamp
    if not -128 <= lo <= hi <= 127:
        yield f"clamp must be ascending within -128..127, not {layer.clamp}"
    if layer.operator in WINDOWED:
        if len(source.shape) != 3 or len(shape) != 3:
            yield f"needs (height, width, channels) in and out, not {source.shape} to {shape}"
            return
        if min(layer.kernel) < 1 or min(layer.stride) < 1 or min(layer.padding) < 0:
            yield f"kernel, stride and padding cannot be {layer.kernel}, {layer.stride}, {layer.padding}"
            return
        top, bottom, left, right = layer.padding
        padded = source.shape[0] + top + bottom, source.shape[1] + left + right
        expected = tuple((size - k) // s + 1 for size, k, s in zip(padded, layer.kernel, layer.stride, strict=True))
        if shape[:2] != expected:
            yield f"output must be {expected[0]}x{expected[1]}, not {shape[0]}x{shape[1]}"
        if layer.operator in POOLS and (np.array(layer.padding) >= np.repeat(layer.kernel, 2)).any():
            yield f"padding must be smaller than the kernel {layer.kernel} of a pool, not {layer.padding}"
    if layer.operator in WEIGHTED:
        channels = source.size if layer.operator == "fully_connected" else source.shape[-1]
        expected = {
            "conv2d": (shape[-1], *layer.kernel, channels),
            "depthwise_conv2d": (*layer.kernel, shape[-1]),
            "fully_connected": (shape[-1], channels),
        }[layer.operator]
        if layer.weights is None or layer.bias is None or layer.weight_scales is None:
            yield "weights, bias and weight_scales must be given"
            return
        if layer.weights.shape != expected or layer.weights.dtype != np.int8:
            yield f"weights must be int8 {expected}, not {layer.weights.dtype} {layer.weights.shape}"
        if layer.bias.shape != shape[-1:] or layer.bias.dtype != np.int32:
            yield f"bias must be int32 {shape[-1:]}, not {layer.bias.dtype} {layer.bias.shape}"
        scales = layer.weight_scales
        one = layer.operator == "fully_connected" and scales.shape == (1,)
        if not (one or scales.shape == shape[-1:]) or scales.dtype != np.float32:
            yield f"weight_scales must be float32 {shape[-1:]}, not {scales.dtype} {scales.shape}"
        elif not (np.isfinite(scales).all() and (scales > 0).all()):
            yield f"weight_scales must be positive, not {scales[~(np.isfinite(scales) & (scales > 0))][0]}"
    if layer.operator in (*POOLS, "mean", "pad") and shape[-1] != source.shape[-1]:
        yield f"must keep its {source.shape[-1]} channels, not make {shape[-1]}"
    if layer.operator == "depthwise_conv2d" and shape[-1] % source.shape[-1]:
        yield f"must make a multiple of its {source.shape[-1]} channels, not {shape[-1]}"
    if layer.operator == "reshape" and layer.output.size != source.size:
        yield f"must keep its {source.size} elements, not make {layer.output.size}"
    if layer.operator in ("max_pool2d", "concatenation"):
        for read in sources:
            if read.quantization != layer.output.quantization:
                yield f"must keep its quantisation {read.quantization}, not make {layer.output.quantization}"
    if layer.operator == "concatenation":
        yield from _concatenation_problems(layer, [read.shape for read in sources])
    yield from _operand_problems(layer, sources)
    for tensor in (*sources, layer.output):
        quantization = tensor.quantization
        if tensor.dtype not in ("int8", "uint8", "float32"):
            yield f"element type must be int8, uint8 or float32, not {tensor.dtype}"
        elif tensor.dtype != "int8" and not layer.on_host:
            yield f"runs on int8 tensors only, not {tensor.dtype}"
        elif tensor.dtype != "float32" and quantization is None:
            yield f"an {tensor.dtype} tensor needs a quantisation"
        elif quantization is not None and not (np.isfinite(quantization.scale) and quantization.scale > 0):
            yield f"scale must be positive and finite, not {quantization.scale}"


def _concatenation_problems(layer, shapes):
    """Yield what is wrong with a concatenation of tensors of ``shapes``."""
    rank, axis = len(layer.output.shape), layer.axis
    if not 0 <= axis < rank:
        yield f"axis must be in 0..{rank - 1}, not {axis}"
    elif any(len(shape) != rank for shape in shapes):
        yield f"must read and make tensors of one rank, not {', '.join(map(str, shapes))} to {layer.output.shape}"
    else:
        for position, size in enumerate(layer.output.shape):
            sizes = [shape[position] for shape in shapes]
            if size != sum(sizes) if position == axis else {size} != set(sizes):
                yield f"cannot make {layer.output.shape} of {', '.join(map(str, shapes))} along axis {axis}"
                return


def _operand_problems(layer, sources):
    """Yield what is wrong with the operands of an elementwise operator, or with a constant where there is no place."""
    shape, constant = layer.output.shape, layer.constant
    if layer.operator in ELEMENTWISE:
        for source in sources:
            if source.shape != shape:
                yield f"must read and make tensors of one shape, not {source.shape} to {shape}"
    elif constant is not None:
        yield f"a {layer.operator} has no constant operand"
        return
    if layer.constant_first and (layer.operator != "sub" or constant is None):
        yield "only a sub of a constant can have it first"
    if constant is None:
        return
    fits = constant.ndim <= len(shape) and all(
        size in (1, whole) for size, whole in zip(constant.shape[::-1], shape[::-1], strict=False)
    )
    if constant.dtype != np.int8 or not fits:
        yield f"constant must be int8 and broadcast to {shape}, not {constant.dtype} {constant.shape}"
    quantization = layer.constant_quantization
    if quantization is None:
        yield "a constant needs a quantisation"
    elif not (np.isfinite(quantization.scale) and quantization.scale > 0):
        yield f"scale of the constant must be positive and finite, not {quantization.scale}"
    elif not -128 <= quantization.zero_point <= 127:
        yield f"zero point of the constant must be in -128..127, not {quantization.zero_point}"
