"""Layout: where tensors, weights and parameters lie in the core's memories."""

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from gen.order import Row, kept_rows, order_of
from gen.stages import Scaling, Stage, sources_of
from hw.config import BANKS, TAPS, WINDOW, ArrayShape, CoreConfig
from hw.jobs import WindowMode
from hw.memory import filled_block_rams

__all__ = [
    "Patches",
    "Placement",
    "feature_words",
    "laid_out",
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
    ``kept`` is the number of rows that stay, a multiple of 3, for a tensor that is never whole: a ring of rows.
    """

    base: int
    shape: tuple[int, int, int]
    groups: int
    halves: int = 1
    kept: int | None = None

    @property
    def column_pitch(self) -> int:
        """Words from a group of three columns to the next."""
        return self.groups

    @property
    def row_pitch(self) -> int:
        """Words from a group of three rows to the next."""
        return ceil_div(self.shape[1], WINDOW) * self.groups

    @property
    def rows(self) -> int:
        """Rows that have words of their own, a multiple of 3: all, those of a half, or those of the ring."""
        return self.kept or WINDOW * ceil_div(self.shape[0], WINDOW * self.halves)

    @property
    def words(self) -> int:
        """Words that it takes in every bank."""
        return self.rows // WINDOW * self.row_pitch

    def row_address(self, y: int) -> int:
        """Address of the first word of row ``y`` within its banks."""
        return self.base + y % self.rows // WINDOW * self.row_pitch

    def in_high_half(self, y: int) -> bool:
        """Whether row ``y`` lies in the high half of its words."""
        return self.halves > 1 and y >= self.rows


@dataclass(frozen=True)
class Patches:
    """How a stage's windows become patches.

    ``tiles`` windows down and across cover the kernel, ``step`` columns apart; each is held for ``beats`` cycles, and
    each of these gives feature words, one or a few, or (``whole``) a patch word; a patch takes ``words`` patch words,
    and a sum over it ``sum_words`` cycles; ``cycles`` is what the window generator spends on a pixel. Of a window's
    taps ``window_taps`` become feature words, ``taps`` of them at a time. The depthwise engine takes ``parts`` windows
    for a feature word. Neighbouring ``pixels`` of a row share a patch, each of whose words they divide between them.
    """

    mode: WindowMode
    tiles: tuple[int, int]
    step: int
    beats: int
    whole: bool
    groups: int
    words: int
    least: int
    window_taps: int = 1
    taps: int = 1
    parts: int = 1
    pixels: int = 1

    @property
    def passes(self) -> int:
        """What the window generator counts in a pixel: channel groups, or parts of them."""
        return self.groups * self.parts

    @property
    def sum_words(self) -> int:
        """Words of a sum: the patch's, and as many more as keep results apart."""
        return max(self.words, self.least)

    @property
    def feature_words(self) -> int:
        """Feature words of a pixel, where it is these that windows give."""
        if self.mode == WindowMode.DEPTHWISE:
            return self.groups
        return self.groups * prod(self.tiles) * self.window_taps

    @property
    def last_taps(self) -> int:
        """Taps that go on in the last beat of a window, whose feature words they become."""
        return 1 if self.whole else self.window_taps - (self.beats - 1) * self.taps

    @property
    def cycles(self) -> int:
        """Cycles that the window generator spends on a pixel."""
        return self.passes * self.tiles[0] * self.tiles[1] * self.beats


#: Windows side by side that a job counts.
_MOST_TILES = 16


def _tiles(kernel):
    """Windows down and across that cover a kernel."""
    return tuple(ceil_div(size, WINDOW) for size in kernel)


def patches_of(stage: Stage, array: ArrayShape) -> Patches:
    """Mode and counts of ``stage`` on such an array: those that take the fewest cycles, of windows or sums.

    Pixels may share patches, if results need not be added, which cannot come two at a time.
    """
    width, groups = len(stage.region.columns), ceil_div(stage.output_shape[2], array.lanes)
    possible = []
    for patches in _patches_of_one(stage, array):
        possible.append(patches)
        if array.pixels > 1 and not patches.whole and stage.residual is None:
            half = array.words // array.pixels
            taps = min(patches.taps, half)  # a beat is never more than a pixel has of a patch word
            beats = ceil_div(patches.window_taps, taps)
            words = ceil_div(patches.feature_words, half)
            possible.append(replace(patches, pixels=array.pixels, taps=taps, beats=beats, words=words))

    def cycles(some):
        count, sums = ceil_div(width, some.pixels), some.words * groups
        return count * max(some.pixels * some.cycles, sums), count * sums

    return min(possible, key=cycles)


def _patches_of_one(stage, array):
    """Modes and counts that ``stage`` can have where each pixel has its own patch."""
    channels = stage.source_shape[2]
    lanes, words = array.lanes, array.words
    groups = ceil_div(channels, lanes)
    down, across = tiles = _tiles(stage.kernel)
    least = 1 if stage.residual is None else array.residual_beats
    if stage.front is not None:
        tiles, step = (down, across * stage.repeats), WINDOW if stage.repeats == 1 else 0
        taken = ceil_div(groups, words)
        return [Patches(WindowMode.DEPTHWISE, tiles, step, 1, False, groups, taken, least, parts=array.parts)]
    if stage.kernel == (1, 1):
        return [Patches(WindowMode.WIDE, tiles, WINDOW, 1, False, groups, ceil_div(groups, words), least)]
    taken, taps = ceil_div(TAPS * groups * down * across, words), array.taps_a_beat
    wide = Patches(WindowMode.WIDE, tiles, WINDOW, ceil_div(TAPS, taps), False, groups, taken, least, TAPS, taps)
    return [_narrow_patches(stage, array, least), wide] if channels <= array.narrow_channels else [wide]


def _narrow_patches(stage, array, least):
    """Few channels, packed: a window fills as many patch words as its 3 x 3 positions need, or else one feature word.

    The latter, with as many columns as it holds, where the patch becomes shorter, and the sums still take twice as long
    as the windows, of which there may be more: so that the window generator has time to work ahead for other stages.
    """
    channels = stage.source_shape[2]
    down, across = _tiles(stage.kernel)
    beats = ceil_div(TAPS * channels, array.array_rows)
    tight = Patches(WindowMode.NARROW, (down, across), WINDOW, beats, True, 1, beats * down * across, least)
    step = min(array.lanes // (WINDOW * channels), WINDOW)
    if not step:
        return tight
    across = ceil_div(stage.kernel[1], step)
    shared = Patches(WindowMode.NARROW, (down, across), step, 1, False, 1, ceil_div(down * across, array.words), least)
    sums = shared.sum_words * ceil_div(stage.output_shape[2], array.lanes)
    better = shared.words < tight.words and 2 * shared.cycles <= sums and across <= _MOST_TILES
    return shared if better else tight


def laid_out(stages: list[Stage], array: ArrayShape, results: set[str]) -> tuple[list[Row], dict[str, Placement], int]:
    """Order of all rows, places of all tensors, and the words a bank needs, with no ring that saves no block RAM.

    A ring saves memory, but its two stages take turns row by row, and at every turn the pipeline has to drain.
    """

    def tried(kept):
        order = order_of(stages, kept)
        places, depth = place(stages, array, order, kept, results)
        return filled_block_rams(8 * array.lanes, depth), (order, places, depth)

    kept = kept_rows(stages, results)
    needed, best = tried(kept)
    for dropped in (set(kept), *({name} for name in kept)):
        fewer = {name: rows for name, rows in kept.items() if name not in dropped}
        if len(fewer) < len(kept):
            blocks, other = tried(fewer)
            if blocks <= needed:
                kept, needed, best = fewer, blocks, other
    return best


def place(
    stages: list[Stage], array: ArrayShape, order: list[Row], kept: dict[str, int], results: set[str]
) -> tuple[dict[str, Placement], int]:
    """Places of all tensors, and the words a bank needs; ``results`` stay until the host has read them.

    A tensor keeps its words from the row that begins it to the last that reads it, in ``order``; of those in ``kept``
    only some rows have words. What is free is taken from the bottom. The array writes a row once its patches are
    complete, so when all windows of rows before it have been read; those of the same row may not have been.
    """
    made: dict[str, int] = dict.fromkeys(sources_of(stages), -1)
    read = dict(made)
    for number, (at, _) in enumerate(order):
        stage = stages[at]
        made.setdefault(stage.output, number)
        for name in (stage.source, stage.residual, stage.output):
            if name is not None:
                read[name] = number
    shapes = {stage.source: stage.source_shape for stage in stages} | {s.output: s.output_shape for s in stages}
    shapes = {s.residual: s.output_shape for s in stages if s.residual is not None} | shapes
    for name in results:
        read[name] = len(order)
    placed: dict[str, Placement] = {}
    depth = 0
    for name in sorted(made, key=made.get):
        shape = shapes[name]
        readers = [patches_of(stage, array) for stage in stages if stage.source == name]
        # A row job says which half the rows of its first window lie in, so a kernel must be no taller than a window.
        narrow = all(patches.mode == WindowMode.NARROW and patches.tiles[0] == 1 for patches in readers)
        narrow = narrow and all(stage.residual != name for stage in stages)
        lanes = array.lanes
        halved = made[name] < 0 and narrow and lanes % 2 == 0 and shape[2] <= lanes // 2 and shape[0] > WINDOW
        candidate = Placement(0, shape, ceil_div(shape[2], lanes), 2 if halved else 1, kept.get(name))
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
        placed[name] = replace(candidate, base=base)
        depth = max(depth, base + candidate.words)
    return placed, depth


def feature_words(placement: Placement, tensor: np.ndarray, config: CoreConfig) -> list[np.ndarray]:
    """Bytes (words, lanes) for each bank, from word ``placement.base`` on, of an int8 tensor (H, W, C)."""
    height, width, channels = placement.shape
    lanes, groups, rows = config.lanes, placement.groups, placement.rows
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
    shape = (placement.rows // WINDOW, ceil_div(width, WINDOW), placement.groups, config.lanes)
    stacked = np.stack([bank.reshape(shape) for bank in banks]).reshape(WINDOW, WINDOW, *shape)
    rows = stacked.transpose(2, 0, 3, 1, 4, 5).reshape(shape[0] * WINDOW, shape[1] * WINDOW, -1)
    return rows[:height, :width, :channels]


def _tiled(weights, tiles, step=WINDOW):
    """(..., kernel height, kernel width, C) padded to whole windows: (..., tiles down, 3, tiles across, step, C)."""
    down, across = tiles
    *front, height, width, channels = weights.shape
    whole = np.zeros((*front, down * WINDOW, across * step, channels), np.int8)
    whole[..., :height, :width, :] = weights
    return whole.reshape(*front, down, WINDOW, across, step, channels)


def _lane_padded(values, lanes):
    """Last axis filled up with zeros to whole groups of lanes: (..., groups, lanes)."""
    channels = values.shape[-1]
    groups = ceil_div(channels, lanes)
    whole = np.zeros((*values.shape[:-1], groups * lanes), values.dtype)
    whole[..., :channels] = values
    return whole.reshape(*values.shape[:-1], groups, lanes)


def window_words(stage: Stage, array: ArrayShape) -> np.ndarray:
    """The depthwise engine's weights: bytes (passes * tiles, depthwise lanes, 9)."""
    tiles = _tiles(stage.kernel)
    if stage.repeats > 1:  # (repeats, 1, 1, C): a window each
        tiled = np.concatenate([_tiled(part, tiles) for part in stage.window_weights], axis=2)
    else:
        tiled = _tiled(stage.window_weights.reshape(*stage.kernel, -1), tiles)  # down, 3, across, 3, C
    padded = _lane_padded(tiled, array.lanes)
    by_part = padded.reshape(*padded.shape[:4], -1, array.lanes // array.parts)
    return by_part.transpose(4, 0, 2, 5, 1, 3).reshape(-1, by_part.shape[-1], TAPS)


def weight_words(stage: Stage, array: ArrayShape) -> np.ndarray:
    """The array's weights: bytes (columns, output groups * words of a sum, K)."""
    patches, lanes, width = patches_of(stage, array), array.lanes, array.array_rows
    count = stage.weights.shape[0]
    if patches.mode == WindowMode.NARROW:
        tiled = _tiled(stage.weights, patches.tiles, patches.step)  # out, down, 3, across, step, C
        order = tiled.transpose(0, 1, 3, 4, 2, 5).reshape(count, prod(patches.tiles), -1)
        padded = _lane_padded(order, patches.beats * (width if patches.whole else lanes))
    elif stage.kernel == (1, 1) or stage.front is not None:
        padded = _lane_padded(stage.weights.reshape(count, -1), lanes)
    else:
        tiled = _tiled(stage.weights, patches.tiles)  # out, down, 3, across, 3, C
        padded = _lane_padded(tiled, lanes).transpose(0, 5, 1, 3, 2, 4, 6)  # out, groups, down, across, 3, 3, lanes
    # Pixels that share a patch word each have all weights in their part of it.
    part = width // patches.pixels
    flat = np.zeros((ceil_div(count, lanes) * lanes, patches.sum_words * part), np.int8)
    padded = padded.reshape(count, -1)
    flat[:count, : padded.shape[1]] = padded
    flat = np.tile(flat.reshape(-1, patches.sum_words, 1, part), (1, 1, patches.pixels, 1))
    return flat.reshape(-1, lanes, patches.sum_words, width).transpose(1, 0, 2, 3).reshape(lanes, -1, width)


def scale_words(scaling: Scaling, lanes: int, parts: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Biases, multipliers (left shifts folded in) and right shifts: int64 (groups * parts, lanes / parts) each."""
    multiplier = scaling.multiplier << np.maximum(scaling.shift, 0)
    values = scaling.bias, multiplier, np.maximum(-scaling.shift, 0)
    return tuple(_lane_padded(value.astype(np.int64), lanes).reshape(-1, lanes // parts) for value in values)
