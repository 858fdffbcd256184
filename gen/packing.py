"""Packing: whether two output channels can share the array's multipliers (:mod:`hw.dot`), and in which order they can.

Weights of -128 that would meet in a multiplier forbid it. Most channels have an order in which none do.
"""

from dataclasses import replace

import numpy as np

from gen.layout import weight_words
from gen.stages import Stage, stages_of
from gen.table import ELEMENTWISE, WEIGHTED, Table
from hw.config import ArrayShape
from hw.dot import packable

__all__ = ["obstacle", "pair_channels", "prevented"]

#: Operators whose output channel c is made of channel c of their inputs.
_BY_CHANNEL = ("depthwise_conv2d", "average_pool2d", "max_pool2d", "mean", "pad", *ELEMENTWISE)

#: Operators that sum over all channels of their input.
_DENSE = ("conv2d", "fully_connected")

#: Pairs of channels that the search for an order looks at.
_TRIES_PER_CHANNEL = 100


def obstacle(stages: list[Stage], array: ArrayShape) -> str | None:
    """Why neighbouring output channels of ``stages`` cannot share multipliers on such an array; None where they can."""
    if array.lanes % 2:
        return f"N is odd, {array.lanes}"
    names = [stage.name for stage in stages if not _packable(stage, array)]
    return f"weights of -128 would meet in {', '.join(names)}" if names else None


def prevented(table: Table, stages: list[Stage], array: ArrayShape) -> str | None:
    """As :func:`obstacle` of ``table``, whose stages these are, with its channels in the order that suits best."""
    why = obstacle(stages, array)
    if why is None or array.lanes % 2 or (other := pair_channels(table)) is table:
        return why
    return obstacle(stages_of(other), array)


def _packable(stage, array):
    if not (stage.weights == -128).any():
        return True
    words = weight_words(stage, array)
    return all(packable(first, second) for first, second in zip(words[::2], words[1::2], strict=True))


def pair_channels(table: Table) -> Table:
    """The table with channels of its inner tensors in an order in which neighbours can share multipliers.

    ``table`` itself where it needs no other, or has none: inputs, outputs, and what the host or a reshape reads keep
    theirs. The order is all that changes; the network before it is ``unfolded``.
    """
    orders: dict[str, np.ndarray] = {}
    for names in _tied(table):
        makers = [layer for layer in table.layers if layer.name in names and layer.operator in _DENSE]
        order = _paired([_rows(table, layer, orders) for layer in makers])
        if order is not None:
            orders |= dict.fromkeys(names, order)
    if not orders:
        return table
    layers = [_reordered(table, layer, orders) for layer in table.layers]
    return replace(table.with_layers(layers), unfolded=table.unfolded or table)


def _tied(table):
    """Sets of tensors that must have their channels in one order, whichever it is; those that are free to."""
    groups = {name: {name} for name in (*table.inputs, *(layer.name for layer in table.layers))}
    fixed = {*table.inputs, *table.outputs}
    for layer in table.layers:
        same = layer.output.shape[-1] == table.source(layer).shape[-1]
        if layer.operator in _BY_CHANNEL and same:
            whole = set().union(*(groups[name] for name in (layer.name, *layer.inputs)))
            groups |= dict.fromkeys(whole, whole)
        elif layer.operator not in _DENSE:
            fixed |= {layer.name, *layer.inputs}
    return [group for group in {id(group): group for group in groups.values()}.values() if not group & fixed]


def _by_position(table, layer, orders):
    """Weights of a dense layer (C_out, positions, C_in), its input channels in their new order."""
    name, channels = layer.inputs[0], table.source(layer).shape[-1]
    weights = layer.weights.reshape(len(layer.weights), -1, channels)
    return weights[..., orders[name]] if name in orders else weights


def _rows(table, layer, orders):
    """Weights (C_out, K) as they come to the multipliers, as far as pairs of rows go."""
    weights = _by_position(table, layer, orders)
    if weights.shape[-1] > 4 or weights.shape[1] == 1:  # channels fill up to whole words; fewer are packed tightly
        weights = np.pad(weights, ((0, 0), (0, 0), (0, weights.shape[-1] % 2)))
    return weights.reshape(len(weights), -1)


def _paired(makers):
    """An order of channels in which neighbours of all ``makers``, (C, K) each, share; None: as they are, or none found.

    The last of an odd number has nothing beside it.
    """

    def share(first, second=None):
        return all(packable(w[first], np.zeros_like(w[first]) if second is None else w[second]) for w in makers)

    count = len(makers[0]) if makers else 0
    if all(share(*range(first, min(first + 2, count))) for first in range(0, count, 2)):
        return None
    tries = iter(range(_TRIES_PER_CHANNEL * count))
    lowest = sum((weights == -128).sum(axis=1) for weights in makers)
    order = _matched(np.argsort(-lowest, kind="stable").tolist(), share, tries)
    return None if order is None else np.array(order)


def _matched(channels, share, tries):
    """``channels``, the most difficult first, in pairs, by depth-first search; None if no way is found in ``tries``."""
    searches, chosen = [_partners(channels, share, tries)], []
    while searches:
        found = next(searches[-1], None)
        if found is None:
            searches.pop()
            del chosen[len(searches) - 1 :]
            continue
        pair, left = found
        del chosen[len(searches) - 1 :]
        chosen.append(pair)
        if len(left) > 1:
            searches.append(_partners(left, share, tries))
        elif all(map(share, left)):
            return [channel for pair in chosen for channel in pair] + left
    return None


def _partners(channels, share, tries):
    """Pairs that the first of ``channels`` can make, the easiest partner first, each with those that are then left."""
    channel, *others = channels
    for other in reversed(others):
        if next(tries, None) is None:
            return
        for pair in ((channel, other), (other, channel)):
            if share(*pair):
                yield pair, [one for one in others if one != other]
                break  # the other way round leaves the same channels


def _reordered(table, layer, orders):
    """``layer`` with the channels of its output, and of its inputs, in their new order."""
    changes = {}
    if layer.operator in _DENSE and layer.inputs[0] in orders:
        changes["weights"] = _by_position(table, layer, orders).reshape(layer.weights.shape)
    order = orders.get(layer.name)
    if order is None:
        return replace(layer, **changes)
    if layer.constant is not None and layer.constant.shape[-1:] not in ((), (1,)):
        changes["constant"] = layer.constant[..., order]
    if layer.operator in WEIGHTED:
        weights = changes.get("weights", layer.weights)
        changes["weights"] = weights[order] if layer.operator in _DENSE else weights[..., order]
        changes["bias"] = layer.bias[order]
        if layer.weight_scales.size > 1:
            changes["weight_scales"] = layer.weight_scales[order]
    return replace(layer, **changes)
