"""Contents: the first words of all memories of a core, and how the host sends them."""

import numpy as np

from gen.layout import feature_words, scale_words, weight_words, window_words
from gen.stages import Stage
from hw.config import CoreConfig
from hw.depthwise import depthwise_memories
from hw.dot import packed_weights
from hw.requantise import ActivationBounds, Requantiser
from hw.residual import residual_memories

__all__ = ["memory_contents"]


def memory_contents(stages: list[Stage], config: CoreConfig) -> dict[str, list[int]]:
    """Weights and parameters of all stages, by the names of ``hw.core.filled_memories``."""
    lanes = config.lanes
    contents: dict[str, list[int]] = {name: [] for name in depthwise_memories(config)}
    contents |= {f"weights_{n}": [] for n in range(config.columns)}
    contents |= {f"{name}_{n}": [] for n in range(lanes) for name in ("bias", "scale")}
    for stage in stages:
        if stage.front is not None:
            contents["coefficients"] += _bytes_to_words(window_words(stage, config))
            biases, scales = _scales(stage.window_scaling, config, config.parts)
            contents["depthwise_bias"] += [_joined(row, config.bias_bits) for row in biases]
            contents["depthwise_scale"] += [_joined(row, config.multiplier_bits + 5) for row in scales]
        columns = weight_words(stage, config)
        biases, scales = _scales(stage.scaling, config)
        for n in range(config.columns):
            contents[f"weights_{n}"] += _bytes_to_words(_shared(columns[n * config.outputs :][: config.outputs]))
        for n in range(lanes):
            contents[f"bias_{n}"] += [row[n] for row in biases]
            contents[f"scale_{n}"] += [row[n] for row in scales]
    for n, depth in enumerate(config.weight_depths):
        del contents[f"weights_{n}"][depth:]
    if config.residual_lanes:
        contents |= {name: [0] for name in residual_memories(config)}
        for stage in stages:
            if stage.residual_scaling is not None:
                for name, word in _residual_words(stage.residual_scaling).items():
                    contents[name].append(word)
    return contents


def _residual_words(scaling):
    """A word for each memory of the residual adder's parameters."""
    z1, z2 = scaling.zero_points
    scales = [m | -shift << 31 for m, shift in zip(scaling.multipliers, scaling.shifts, strict=True)]
    bounds = ActivationBounds.const({"zero_point": scaling.zero_point, "lo": scaling.clamp[0], "hi": scaling.clamp[1]})
    return {
        "residual_zero_points": _joined([-z1 & 0x1FF, -z2 & 0x1FF, int(scaling.subtract)], 9),
        "residual_input_scales": _joined(scales[:2], Requantiser.scale_bits(31)),
        "residual_output_scale": scales[2],
        "residual_bounds": bounds.as_value().value,
    }


def _shared(channels):
    """Bytes of a column's memory (words, K * outputs) from int8 weights (outputs, words, K)."""
    if len(channels) == 1:
        return channels[0]
    words = np.stack(packed_weights(*channels), axis=-1).astype(np.int8)
    return words.reshape(len(words), -1)


def feature_contents(placement, tensor: np.ndarray, config: CoreConfig) -> list[list[int]]:
    """Words of a tensor for each bank, from the placement's base on."""
    return [_bytes_to_words(bank) for bank in feature_words(placement, tensor, config)]


def words_to_bytes(words: list[int], count: int) -> np.ndarray:
    """Int8 (words, count) from integers, low byte first."""
    raw = b"".join(word.to_bytes(count, "little") for word in words)
    return np.frombuffer(raw, np.int8).reshape(len(words), count)


def _bytes_to_words(values):
    """Integers, low byte first, from an int8 array (words, ...)."""
    return [int.from_bytes(row.tobytes(), "little") for row in np.ascontiguousarray(values)]


def _scales(scaling, config, parts=1):
    """Biases, and shifts above multipliers, as unsigned fields: lists (groups, or parts) of lists (lanes)."""
    bias, multiplier, shift = scale_words(scaling, config.lanes, parts)
    mask = (1 << config.bias_bits) - 1
    biases = [[int(value) & mask for value in row] for row in bias]
    scales = [
        [int(m) | int(s) << config.multiplier_bits for m, s in zip(*row, strict=True)]
        for row in zip(multiplier, shift, strict=True)
    ]
    return biases, scales


def _joined(fields, bits):
    """One integer of fields of ``bits`` bits, the first lowest."""
    return sum(field << bits * n for n, field in enumerate(fields))
