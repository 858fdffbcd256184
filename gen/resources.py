"""Resource estimates: what a core of given dimensions takes, before any tool runs.

The numbers in here were read off netlists that Yosys made (docs/resources.md): each engine's cells by the names of
their instances. LUT4 stand for nextpnr's COMB cells: LUT4s, two for a carry cell, six for a 16 x 4 LUT RAM.
"""

from hw.array import result_layout
from hw.config import TAPS, CoreConfig
from hw.core import filled_memories
from hw.memory import block_depths, block_rams, filled_block_rams, slices_of
from hw.requantise import Requantiser
from hw.residual import ResidualAdder

__all__ = ["RESOURCES", "engines", "estimate", "expected_clock_hz", "share"]

#: What people call the resources that a board has.
RESOURCES = {"lut": "LUT4", "ff": "flip-flops", "mult": "MULT18X18D", "ebr": "block RAMs"}

#: The clock that designs reach (docs/place_and_route.md), and what it falls by with each LUT beyond some number.
_CLOCK_HZ, _HZ_PER_LUT, _LUTS_AT_NO_LOSS = 132_000_000, 300, 29_000

#: No design is expected to be slower.
_LEAST_HZ = 80_000_000


def _requantiser(window_bits, hard):
    """A row of gated adders, and its share of the tree, for every two bits that no hardware multiplier takes."""
    if not hard:
        return 100 + 39 * window_bits, 87 + 40 * window_bits
    rows = max(0, window_bits - Requantiser.hard_window_bits) // 2
    return 240 + 100 * rows, (300 if rows else 180) + 65 * rows


def _dot_product(config):
    """A column's multipliers, which are hardware, and its trees; two channels besides tell their carries apart."""
    rows = config.array_rows
    return (72 * rows, 76 * rows) if config.outputs == 2 else (17 * (rows - 1), 18 * (rows - 1))


def _column(config):
    """A column without its requantisers: products, accumulators, what passes on to the next, memories' registers."""
    lut, ff = _dot_product(config)
    # A pixel's results, and what its requantiser takes; what the memories of biases and multipliers have once.
    pixel = config.accumulator_bits + 36 + 5.5 * (config.columns + 1)
    channel = config.bias_bits + 146 + config.pixels * pixel
    width = 8 * config.array_rows * config.outputs
    passed = 8 * config.array_rows + width + 252 + slices_of(width) * config.weight_depth.bit_length()
    joined = 42 * config.outputs if config.pixels > 1 else 0
    results = config.outputs * config.pixels
    return lut + (45 if config.outputs == 2 else 24) * results, ff + passed + channel * config.outputs + joined


def _array(config):
    """The controller, the queue of destinations, the activation of all lanes; of two pixels what writes their words."""
    lanes = config.lanes * config.pixels
    writes = 3 * config.word_bits if config.pixels > 1 else 0
    ff = 580 + 25 * config.lanes + 30 * lanes + 72 * -(-lanes // 4)
    return 390 + 44 * (config.lanes + lanes) + writes, ff + writes


def _residual(config):
    """Two requantisers for what comes in and one for the sum in every lane; rings and parameters."""
    lanes = config.residual_lanes
    if not lanes:
        return 0, 0
    parts = [_requantiser(10, False)] * 2 + [_requantiser(config.residual_window_bits, False)]
    lut, ff = (sum(values) for values in zip(*parts, strict=True))
    return lanes * (lut + 380) + 380, lanes * (ff + 430) + 500 + 8 * config.word_bits


def _depthwise(config):
    """What feeds its lanes, of all channels of a window, and brings their results together; its memories' registers."""
    lanes = config.depthwise_lanes
    if not lanes:
        return 0, 0
    parts = 0.9 * 8 * TAPS * lanes * (config.parts - 1)
    return 20 + 216 * config.lanes + 70 * lanes + parts, 828 + 72 * config.lanes + 180 * lanes


def _patch_buffer(config):
    """Addresses and selection of feature words for each place of a patch word; registers before and behind."""
    selected = sum(len(choices) // 2 for choices in config.joined_choices)
    return 97 + 16 * config.words + config.word_bits * selected, 45 + 32.5 * config.array_rows + 45 * config.words


def _gather(config):
    """A multiplexer of two for each bit that there is to choose from beyond the first; registers behind both steps."""
    width = 8 * config.array_rows
    beyond = sum(len(choices) - 1 for choices in config.gathered_choices)
    wide = config.word_bits * max(config.gathered_at_once, default=0)
    packed = [8 * TAPS * channels for channels in config.packed_channels]
    narrow = max(packed, default=0)
    lut = 0.87 * config.word_bits * beyond  # some LUTs hold two
    lut += sum(packed) - narrow * (config.lanes % 2) + max(0, narrow - width) + min(wide, narrow, width)
    return lut, wide + narrow + max(wide, min(narrow, width)) + 9


def _memories(shapes):
    """LUT RAM of memories of a few words; selection between the block RAMs of deep ones. By width and depth."""
    lut = ff = 0
    for width, depth in shapes:
        if block_rams(1, depth) == 0:
            lut, ff = lut + (4.3 if depth > 16 else 2) * width, ff + 2 * width
        lut += width * (len(block_depths(depth)) - 1)
    return lut, ff


def engines(config: CoreConfig) -> dict[str, tuple[float, float]]:
    """LUT4 and flip-flops of each part of a core and of the board's top around it, by name."""
    lanes, rows, columns = config.lanes, config.array_rows, config.columns

    shapes = [(memory.width, memory.depth) for memory in filled_memories(config).values()]
    shapes.append((8 * rows, config.patch_depth))

    def times(count, part):
        return tuple(count * value for value in part)

    def requantisers(windows, hard):
        parts = [_requantiser(window_bits, n in hard) for n, window_bits in enumerate(windows)]
        return tuple(sum(values) for values in zip((0, 0), *parts, strict=True))

    return {
        "columns": times(columns, _column(config)),
        "array": _array(config),
        "requantisers": requantisers(config.window_bits, config.hard_columns),
        "depthwise lanes": times(config.depthwise_lanes, (1216, 1262) if config.max_pool else (930, 1050)),
        "depthwise requantisers": requantisers(config.depthwise_window_bits, range(config.hard_lanes)),
        "depthwise engine": _depthwise(config),
        "residual adder": _residual(config),
        "features": (165 + 40 * lanes, 320 + 188 * lanes),
        "gather": _gather(config),
        "patch buffer": _patch_buffer(config),
        "window generator": (715 + 157 * lanes, 1090 + 84 * lanes),
        "host, programs, top": (635 + 18 * lanes, 1155 + 7 * lanes),
        "small and deep memories": _memories(shapes),
    }


def expected_clock_hz(lut: int) -> float:
    """The core clock that designs of so many LUT4 are expected to reach, by which arrays are compared."""
    return max(_LEAST_HZ, _CLOCK_HZ - _HZ_PER_LUT * max(0, lut - _LUTS_AT_NO_LOSS))


def estimate(config: CoreConfig) -> dict[str, int]:
    """LUT4, flip-flops, multipliers and block RAMs of a core and the board's top."""
    lut, ff = (sum(values) for values in zip(*engines(config).values(), strict=True))
    memories = sum(filled_block_rams(memory.width, memory.depth) for memory in filled_memories(config).values())
    rings = config.words * filled_block_rams(config.word_bits, config.patch_depth)
    if config.residual_lanes:
        rings += block_rams(config.word_bits, config.residual_depth)
        rings += block_rams(config.word_bits + result_layout(config).size, ResidualAdder.waiting_depth(config))
    hard = config.hard_lanes + len(config.hard_columns)
    return {
        "lut": round(lut),
        "ff": round(ff),
        "mult": config.columns * config.array_rows + Requantiser.hard_multipliers * hard,
        "ebr": memories + rings,
    }


def share(used: int, available: int) -> float:
    """Part of what there is; of nothing, as many times as are used."""
    return used / max(available, 1)
