"""The layer table: the one description of a network between the front end and everything behind it.

A :class:`Table` lists the network's layers in execution order, one :class:`Layer` a row. Importer and builders write
it, passes rewrite it, and golden model, plan, reports and hardware read it and nothing else. Shapes leave out the
batch, which is always 1: a feature map is ``(height, width, channels)``, a vector ``(channels,)``.

This module imports nothing of the project.
"""

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

__all__ = ["HOST_OPERATORS", "OPERATORS", "Layer", "Quantization", "Table", "TableError", "TensorType"]

#: Operators that run on the host, at the network's edges; everything else runs in the accelerator.
HOST_OPERATORS = ("quantize", "dequantize", "softmax")

#: Every operator a row may hold, host operators included.
OPERATORS = (
    "conv2d",
    "depthwise_conv2d",
    "fully_connected",
    "average_pool2d",
    "mean",
    "pad",
    "reshape",
    *HOST_OPERATORS,
)

#: Operators with weights and a bias.
WEIGHTED = ("conv2d", "depthwise_conv2d", "fully_connected")


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
        Names of the layers, or of the table's inputs, that it reads. A pad, reshape, convolution or host operator
        has exactly one.
    output : TensorType
        What it makes.
    kernel, stride : (int, int)
        Height and width of the window (convolutions and pools), steps down and across.
    padding : (int, int, int, int)
        Rows above, rows below, columns left, columns right; always explicit. A convolution pads with its input's
        zero point, an average pool leaves padded positions out, a ``pad`` row fills with its output's zero point.
    clamp : (int, int)
        Least and greatest output value: the activation function in the output's own numbers.
    weights : int8 array or None
        ``conv2d``: (C_out, kernel height, kernel width, C_in). ``depthwise_conv2d``: (kernel height, kernel width, C).
        ``fully_connected``: (C_out, C_in), where C_in runs over the flattened input.
    bias : int32 array (C_out,) or None
        Always there when ``weights`` is.
    weight_scales : float32 array or None
        (C_out,), or (1,) for a ``fully_connected`` with one scale, whose effective scale TFLite rounds differently.
    activation : str
        ``none``, ``relu`` or ``relu6``: where ``clamp`` came from, for people to read.
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
        """Number of weights and biases."""
        return 0 if self.weights is None else self.weights.size + self.bias.size


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

    Raises
    ------
    TableError
        If the rows do not fit together; every problem found is listed, one a line.
    """

    name: str
    inputs: dict[str, TensorType]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]
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
        """Number of weights and biases."""
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
            for problem in _layer_problems(layer, known[layer.inputs[0]]):
                yield f"{where}: {problem}"
        known[layer.name] = layer.output
    for name in table.outputs:
        if name not in known:
            yield f"{table.name}: output {name!r} is no layer"
    if not table.outputs:
        yield f"{table.name}: at least one output is needed"


def _layer_problems(layer, source):
    """Yield what is wrong with ``layer``, reading a tensor of type ``source``."""
    shape = layer.output.shape
    if layer.operator not in OPERATORS:
        yield f"operator must be one of {', '.join(OPERATORS)}, not {layer.operator!r}"
        return
    if min((*shape, *source.shape), default=0) < 1:
        yield f"shapes must have positive sizes, not {source.shape} to {shape}"
        return
    lo, hi = layer.clamp
    if not -128 <= lo <= hi <= 127:
        yield f"clamp must be ascending within -128..127, not {layer.clamp}"
    spatial = layer.operator in ("conv2d", "depthwise_conv2d", "average_pool2d")
    if spatial:
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
    if layer.operator in WEIGHTED:
        channels = source.size if layer.operator == "fully_connected" else source.shape[-1]
        expected = {
            "conv2d": (shape[-1], *layer.kernel, channels),
            "depthwise_conv2d": (*layer.kernel, channels),
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
    if layer.operator in ("depthwise_conv2d", "average_pool2d", "mean", "pad") and shape[-1] != source.shape[-1]:
        yield f"must keep its {source.shape[-1]} channels, not make {shape[-1]}"
    if layer.operator == "reshape" and layer.output.size != source.size:
        yield f"must keep its {source.size} elements, not make {layer.output.size}"
    for tensor in (source, layer.output):
        quantization = tensor.quantization
        if tensor.dtype not in ("int8", "uint8", "float32"):
            yield f"element type must be int8, uint8 or float32, not {tensor.dtype}"
        elif tensor.dtype != "float32" and not layer.on_host and tensor.dtype != "int8":
            yield f"runs on int8 tensors only, not {tensor.dtype}"
        elif tensor.dtype != "float32" and quantization is None:
            yield f"an {tensor.dtype} tensor needs a quantisation"
        elif quantization is not None and not (np.isfinite(quantization.scale) and quantization.scale > 0):
            yield f"scale must be positive and finite, not {quantization.scale}"
