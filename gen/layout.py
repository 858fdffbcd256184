"""Layout: where tensors, weights and parameters lie in the core's memories."""

from dataclasses import dataclass

import numpy as np

from gen.stages import Scaling, Stage
from hw.config import BANKS, TAPS, WINDOW, CoreConfig
from hw.jobs import WindowMode

__all__ = [
    "Patches",
    "Placement",
    "feature_words",
    "patches_of",
    "place",
    "scale_words",
    "tensor_from_words",
    "weight_words",
    "window_words",
]


def ceil_div(a, b):
    """``a / b``, rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class Placement:
    """A tensor in the feature memory: row y, column x, channel group g in bank (y % 3, x % 3).

    ``halves`` is 2 for a narrow tensor whose lower rows lie in the low half of each word, the others in the high half.
    """

    base: int
    shape: tuple[int, int, int]
    groups: int
    halves: int = 1

    @property
    def column_pitch(self) -> int:
        """Words from a group of three columns to the next."""
        return self.groups

    @property
    def row_pitch(self) -> int:
        """Words from a group of three rows to the next."""
        return ceil_div(self.shape[1], WINDOW) * self.groups

    @property
    def half_rows(self) -> int:
        """Rows in each half of the words, a multiple of 3; all of them where words are whole."""
        return WINDOW * ceil_div(self.shape[0], WINDOW * self.halves)

    @property
    def words(self) -> int:
        """Words that it takes in every bank."""
        return self.half_rows // WINDOW * self.row_pitch

    def row_address(self, y: int) -> int:
        """Address of the first word of row ``y`` within its banks."""
        return self.base + y % self.half_rows // WINDOW * self.row_pitch

    def in_high_half(self, y: int) -> bool:
        """Whether row ``y`` lies in the high half of its words."""
        return y >= self.half_rows


@dataclass(frozen=True)
class Patches:
    """How a stage's windows become patches.

    ``tiles`` windows down and across cover the kernel; each is held for ``beats`` cycles; a patch takes ``words``
    patch words; ``cycles`` is what the window generator spends on a pixel.
    """

    mode: WindowMode
    tiles: tuple[int, int]
    beats: int
    groups: int
    words: int

    @property
    def cycles(self) -> int:
        """Cycles that the window generator spends on a pixel."""
        return self.groups * self.tiles[0] * self.tiles[1] * self.beats


def patches_of(stage: Stage, lanes: int, words: int) -> Patches:
    """Mode and counts of ``stage`` on a core of so many lanes and feature words a patch word."""
    channels = stage.source_shape[2]
    groups = ceil_div(channels, lanes)
    tiles = tuple(ceil_div(k, WINDOW) for k in stage.kernel)
    area = tiles[0] * tiles[1]
    if stage.front is not None:
        return Patches(WindowMode.DEPTHWISE, tiles, 1, groups, ceil_div(groups, words))
    if stage.kernel == (1, 1):
        return Patches(WindowMode.WIDE, tiles, 1, groups, ceil_div(groups, words))
    if channels <= min(4, lanes):
        beats = ceil_div(TAPS * channels, lanes * words)
        return Patches(WindowMode.NARROW, tiles, beats, 1, beats * area)
    return Patches(WindowMode.WIDE, tiles, TAPS, groups, ceil_div(TAPS * groups * area, words))


def place(stages: list[Stage], lanes: int, kept: set[str]) -> tuple[dict[str, Placement], int]:
    """Places of all tensors, and the words a bank needs; tensors ``kept`` stay until the host has read them.

    A tensor keeps its words from the stage that makes it to the last that reads it; what is free is taken from the
    bottom, largest tensors first within a stage. Stages run in order, and a stage writes a row only after it has read
    what the row is made of, so whole stages are lifetimes.
    """
    made = {stage.source: -1 for stage in stages} | {stage.output: n for n, stage in enumerate(stages)}
    read = dict(made) | {stage.source: n for n, stage in enumerate(stages)}
    shapes = {stage.source: stage.source_shape for stage in stages} | {s.output: s.output_shape for s in stages}
    for name in kept:
        read[name] = len(stages)
    placed: dict[str, Placement] = {}
    depth = 0
    for name in sorted(made, key=made.get):
        shape = shapes[name]
        readers = [patches_of(stage, lanes, 1) for stage in stages if stage.source == name]
        # A row job says which half the rows of its first window lie in, so a kernel must be no taller than a window.
        narrow = all(patches.mode == WindowMode.NARROW and patches.tiles[0] == 1 for patches in readers)
        halved = made[name] < 0 and narrow and lanes % 2 == 0 and shape[2] <= lanes // 2 and shape[0] > WINDOW
        candidate = Placement(0, shape, ceil_div(shape[2], lanes), 2 if halved else 1)
        busy = sorted(
            (other.base, other.base + other.words)
            for key, other in placed.items()
            if read[key] >= made[name] and made[key] <= read[name]
        )
        base = 0
        for start, end in busy:
            if base + candidate.words <= start:
                break
            base = max(base, end)
        placed[name] = Placement(base, shape, candidate.groups, candidate.halves)
        depth = max(depth, base + candidate.words)
    return placed, depth


def feature_words(placement: Placement, tensor: np.ndarray, config: CoreConfig) -> list[np.ndarray]:
    """Bytes (words, lanes) for each bank, from word ``placement.base`` on, of an int8 tensor (H, W, C)."""
    height, width, channels = placement.shape
    lanes, groups, rows = config.lanes, placement.groups, placement.half_rows
    part = lanes // placement.halves
    columns = ceil_div(width, WINDOW) * WINDOW
    whole = np.zeros((rows, columns, groups * lanes), np.int8)
    for half in range(placement.halves):
        piece = tensor.reshape(height, width, channels)[half * rows : (half + 1) * rows]
        first = half * part
        whole[: len(piece), :width, first : first + channels] = piece
    banked = whole.reshape(rows // WINDOW, WINDOW, columns // WINDOW, WINDOW, groups, lanes)
    return [banked[:, n // WINDOW, :, n % WINDOW].reshape(-1, lanes) for n in range(BANKS)]


def tensor_from_words(placement: Placement, banks: list[np.ndarray], config: CoreConfig) -> np.ndarray:
    """Inverse of :func:`feature_words` for a tensor of whole words."""
    height, width, channels = placement.shape
    shape = (placement.half_rows // WINDOW, ceil_div(width, WINDOW), placement.groups, config.lanes)
    stacked = np.stack([bank.reshape(shape) for bank in banks]).reshape(WINDOW, WINDOW, *shape)
    rows = stacked.transpose(2, 0, 3, 1, 4, 5).reshape(shape[0] * WINDOW, shape[1] * WINDOW, -1)
    return rows[:height, :width, :channels]


def _tiled(weights, tiles):
    """(..., kernel height, kernel width, C) padded to whole windows: (..., tiles down, 3, tiles across, 3, C)."""
    down, across = tiles
    *front, height, width, channels = weights.shape
    whole = np.zeros((*front, down * WINDOW, across * WINDOW, channels), np.int8)
    whole[..., :height, :width, :] = weights
    return whole.reshape(*front, down, WINDOW, across, WINDOW, channels)


def _lane_padded(values, lanes):
    """Last axis filled up with zeros to whole groups of lanes: (..., groups, lanes)."""
    channels = values.shape[-1]
    groups = ceil_div(channels, lanes)
    whole = np.zeros((*values.shape[:-1], groups * lanes), values.dtype)
    whole[..., :channels] = values
    return whole.reshape(*values.shape[:-1], groups, lanes)


def window_words(stage: Stage, lanes: int, words: int) -> np.ndarray:
    """The depthwise engine's weights: bytes (groups * tiles, lanes, 9)."""
    tiles = patches_of(stage, lanes, words).tiles
    tiled = _lane_padded(_tiled(stage.window_weights, tiles), lanes)  # down, 3, across, 3, groups, lanes
    return tiled.transpose(4, 0, 2, 5, 1, 3).reshape(-1, lanes, TAPS)


def weight_words(stage: Stage, lanes: int, words: int) -> np.ndarray:
    """The array's weights: bytes (columns, output groups * patch words, K)."""
    patches = patches_of(stage, lanes, words)
    width = lanes * words
    tiled = _tiled(stage.weights, patches.tiles)  # out, down, 3, across, 3, C
    count = tiled.shape[0]
    if patches.mode == WindowMode.NARROW:
        order = tiled.transpose(0, 1, 3, 2, 4, 5).reshape(count, patches.tiles[0] * patches.tiles[1], -1)
        padded = np.zeros((*order.shape[:2], patches.beats * width), np.int8)
        padded[..., : order.shape[2]] = order
    elif stage.kernel == (1, 1) or stage.front is not None:
        padded = _lane_padded(stage.weights.reshape(count, -1), lanes)
    else:
        padded = _lane_padded(tiled, lanes).transpose(0, 5, 1, 3, 2, 4, 6)  # out, groups, down, across, 3, 3, lanes
    flat = np.zeros((ceil_div(count, lanes) * lanes, patches.words * width), np.int8)
    padded = padded.reshape(count, -1)
    flat[:count, : padded.shape[1]] = padded
    return flat.reshape(-1, lanes, patches.words, width).transpose(1, 0, 2, 3).reshape(lanes, -1, width)


def scale_words(scaling: Scaling, lanes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Biases, multipliers (left shifts folded in) and right shifts by group and lane: int64 (groups, lanes) each."""
    multiplier = scaling.multiplier << np.maximum(scaling.shift, 0)
    values = scaling.bias, multiplier, np.maximum(-scaling.shift, 0)
    return tuple(_lane_padded(value.astype(np.int64), lanes) for value in values)
