"""Stages: how the layers of a lowered table run on the engines.

A stage is what one pass of a tensor through the machine computes: windows of its source go through the depthwise
engine (``front``) or as they are into the patch buffer, and the array (``array``) makes the output from the patches.
"""

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from gen.errors import GenError
from gen.table import Layer, Table
from sim import golden

__all__ = ["Scaling", "Stage", "results_of", "sources_of", "stages_of", "window_bits"]

_FRONT = ("depthwise_conv2d", "average_pool2d", "mean", "pad")
_ARRAY = ("conv2d", "fully_connected")

#: Sizes that the job words of :mod:`hw.jobs` have room for: of an input with its padding, and of a window.
_MOST_SIZE, _MOST_KERNEL = 1023, 48


@dataclass(frozen=True, eq=False)
class Scaling:
    """From exact sums to int8: ``clamp(rescale(sum + bias) + zero_point, *clamp)``, arrays with a value a channel.

    ``multiplier`` and ``shift`` are TFLite's quantised multipliers; ``reach`` is the greatest magnitude of the sum
    without bias, over all inputs.
    """

    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    zero_point: int
    clamp: tuple[int, int]
    reach: np.ndarray

    def results(self, total) -> np.ndarray:
        """Output for sums ``total`` (bias included), by the golden model's arithmetic."""
        y = golden.multiply_by_quantized_multiplier(total, self.multiplier, self.shift) + self.zero_point
        return np.clip(y, *self.clamp)


@dataclass(frozen=True, eq=False)
class Stage:
    """One pass through window generator, depthwise engine or gather, and array.

    Parameters
    ----------
    front, array : Layer or None
        The layers it computes; at least one. Without ``array`` the array copies its input.
    source, output : str
        Tensors that it reads and makes.
    source_shape, patch_shape, output_shape : (int, int, int)
        Height, width, channels of the source, of the depthwise engine's output (source channels without one) on the
        output's grid, and of the output.
    kernel, stride, padding
        Of the windows over the source.
    pad : int
        What positions outside the source read as.
    window_weights : int8 array (kernel height, kernel width, C) or None
        The depthwise engine's.
    window_scaling : Scaling or None
        The depthwise engine's.
    weights : int8 array (C_out, kernel height, kernel width, C_in)
        The array's; kernel 1 x 1 behind a depthwise engine.
    scaling : Scaling
        The array's.
    """

    front: Layer | None
    array: Layer | None
    source: str
    output: str
    source_shape: tuple[int, int, int]
    patch_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    pad: int
    window_weights: np.ndarray | None
    window_scaling: Scaling | None
    weights: np.ndarray
    scaling: Scaling

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The table's layers that it computes, in order."""
        return tuple(layer for layer in (self.front, self.array) if layer is not None)

    @property
    def name(self) -> str:
        """Its layers' names."""
        return " + ".join(layer.name for layer in self.layers)


def stages_of(table: Table) -> list[Stage]:
    """Cut a lowered table into stages, in execution order.

    Raises
    ------
    GenError
        If the engines lack something that the table needs; every such layer is listed.
    """
    problems, stages = [], []
    for front, array in _pairs(table):
        try:
            stages.append(_stage(table, front, array))
        except GenError as error:
            problems.append(f"{table.name}: {(front or array).name}: {error}")
    if not stages and not problems:
        problems.append(f"{table.name}: the accelerator has nothing to do: no layer runs on it")
    if problems:
        raise GenError("\n".join(problems))
    return stages


def sources_of(stages: list[Stage]) -> list[str]:
    """Tensors that the host brings, in the order in which the stages read them."""
    made = {stage.output for stage in stages}
    return list(dict.fromkeys(stage.source for stage in stages if stage.source not in made))


def results_of(table: Table) -> set[str]:
    """Tensors that the accelerator leaves for the host: outputs, or what host operators make outputs of."""
    names = set()
    for name in table.outputs:
        while name not in table.inputs and (table[name].on_host or table[name].operator == "reshape"):
            name = table[name].inputs[0]
        if name not in table.inputs:
            names.add(name)
    return names


def _pairs(table):
    """Layers that share a stage: (layer of the depthwise engine or None, layer of the array or None)."""
    pending = None  # a front layer that waits for the array's half of its stage
    for layer in table.layers:
        if layer.on_host or layer.operator == "reshape":
            continue
        if pending is not None and layer.operator in _ARRAY and _fits_behind(table, pending, layer):
            yield pending, layer
            pending = None
            continue
        if pending is not None:
            yield pending, None
        pending = layer if layer.operator in _FRONT else None
        if pending is None:
            yield None, layer
    if pending is not None:
        yield pending, None


def _tensor_of(table, layer):
    """The tensor in the feature memory that ``layer`` reads. A reshape of what the host brings is the host's work."""
    seen = origin = layer.inputs[0]
    while origin not in table.inputs and table[origin].operator == "reshape":
        origin = table[origin].inputs[0]
    if origin not in table.inputs and table[origin].on_host and not _from_host(table, origin):
        raise GenError(
            f"reads {origin}, a {table[origin].operator} of what the accelerator makes; "
            "the host works only at the network's edges"
        )
    # A fully connected layer runs over its input in whatever shape it lies there.
    if layer.operator == "fully_connected" or _shape(table.tensor(origin)) == _shape(table.tensor(seen)):
        return origin
    if _from_host(table, origin):
        return seen
    shapes = ("x".join(map(str, table.tensor(name).shape)) for name in (origin, seen))
    raise GenError(f"reads {origin} reshaped from {' to '.join(shapes)}, which has no engine: it would move data")


def _from_host(table, name):
    """Whether the host has tensor ``name`` before the accelerator starts."""
    while name not in table.inputs:
        layer = table[name]
        if not (layer.on_host or layer.operator == "reshape"):
            return False
        name = layer.inputs[0]
    return True


def _shape(tensor):
    """Height, width, channels of a tensor; a vector is one pixel."""
    return (1,) * (3 - len(tensor.shape)) + tensor.shape


def _fits_behind(table, front, layer):
    """Whether the array's ``layer`` can take its pixels straight from ``front``."""
    source = layer.inputs[0]
    while source not in table.inputs and table[source].operator == "reshape":
        source = table[source].inputs[0]
    alone = source == front.name and len(_readers(table, front.name)) == 1 and front.name not in table.outputs
    if layer.operator == "fully_connected":
        return alone and prod(_shape(front.output)[:2]) == 1
    alone = alone and _shape(table.source(layer)) == _shape(front.output)
    return alone and layer.kernel == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0, 0, 0)


def _readers(table, name):
    """Layers that read tensor ``name``, past reshapes."""
    readers = []
    for layer in table.consumers(name):
        kept = layer.operator == "reshape"
        readers += [layer] if kept and layer.name in table.outputs else []
        readers += _readers(table, layer.name) if kept else [layer]
    return readers


def _stage(table, front, array):
    window = front or array
    if window.operator not in (*_FRONT, *_ARRAY):
        raise GenError(f"{window.operator} has no engine yet")
    source = _tensor_of(table, window)
    source_shape = _shape(table.tensor(source))
    kernel, stride, padding = window.kernel, window.stride, window.padding
    if window.operator in ("mean", "fully_connected"):
        kernel, stride, padding = source_shape[:2], (1, 1), (0, 0, 0, 0)
    # A window that stands in one place only has no stride.
    stride = tuple(1 if size == 1 else step for size, step in zip(_shape(window.output)[:2], stride, strict=True))
    if max(stride) > 2:
        raise GenError(f"stride must be 1 or 2, not {max(stride)}")
    padded = source_shape[0] + sum(padding[:2]), source_shape[1] + sum(padding[2:])
    for what, sizes, most in (("input with its padding", padded, _MOST_SIZE), ("window", kernel, _MOST_KERNEL)):
        if max(sizes) > most:
            raise GenError(f"{what} must be at most {most}x{most}, not {sizes[0]}x{sizes[1]}")
    window_weights = window_scaling = None
    if front is not None:
        window_weights, window_scaling = _settled(*_window_arithmetic(table, front, source_shape), 2)
    last = array or front
    output_shape = _shape(last.output)
    patch_shape = (*_shape(window.output)[:2], source_shape[2])
    if array is None:
        weights, scaling = _copy(source_shape[2])
    else:
        rows, columns = kernel if front is None else (1, 1)
        weights = array.weights.reshape(output_shape[2], rows, columns, -1)
        scaling = _weighted_scaling(table, array)
    weights, scaling = _settled(weights, scaling, 0)
    return Stage(
        front=front,
        array=array,
        source=source,
        output=last.name,
        source_shape=source_shape,
        patch_shape=patch_shape,
        output_shape=output_shape,
        kernel=kernel,
        stride=stride,
        padding=padding,
        pad=(window.output if window.operator == "pad" else table.source(window)).quantization.zero_point,
        window_weights=window_weights,
        window_scaling=window_scaling,
        weights=weights,
        scaling=scaling,
    )


def _weighted_scaling(table, layer):
    """Scaling of a layer with weights; the input's zero point moves into the bias, since padding reads as it."""
    channel_last = layer.operator == "depthwise_conv2d"
    by_channel = np.moveaxis(layer.weights, -1, 0) if channel_last else layer.weights
    flat = by_channel.reshape(by_channel.shape[0], -1).astype(np.int64)
    multiplier, shift = golden.layer_multipliers(table, layer)
    zero_point = table.source(layer).quantization.zero_point
    channels = np.zeros(flat.shape[0], np.int64)
    return Scaling(
        bias=layer.bias.astype(np.int64) - zero_point * flat.sum(axis=1),
        multiplier=multiplier + channels,
        shift=shift + channels,
        zero_point=layer.output.quantization.zero_point,
        clamp=layer.clamp,
        reach=128 * np.abs(flat).sum(axis=1),
    )


def _window_arithmetic(table, layer, source_shape):
    """Weights and scaling of a layer on the depthwise engine."""
    if layer.operator == "depthwise_conv2d":
        return layer.weights, _weighted_scaling(table, layer)
    channels = source_shape[2]
    if layer.operator == "mean":
        count, kernel, weight = prod(source_shape[:2]), source_shape[:2], 1
        multiplier, shift = (int(value[0]) for value in golden.layer_multipliers(table, layer))
        bias = -count * table.source(layer).quantization.zero_point
        zero_point = layer.output.quantization.zero_point
    elif layer.operator == "pad":
        # Copies: twice the value, halved.
        count, kernel, weight = 1, (1, 1), 2
        multiplier, shift = 1 << 30, 0
        bias = zero_point = 0
    else:
        if any(layer.padding):
            raise GenError("an average pool with padding has no engine yet; only whole windows are averaged")
        count, kernel = prod(layer.kernel), layer.kernel
        multiplier, shift, weight = _pool_multiplier(count)
        bias = zero_point = 0
    fill = np.full(channels, 1, np.int64)
    scaling = Scaling(
        bias=fill * bias,
        multiplier=fill * multiplier,
        shift=fill * shift,
        zero_point=zero_point,
        clamp=layer.clamp,
        reach=fill * (128 * count * weight),
    )
    return np.full((*kernel, channels), weight, np.int8), scaling


def _pool_multiplier(count):
    """Quantised multiplier and weight whose rescaling equals TFLite's integer division for every possible sum."""
    sums = np.arange(-128 * count, 127 * count + 1, dtype=np.int64)
    exact = np.where(sums > 0, (sums + count // 2) // count, -((count // 2 - sums) // count))
    for weight in (64, 32, 16, 8, 4, 2, 1):
        if 128 * count * weight >= 2**31:
            continue
        multiplier, shift = golden.quantize_multiplier(1 / (count * weight))
        if np.array_equal(golden.multiply_by_quantized_multiplier(weight * sums, multiplier, shift), exact):
            return multiplier, shift, weight
    raise GenError(f"no multiplier averages {count} values exactly")


def _copy(channels):
    """Weights and scaling that pass a tensor through the array unchanged: twice itself, halved."""
    ones = np.ones(channels, np.int64)
    scaling = Scaling(
        bias=0 * ones, multiplier=ones << 30, shift=0 * ones, zero_point=0, clamp=(-128, 127), reach=256 * ones
    )
    return (2 * np.eye(channels, dtype=np.int8)).reshape(channels, 1, 1, channels), scaling


def _settled(weights, scaling, channel_axis):
    """Weights and scaling with every constant channel reduced to its constant.

    A channel whose output is one value at both ends of its sums is that value for every input, for rescaling is
    monotone. Its weights become 0, its sum twice the result, and its rescaling a half: nothing large is left for the
    requantiser to hold.
    """
    lowest, highest = scaling.bias - scaling.reach, scaling.bias + scaling.reach
    value = scaling.results(lowest)
    constant = value == scaling.results(highest)
    kept = np.expand_dims(~constant, tuple(axis for axis in range(weights.ndim) if axis != channel_axis))
    return weights * kept.astype(np.int8), replace(
        scaling,
        bias=np.where(constant, 2 * (value - scaling.zero_point), scaling.bias),
        multiplier=np.where(constant, 1 << 30, scaling.multiplier),
        shift=np.where(constant, 0, scaling.shift),
        reach=np.where(constant, 0, scaling.reach),
    )


def window_bits(scaling: Scaling) -> int:
    """Bits that ``sum + bias`` needs in the requantiser: beyond them the clamp has decided."""
    lowest, highest = scaling.bias - scaling.reach, scaling.bias + scaling.reach
    at_low, at_high = scaling.results(lowest), scaling.results(highest)
    for bits in range(4, 33, 2):
        least, most = -(1 << bits - 1), (1 << bits - 1) - 1
        kept = [scaling.results(np.clip(edge, least, most)) for edge in (lowest, highest)]
        # Monotone: what agrees at both ends agrees between them.
        if np.array_equal(kept[0], at_low) and np.array_equal(kept[1], at_high):
            return bits
    raise GenError("an accumulator leaves 32 bits")
