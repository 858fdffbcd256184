"""Contents: the first words of all memories of a core, and how the host sends them."""

import numpy as np

from gen.layout import feature_words, scale_words, weight_words, window_words
from gen.stages import Stage
from hw.config import CoreConfig

__all__ = ["memory_contents"]


def memory_contents(stages: list[Stage], config: CoreConfig) -> dict[str, list[int]]:
    """Weights and parameters of all stages, by the names of ``hw.core.filled_memories``."""
    lanes = config.lanes
    contents: dict[str, list[int]] = {"coefficients": [], "depthwise_bias": [], "depthwise_scale": []}
    contents |= {f"{name}_{n}": [] for n in range(lanes) for name in ("weights", "bias", "scale")}
    for stage in stages:
        if stage.front is not None:
            contents["coefficients"] += _bytes_to_words(window_words(stage, lanes, config.words))
            biases, scales = _scales(stage.window_scaling, config)
            contents["depthwise_bias"] += [_joined(row, config.bias_bits) for row in biases]
            contents["depthwise_scale"] += [_joined(row, config.multiplier_bits + 5) for row in scales]
        columns = weight_words(stage, lanes, config.words)
        biases, scales = _scales(stage.scaling, config)
        for n in range(lanes):
            contents[f"weights_{n}"] += _bytes_to_words(columns[n])
            contents[f"bias_{n}"] += [row[n] for row in biases]
            contents[f"scale_{n}"] += [row[n] for row in scales]
    return contents


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


def _scales(scaling, config):
    """Biases, and shifts above multipliers, as unsigned fields: lists (groups) of lists (lanes)."""
    bias, multiplier, shift = scale_words(scaling, config.lanes)
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
