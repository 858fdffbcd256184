"""Random weights for a layer table, reproducible from one seed and scaled so that activations stay alive.

Trained networks owe batch normalisation that each channel uses the range of its activation. Random weights get the
same treatment: a layer's accumulators over a few random inputs give every channel its scale and its bias.
"""

from dataclasses import replace
from math import prod

import numpy as np

from gen.inputs import random_inputs
from gen.table import WEIGHTED, Layer, Table, TableError
from sim import golden

__all__ = ["placeholders", "with_random_weights"]


def placeholders(operator: str, kernel: tuple[int, int], channels: int, source: tuple[int, ...]) -> dict:
    """``weights``, ``bias`` and ``weight_scales`` of a layer, right in shape and type, that take no memory.

    ``channels`` is what the layer makes and ``source`` the shape that it reads. Nothing for an operator without
    weights.
    """
    if operator not in WEIGHTED:
        return {}
    shape = {
        "conv2d": (channels, *kernel, source[-1]),
        "depthwise_conv2d": (*kernel, channels),
        "fully_connected": (channels, prod(source)),
    }[operator]
    return {
        "weights": np.broadcast_to(np.int8(0), shape),
        "bias": np.broadcast_to(np.int32(0), channels),
        "weight_scales": np.broadcast_to(np.float32(1), channels),
    }


def with_random_weights(table: Table, seed: int) -> Table:
    """A copy of ``table`` with weights, biases and weight scales drawn from ``seed``.

    Weights are uniform in -127 to 127, with a scale per channel. Over random inputs, a channel's outputs lie around
    the middle of its clamp (a third of the way up where negative values are cut) with a standard deviation of 0.3 of
    the clamp's width: most are inside and both ends are met. All sums are of integers, so every machine gets the same.
    """
    largest = max(tensor.size for tensor in table.inputs.values())
    samples = random_inputs(table, min(8, max(3, 2**17 // largest)), seed)
    last = max((index for index, layer in enumerate(table.layers) if layer.operator in WEIGHTED), default=-1)
    layers = list(table.layers)
    for index, layer in enumerate(layers[: last + 1]):
        sources = [[tensors[name] for name in layer.inputs] for tensors in samples]
        if layer.operator in WEIGHTED:
            rng = np.random.default_rng([seed, index])
            layers[index], outputs = _calibrated(table, layer, [x for (x,) in sources], rng)
        else:
            outputs = [golden.run_layer(table, layer, *source) for source in sources]
        for tensors, output in zip(samples, outputs, strict=True):
            tensors[layer.name] = output
    return table.with_layers(layers)


def _calibrated(table: Table, layer: Layer, sources: list[np.ndarray], rng: np.random.Generator):
    """``layer`` with random weights, scaled and biased by what it makes of ``sources``; and its outputs for them."""
    channels, zero_point = layer.output.shape[-1], layer.output.quantization.zero_point
    weights = rng.integers(-127, 127, layer.weights.shape, np.int8, endpoint=True)
    layer = replace(layer, weights=weights, bias=np.zeros(channels, np.int32))
    sums = np.stack([golden.accumulators(table, layer, x) for x in sources])
    points = sums.reshape(-1, channels)
    mean = points.sum(axis=0) // len(points)
    # Mean absolute deviations, and not variances, whose sums of squares could leave int64; 0.8 brings them to standard
    # deviations of a normal distribution. Where a channel has few points, the layer's other channels speak for it.
    total = np.abs(points - mean).sum(axis=0)
    deviation = (total + 16 * total.sum() / points.size) / (len(points) + 16) / 0.8
    lo, width = layer.clamp[0], max(layer.clamp[1] - layer.clamp[0], 1)
    # At most 1: larger factors would amplify channels that hardly move, up to int32's end.
    factor = 0.3 * width / np.maximum(deviation, 0.3 * width)
    middle = lo + (0.5 if layer.activation == "none" else 0.35) * width - zero_point
    bias = np.clip(np.rint(middle / factor - mean), -(2**31), 2**31 - 1).astype(np.int32)
    with np.errstate(over="ignore", under="ignore"):
        scales = factor * layer.output.quantization.scale / table.source(layer).quantization.scale
        scales = scales.astype(np.float32)
    if not np.isfinite(scales).all() or not scales.all():
        raise TableError(f"{table.name}: {layer.name}: scale is too far from the input's for weight scales in float32")
    layer = replace(layer, bias=bias, weight_scales=scales)
    scaled = golden.multiply_by_quantized_multiplier(sums + bias, *golden.layer_multipliers(table, layer))
    return layer, np.clip(scaled + zero_point, *layer.clamp).astype(np.int8)
