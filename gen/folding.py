"""Folding of constant channels: what cannot change need not be computed.

Interval arithmetic over the table finds channels that have one value for every input; they move into the biases of the
layers that read them, and go, with whatever only feeds them. Every channel that stays keeps its values, bit for bit.
"""

from dataclasses import dataclass, replace

import numpy as np

from gen.table import ELEMENTWISE, WEIGHTED, Layer, Table
from sim import golden

__all__ = ["Interval", "fold_constant_channels", "intervals"]

#: Operators whose output channel c depends on channel c of their inputs alone.
_BY_CHANNEL = ("depthwise_conv2d", "average_pool2d", "max_pool2d", "mean", "pad", *ELEMENTWISE)


@dataclass(frozen=True)
class Interval:
    """Least and greatest value of each channel of an int8 tensor, over all inputs and places: int64 (C,) each."""

    low: np.ndarray
    high: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """Which channels have one value."""
        return self.low == self.high

    def including(self, value) -> "Interval":
        """Widened to ``value``."""
        return Interval(np.minimum(self.low, value), np.maximum(self.high, value))


def intervals(table: Table) -> dict[str, Interval]:
    """Intervals of all int8 tensors of ``table``, by name."""
    found = {}
    for name, tensor in table.inputs.items():
        if tensor.dtype == "int8":
            found[name] = _any_value(tensor)
    for layer in table.layers:
        if layer.output.dtype == "int8":
            sources = [found.get(name) for name in layer.inputs]
            known = None not in sources and not layer.on_host
            found[layer.name] = _interval(table, layer, sources) if known else _any_value(layer.output)
    return found


def fold_constant_channels(table: Table) -> Table:
    """The table without the channels that cannot change, and without those that only feed such channels.

    A convolution whose padding shows at the border of a constant channel, because that is not the padding's value,
    keeps it. Outputs, and what the host reads, stay whole; so does a channel that an operator by channel shares with
    one that stays, and the first of a tensor that would vanish.
    """
    ranges = intervals(table)
    kept = _kept(table, ranges)
    layers = [_without(table, layer, kept, ranges) for layer in table.layers]
    return replace(table.with_layers(layers), unfolded=table)


def _any_value(tensor):
    channels = tensor.shape[-1]
    return Interval(np.full(channels, -128), np.full(channels, 127))


def _interval(table, layer, sources):
    """Interval of what ``layer`` makes of tensors with intervals ``sources``."""
    source = sources[0]
    if layer.operator in WEIGHTED:
        return _weighted(table, layer, source)
    match layer.operator:
        case "average_pool2d" | "max_pool2d":
            return Interval(np.clip(source.low, *layer.clamp), np.clip(source.high, *layer.clamp))
        case "pad":
            return source.including(layer.output.quantization.zero_point)
        case "mean":
            ends = [_constant_map(table, layer, [end]) for end in (source.low, source.high)]
        case "add" | "sub" | "mul":
            if layer.constant is not None and layer.constant.ndim > 1:
                return _any_value(layer.output)
            corners = [[end] for end in (source.low, source.high)]
            if len(sources) == 2:
                corners = [[a, b] for (a,) in corners for b in (sources[1].low, sources[1].high)]
            # Monotone in each operand, so the extremes lie at corners.
            ends = [_constant_map(table, layer, corner) for corner in corners]
        case "reshape" if layer.output.shape[-1] == table.source(layer).shape[-1]:
            return source
        case "concatenation" if layer.axis == len(layer.output.shape) - 1:
            return Interval(*(np.concatenate([getattr(s, end) for s in sources]) for end in ("low", "high")))
        case _:
            low, high = min(s.low.min() for s in sources), max(s.high.max() for s in sources)
            channels = np.ones(layer.output.shape[-1], np.int64)
            return Interval(low * channels, high * channels)
    return Interval(np.minimum.reduce(ends), np.maximum.reduce(ends))


def _constant_map(table, layer, values):
    """What ``layer``, an operator by channel, makes of tensors that have ``values`` (C,) everywhere."""
    shape = layer.output.shape[-1:]
    full = [value.astype(np.int8) for value in values]
    if layer.operator == "mean":
        full = [np.broadcast_to(value, table.source(layer).shape) for value in full]
    else:
        layer = replace(layer, output=replace(layer.output, shape=shape))
    return golden.run_layer(table, layer, *full).reshape(shape).astype(np.int64)


def _weighted(table, layer, source):
    """Interval of a layer with weights; a position that its padding may cover adds nothing, or something."""
    zero_point = table.source(layer).quantization.zero_point
    weights = _by_output(table, layer).astype(np.int64)  # (C_out, positions, C_in), or (C, positions, 1)
    low, high = source.low - zero_point, source.high - zero_point
    if layer.operator == "depthwise_conv2d":
        reads = np.arange(len(weights)) // (len(weights) // len(low))
        low, high = low[reads, None, None], high[reads, None, None]
    terms = weights * low, weights * high
    least, most = np.minimum(*terms), np.maximum(*terms)
    covered = _covered(table.source(layer).shape, layer)[None, :, None]
    least, most = np.where(covered, np.minimum(least, 0), least), np.where(covered, np.maximum(most, 0), most)
    multipliers = golden.layer_multipliers(table, layer)
    ends = [layer.bias.astype(np.int64) + term.sum(axis=(1, 2)) for term in (least, most)]
    results = [
        np.clip(
            golden.multiply_by_quantized_multiplier(end, *multipliers) + layer.output.quantization.zero_point,
            *layer.clamp,
        )
        for end in ends
    ]
    return Interval(*results)


def _by_output(table, layer):
    """Weights as (C_out, positions of the window, C_in), C_in 1 for a depthwise convolution."""
    if layer.operator == "depthwise_conv2d":
        return np.moveaxis(layer.weights, -1, 0).reshape(layer.weights.shape[-1], -1, 1)
    return layer.weights.reshape(len(layer.weights), -1, table.source(layer).shape[-1])


def _covered(shape, layer):
    """For each position of a layer's window, whether it may stand on padding: bool (positions,)."""
    if layer.operator == "fully_connected":
        return np.zeros(1, bool)
    outside = []
    for axis in (0, 1):
        first = np.arange(layer.output.shape[axis]) * layer.stride[axis] - layer.padding[2 * axis]
        at = first[:, None] + np.arange(layer.kernel[axis])
        outside.append(((at < 0) | (at >= shape[axis])).any(axis=0))
    return (outside[0][:, None] | outside[1]).reshape(-1)


def _foldable(table, layer, source):
    """Channels that can move into the bias of ``layer``, which is none by channel."""
    value_shows = source.low != table.source(layer).quantization.zero_point
    return source.constant & ~(value_shows & _covered(table.source(layer).shape, layer).any())


def _kept(table, ranges):
    """Which channels of each tensor stay: bool (C,) by name."""
    kept = {name: np.ones(tensor.shape[-1], bool) for name, tensor in table.inputs.items()}
    kept |= {layer.name: np.zeros(layer.output.shape[-1], bool) for layer in table.layers}
    for name in table.outputs:
        kept[name][:] = True
    changed = True
    while changed:
        before = sum(mask.sum() for mask in kept.values())
        for layer in reversed(table.layers):
            _need(table, layer, kept, ranges)
        changed = sum(mask.sum() for mask in kept.values()) != before
    return kept


def _need(table, layer, kept, ranges):
    """Mark what ``layer`` needs of its inputs, and shares with them."""
    own = kept[layer.name]
    if not own.any():
        own[0] = True
    dense = layer.operator == "depthwise_conv2d" and len(own) != len(kept[layer.inputs[0]])
    if layer.operator in _BY_CHANNEL and not dense:
        for name in layer.inputs:
            kept[name] |= own
            own |= kept[name]
    elif layer.operator in ("conv2d", "fully_connected"):
        source = ranges[layer.inputs[0]]
        used = _by_output(table, layer)[own].any(axis=(0, 1))
        kept[layer.inputs[0]] |= used & ~_foldable(table, layer, source)
    else:
        own[:] = True
        for name in layer.inputs:
            kept[name][:] = True


def _without(table, layer, kept, ranges) -> Layer:
    """``layer`` without the channels that go, of its output and of its input."""
    own, source = kept[layer.name], kept[layer.inputs[0]]
    if own.all() and source.all():
        return layer
    changes = {"output": replace(layer.output, shape=(*layer.output.shape[:-1], int(own.sum())))}
    if layer.constant is not None and layer.constant.shape[-1:] not in ((), (1,)):
        changes["constant"] = layer.constant[..., own]
    if layer.operator in WEIGHTED:
        scales = layer.weight_scales
        changes["weight_scales"] = scales if scales.size == 1 and len(own) > 1 else scales[own]
        bias = layer.bias.astype(np.int64)
    if layer.operator == "depthwise_conv2d":
        changes |= {"weights": layer.weights[..., own], "bias": layer.bias[own]}
    elif layer.operator in WEIGHTED:
        weights = _by_output(table, layer)
        gone = ~source & ranges[layer.inputs[0]].constant
        values = ranges[layer.inputs[0]].low[gone] - table.source(layer).quantization.zero_point
        bias = bias + weights[..., gone].astype(np.int64).sum(axis=1) @ values
        shape = (int(own.sum()), *layer.weights.shape[1:-1], -1)
        changes |= {"weights": weights[own][..., source].reshape(shape), "bias": bias[own].astype(np.int32)}
    return replace(layer, **changes)
