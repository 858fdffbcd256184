"""Stages: how the layers of a lowered table run on the engines.

A stage is what one pass of a tensor through the machine computes: windows of its source go through the depthwise
engine (``front``) or as they are into the patch buffer, the array (``array``) makes words from the patches, and the
residual adder (``sum``) adds those of another tensor.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product
from math import prod

import numpy as np

from gen.errors import GenError
from gen.table import Layer, Table
from sim import golden

__all__ = [
    "MOVED",
    "Region",
    "ResidualScaling",
    "Scaling",
    "Stage",
    "host_layers",
    "results_of",
    "sources_of",
    "stages_of",
    "stages_or_problems",
]

#: Operators that only move data between the accelerator's results and the network's outputs: the host's reading order.
MOVED = ("reshape", "concatenation")

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

    @cached_property
    def window_bits(self) -> np.ndarray:
        """Bits that each channel's ``sum + bias`` needs in the requantiser: beyond them the clamp has decided."""
        return _window_bits(self.bias - self.reach, self.bias + self.reach, self.results)


@dataclass(frozen=True, eq=False)
class ResidualScaling:
    """Parameters of ``rescale(rescale(x1 - z1) +- rescale(x2 - z2)) + zero_point``, clamped: see ``sim.golden``.

    ``multipliers`` and ``shifts`` are of x1, x2 and their sum; x1 is what the array makes, x2 the other tensor.
    """

    zero_points: tuple[int, int]
    multipliers: tuple[int, int, int]
    shifts: tuple[int, int, int]
    subtract: bool
    zero_point: int
    clamp: tuple[int, int]

    def results(self, total) -> np.ndarray:
        """Output for scaled sums ``total``."""
        y = golden.multiply_by_quantized_multiplier(total, self.multipliers[2], self.shifts[2]) + self.zero_point
        return np.clip(y, *self.clamp)

    @cached_property
    def window_bits(self) -> int:
        """As those of :class:`Scaling`, of the scaled sum."""
        return int(_window_bits(np.array([-(1 << 28)]), np.array([1 << 28]), self.results)[0])


@dataclass(frozen=True)
class Region:
    """A rectangle of a feature map: its first row and column, and those behind its last."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> range:
        """Its rows."""
        return range(self.top, self.bottom)

    @property
    def columns(self) -> range:
        """Its columns."""
        return range(self.left, self.right)


@dataclass(frozen=True, eq=False)
class Stage:
    """One pass through window generator, depthwise engine or gather, and array.

    Parameters
    ----------
    front, array, sum : Layer or None
        The layers it computes; at least one. Without ``array`` the array copies its input.
    source, output : str
        Tensors that it reads and makes.
    residual : str or None
        The tensor that it adds, of the output's shape.
    source_shape, output_shape : (int, int, int)
        Height, width, channels.
    region : Region
        What it makes of its output; all of it, but for pools whose divisor depends on the place.
    kernel, stride, padding
        Of the windows over the source.
    pad : int
        What positions outside the source read as.
    repeats : int
        How often each window comes, each time with weights of its own, for weights beyond int8; kernel 1 x 1 then.
    maximum : bool
        Whether the depthwise engine takes maxima in place of sums of products.
    window_weights : int8 array (kernel height, kernel width, C), or (repeats, 1, 1, C), or None
        The depthwise engine's.
    window_scaling : Scaling or None
        The depthwise engine's.
    weights : int8 array (C_out, kernel height, kernel width, C_in)
        The array's; kernel 1 x 1 behind a depthwise engine.
    scaling : Scaling
        The array's.
    residual_scaling : ResidualScaling or None
        The residual adder's.
    """

    front: Layer | None
    array: Layer | None
    sum: Layer | None
    source: str
    output: str
    residual: str | None
    source_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    region: Region
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    pad: int
    repeats: int
    maximum: bool
    window_weights: np.ndarray | None
    window_scaling: Scaling | None
    weights: np.ndarray
    scaling: Scaling
    residual_scaling: ResidualScaling | None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The table's layers that it computes, in order."""
        return tuple(layer for layer in (self.front, self.array, self.sum) if layer is not None)

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
    stages, problems = stages_or_problems(table)
    if problems:
        raise GenError("\n".join(problems))
    return stages


def stages_or_problems(table: Table) -> tuple[list[Stage], list[str]]:
    """As :func:`stages_of`, but what the engines lack comes as a list beside the other stages."""
    problems, stages = [], []
    for group in _groups(table):
        try:
            stages += _stages(table, group)
        except GenError as error:
            problems.append(f"{table.name}: {group.first.name}: {error}")
    if not stages and not problems:
        problems.append(f"{table.name}: the accelerator has nothing to do: no layer runs on it")
    return stages, problems


def sources_of(stages: list[Stage]) -> list[str]:
    """Tensors that the host brings, in the order in which the stages read them."""
    made = {stage.output for stage in stages}
    read = [name for stage in stages for name in (stage.source, stage.residual) if name is not None]
    return list(dict.fromkeys(name for name in read if name not in made))


def results_of(table: Table) -> set[str]:
    """Tensors that the accelerator leaves for the host: outputs, or what the host makes outputs of."""
    return {name for name in _read_by_host(table) if not _without_engine(table[name])}


def host_layers(table: Table) -> set[str]:
    """Layers that the host runs: before the accelerator, and behind it."""
    behind = _read_by_host(table)
    return {
        layer.name
        for layer in table.layers
        if layer.on_host or (_without_engine(layer) and (layer.name in behind or _from_host(table, layer.name)))
    }


def _read_by_host(table):
    """Layers whose tensors the host reads, or makes, on its way to the outputs."""
    names, pending = set(), list(table.outputs)
    while pending:
        name = pending.pop()
        if name not in table.inputs and name not in names:
            names.add(name)
            pending += table[name].inputs if _without_engine(table[name]) else ()
    return names


def _without_engine(layer):
    """Whether no engine runs ``layer``."""
    return layer.on_host or layer.operator in MOVED


def _sums_tensors(layer):
    """Whether the residual adder computes ``layer``."""
    return layer.operator in ("add", "sub") and layer.constant is None


def _on_front(table, layer):
    """Whether the depthwise engine computes ``layer``."""
    if layer.operator == "depthwise_conv2d":
        return layer.output.shape[-1] == table.source(layer).shape[-1]
    return layer.operator in ("average_pool2d", "max_pool2d", "mean", "pad") or layer.constant is not None


def _on_array(table, layer):
    """Whether the array computes ``layer``."""
    return layer.operator in ("conv2d", "fully_connected", "depthwise_conv2d") and not _on_front(table, layer)


@dataclass
class _Group:
    """Layers that share a stage."""

    front: Layer | None = None
    array: Layer | None = None
    sum: Layer | None = None

    @property
    def first(self):
        return self.front or self.array or self.sum

    @property
    def product(self):
        """The layer whose tensor the array makes."""
        return self.array or self.front

    @property
    def last(self):
        return self.sum or self.product


def _groups(table):
    """The accelerator's layers, those that share a stage together, in an order in which they can run."""
    groups = []
    for layer in table.layers:
        if _without_engine(layer):
            continue
        last = groups[-1] if groups else _Group()
        if (
            _on_array(table, layer)
            and last.front
            and last.last is last.front
            and _fits_behind(table, last.front, layer)
        ):
            last.array = layer
        elif _sums_tensors(layer) and (summands := _summands(table, groups, layer)):
            # The one whose results come slowest; it goes behind the other operand, since nobody else waits for it.
            best = max(summands, key=lambda group: group.product.macs)
            best.sum = layer
            others = [_origin(table, name) for name in layer.inputs]
            latest = max(number for number, group in enumerate(groups) if group.last.name in others or group is best)
            groups.remove(best)
            groups.insert(latest, best)
        else:
            kind = "front" if _on_front(table, layer) else "sum" if _sums_tensors(layer) else "array"
            groups.append(_Group(**{kind: layer}))
    return groups


def _summands(table, groups, layer):
    """Groups that could have ``layer``, a sum, as their last, for nothing else reads what they make."""
    if _origin(table, layer.inputs[0]) == _origin(table, layer.inputs[1]):
        return []
    # The adder subtracts from what the array makes.
    names = layer.inputs[:1] if layer.operator == "sub" else layer.inputs
    made = {group.last.name: group for group in groups}
    found = []
    for name in names:
        alone = len(_readers(table, name)) == 1 and name not in table.outputs
        if alone and name in made and made[name].sum is None:
            found.append(made[name])
    return found


def _origin(table, name):
    """The tensor that ``name`` is a reshape of."""
    while name not in table.inputs and table[name].operator == "reshape":
        name = table[name].inputs[0]
    return name


def _tensor_of(table, layer):
    """The tensor in the feature memory that ``layer`` reads. A reshape of what the host brings is the host's work."""
    return _resident(table, layer, layer.inputs[0])


def _resident(table, layer, seen):
    origin = _origin(table, seen)
    on_host = origin not in table.inputs and _without_engine(table[origin])
    if on_host and not _from_host(table, origin):
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
        if not _without_engine(layer):
            return False
        if not all(_from_host(table, source) for source in layer.inputs[1:]):
            return False
        name = layer.inputs[0]
    return True


def _shape(tensor):
    """Height, width, channels of a tensor; a vector is one pixel."""
    return (1,) * (3 - len(tensor.shape)) + tensor.shape


def _fits_behind(table, front, layer):
    """Whether the array's ``layer`` can take its pixels straight from ``front``."""
    source = _origin(table, layer.inputs[0])
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


def _stages(table, group):
    """The stages of a group: one, or one for each divisor of a padded average pool."""
    front = group.front
    if front is None or front.operator != "average_pool2d" or not any(front.padding):
        return [_stage(table, group, None)]
    return [_stage(table, group, region) for region in _regions(table.source(front).shape, front)]


def _regions(shape, pool):
    """The parts of a pool's output in which as many positions of the window lie inside a source of ``shape``."""
    spans = []
    for axis in (0, 1):
        begin = np.arange(pool.output.shape[axis]) * pool.stride[axis] - pool.padding[2 * axis]
        inside = np.minimum(begin + pool.kernel[axis], shape[axis]) - np.maximum(begin, 0)
        borders = [0, *(np.flatnonzero(np.diff(inside)) + 1).tolist(), len(inside)]
        spans.append([(*span, int(inside[span[0]])) for span in pairwise(borders)])
    if any(inside < 1 for span in spans for *_, inside in span):
        raise GenError("a window of an average pool lies outside its input")
    for (top, bottom, rows), (left, right, columns) in product(*spans):
        yield Region(top, bottom, left, right), rows * columns


def _stage(table, group, part):
    """The stage of ``group``, or of ``part`` of its output: its region, and the positions that its pool averages."""
    front, array = group.front, group.array
    window = front or array or group.sum
    if window is group.array and not _on_array(table, window):
        raise GenError(f"{window.operator} of two tensors has no engine" if len(window.inputs) == 2 else
                       f"{window.operator} has no engine")  # fmt: skip
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
    repeats = 1
    if front is not None:
        arithmetic = _window_arithmetic(table, front, source_shape, part and part[1])
        window_weights, window_scaling = _settled(*arithmetic, -1)
        repeats = window_weights.shape[0] if window_weights.ndim == 4 else 1
    output_shape = _shape(group.last.output)
    if array is None:
        weights, scaling = _copy(source_shape[2])
    else:
        rows, columns = kernel if front is None else (1, 1)
        weights = _dense(array, source_shape[2]).reshape(output_shape[2], rows, columns, -1)
        scaling = _weighted_scaling(table, array)
    weights, scaling = _settled(weights, scaling, 0)
    residual = residual_scaling = None
    if group.sum is not None:
        residual, residual_scaling = _residual(table, group)
    return Stage(
        front=front,
        array=array,
        sum=group.sum,
        source=source,
        output=group.last.name,
        residual=residual,
        source_shape=source_shape,
        output_shape=output_shape,
        region=part[0] if part else Region(0, output_shape[0], 0, output_shape[1]),
        kernel=kernel,
        stride=stride,
        padding=padding,
        pad=_pad_value(table, window),
        repeats=repeats,
        maximum=front is not None and front.operator == "max_pool2d",
        window_weights=window_weights,
        window_scaling=window_scaling,
        weights=weights,
        scaling=scaling,
        residual_scaling=residual_scaling,
    )


def _pad_value(table, window):
    """What a position outside the source reads as."""
    if window.operator == "max_pool2d":
        return -128  # never wins
    if window.operator == "average_pool2d":
        return 0  # adds nothing
    return (window.output if window.operator == "pad" else table.source(window)).quantization.zero_point


def _dense(layer, channels):
    """Weights of a layer of the array: of a depthwise convolution with a multiplier, zeros between its channels."""
    if layer.operator != "depthwise_conv2d":
        return layer.weights
    rows, columns, count = layer.weights.shape
    dense = np.zeros((count, rows, columns, channels), np.int8)
    made = np.arange(count)
    dense[made, :, :, made // (count // channels)] = layer.weights.transpose(2, 0, 1)
    return dense


def _residual(table, group):
    """The tensor that a stage adds to what its array makes, and how."""
    layer = group.sum
    own = group.product.name if group.product else layer.inputs[0]
    position = [_origin(table, name) for name in layer.inputs].index(_origin(table, own))  # 0 for a sub
    other = layer.inputs[1 - position]
    order = [position, 1 - position, 2]
    multipliers, shifts = (values[order].tolist() for values in golden.addition_multipliers(table, layer))
    quantizations = golden.operand_quantizations(table, layer)
    return _resident(table, layer, other), ResidualScaling(
        zero_points=tuple(quantizations[n].zero_point for n in order[:2]),
        multipliers=tuple(multipliers),
        shifts=tuple(shifts),
        subtract=layer.operator == "sub",
        zero_point=layer.output.quantization.zero_point,
        clamp=layer.clamp,
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


def _window_arithmetic(table, layer, source_shape, count):
    """Weights and scaling of a layer on the depthwise engine; an average pool's is of ``count`` positions."""
    if layer.operator == "depthwise_conv2d":
        return layer.weights, _weighted_scaling(table, layer)
    channels = source_shape[2]
    if layer.constant is not None:
        return _constant_arithmetic(table, layer, channels)
    count = count or prod(layer.kernel)
    bias = zero_point = 0
    # Copies, and maxima, which come doubled: twice the value, halved.
    kernel, weight, multiplier, shift = layer.kernel, 2, 1 << 30, 0
    if layer.operator == "mean":
        count, kernel, weight = prod(source_shape[:2]), source_shape[:2], 1
        multiplier, shift = (int(value[0]) for value in golden.layer_multipliers(table, layer))
        bias = -count * table.source(layer).quantization.zero_point
        zero_point = layer.output.quantization.zero_point
    elif layer.operator == "average_pool2d":
        multiplier, shift, weight = _pool_multiplier(count)
    else:
        count = 1
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


#: Every int8 value, and how often a window may come for the sake of finer weights.
_INT8, _REPEATS = np.arange(-128, 128, dtype=np.int64), (1, 2, 4, 8, 16)


def _constant_arithmetic(table, layer, channels):
    """Weights (repeats, 1, 1, C) and scaling of an ``add``, ``sub`` or ``mul`` with a constant.

    A channel's output is a function of its input's 256 values: a straight line, rounded. Searched are a weight, a bias
    and a multiplier that give it exactly.
    """
    if layer.constant.ndim > 1 and prod(layer.constant.shape[:-1]) != 1:
        raise GenError(f"its constant must be one value, or one a channel, not of shape {layer.constant.shape}")
    constants = np.broadcast_to(layer.constant.reshape(-1), channels)
    lines = {int(value): _line(table, layer, value) for value in np.unique(constants)}
    for repeats in _REPEATS:
        found = {
            value: _factor(table, layer, value, 127 * repeats) or _fit(*line, layer.clamp, 127 * repeats)
            for value, line in lines.items()
        }
        if all(found.values()):
            break
    else:
        raise GenError("no weight and multiplier give its values exactly")
    weights, biases, multipliers, shifts = np.array([found[int(value)] for value in constants], np.int64).T
    parts = np.array([np.clip(weights - 127 * np.sign(weights) * n, -127, 127) for n in range(repeats)])
    parts = np.where(np.sign(parts) == np.sign(weights), parts, 0)
    return parts.astype(np.int8).reshape(repeats, 1, 1, channels), Scaling(
        bias=biases,
        multiplier=multipliers,
        shift=shifts,
        zero_point=layer.output.quantization.zero_point,
        clamp=layer.clamp,
        reach=128 * np.abs(weights),
    )


def _line(table, layer, value):
    """Outputs of ``layer`` for every int8 input, less the zero point, and the slope that they have but for rounding."""
    one = replace(
        layer, constant=np.array(value, np.int8), output=replace(layer.output, shape=(len(_INT8),)),
    )  # fmt: skip
    outputs = golden.run_layer(table, one, _INT8.astype(np.int8)).astype(np.int64)
    source, output = table.source(layer).quantization, layer.output.quantization
    if layer.operator == "mul":
        constant = layer.constant_quantization
        slope = float(golden.effective_scales(table, layer)[0]) * (int(value) - constant.zero_point)
    else:
        slope = source.scale / output.scale * (-1 if layer.operator == "sub" and layer.constant_first else 1)
    return outputs - output.zero_point, slope, output.zero_point


def _factor(table, layer, value, most):
    """As :func:`_fit`, of a ``mul``: its own sums and multiplier; None for another operator, or if they do not do."""
    if layer.operator != "mul":
        return None
    weight = value - layer.constant_quantization.zero_point
    multiplier, shift = (int(one[0]) for one in golden.layer_multipliers(table, layer))
    if abs(weight) > most or shift > 0:
        return None
    return weight, -weight * table.source(layer).quantization.zero_point, multiplier, shift


def _fit(outputs, slope, zero_point, clamp, most):
    """(weight, bias, multiplier, shift) with ``rescale(weight * x + bias) == outputs``, clamped; None if there is none.

    ``most`` bounds the weight. A result that the clamp has cut bounds the sum on one side only.
    """
    if outputs.min() == outputs.max():
        return 0, 2 * int(outputs[0]), 1 << 30, 0
    low, high = (bound - zero_point for bound in clamp)
    for weight in range(most, most // 2, -1):
        multiplier, shift = golden.quantize_multiplier(abs(slope) / weight)
        if shift > 0:
            return None
        signed = weight if slope > 0 else -weight
        above = _least_sum(outputs, multiplier, shift) - signed * _INT8
        below = _least_sum(outputs + 1, multiplier, shift) - 1 - signed * _INT8
        first, last = above[outputs > low].max(), below[outputs < high].min()
        if first <= last:
            return signed, int(first + last) // 2, multiplier, shift
    return None


def _least_sum(results, multiplier, shift):
    """The least sums that are rescaled to ``results`` or more."""
    low, high = np.full(results.shape, -(2**31)), np.full(results.shape, 2**31)
    while (high - low > 1).any():
        middle = (low + high) >> 1
        reached = golden.multiply_by_quantized_multiplier(middle, multiplier, shift) >= results
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high


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
    kept = np.expand_dims(~constant, tuple(axis for axis in range(weights.ndim) if axis != channel_axis % weights.ndim))
    return weights * kept.astype(np.int8), replace(
        scaling,
        bias=np.where(constant, 2 * (value - scaling.zero_point), scaling.bias),
        multiplier=np.where(constant, 1 << 30, scaling.multiplier),
        shift=np.where(constant, 0, scaling.shift),
        reach=np.where(constant, 0, scaling.reach),
    )


def _window_bits(lowest, highest, results):
    edges = [(edge, results(edge)) for edge in (lowest, highest)]
    needed = np.full(np.shape(lowest), 34)
    for bits in range(32, 2, -2):
        least, most = -(1 << bits - 1), (1 << bits - 1) - 1
        # Monotone: what agrees at both ends agrees between them.
        same = [results(np.clip(edge, least, most)) == result for edge, result in edges]
        needed[same[0] & same[1] & (needed == bits + 2)] = bits
    if needed.max() > 32:
        raise GenError("an accumulator leaves 32 bits")
    return needed
