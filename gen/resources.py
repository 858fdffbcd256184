"""Resource estimates: what a core of given dimensions takes, before any tool runs.

The numbers in here were read off netlists that Yosys made (docs/resources.md): each engine's cells by the names of
their instances. LUT4 stand for nextpnr's COMB cells: LUT4s, two for a carry cell, four more for the ends of a carry
chain, six for a 16 x 4 LUT RAM.
"""

from hw.array import destination_layout
from hw.config import CoreConfig
from hw.core import filled_memories
from hw.memory import block_depths, block_rams, filled_block_rams
from hw.patch import patch_block_rams
from hw.requantise import Requantiser
from hw.residual import ResidualAdder

__all__ = ["EXPECTED_CLOCK_HZ", "RESOURCES", "engines", "estimate", "share"]

#: What people call the resources that a board has.
RESOURCES = {"lut": "LUT4", "ff": "flip-flops", "mult": "MULT18X18D", "ebr": "block RAMs"}

#: Clock that place and route is asked for: what designs reach today (docs/place_and_route.md).
EXPECTED_CLOCK_HZ = 100_000_000


def _requantiser(window_bits, hard):
    """A row of gated adders, and its share of the tree, for every two bits that no hardware multiplier takes."""
    if not hard:
        return 210 + 43 * window_bits, 260 + 33.5 * window_bits
    rows = max(0, window_bits - Requantiser.hard_window_bits) // 2
    return (330 if rows else 285) + 78 * rows, (350 if rows else 215) + 55 * rows


def _dot_product(config):
    """A column's multipliers, which are hardware, and its trees; two channels besides tell their carries apart."""
    rows = config.array_rows
    return (103 * rows, 77 * rows) if config.outputs == 2 else (22 * (rows - 1), 18 * (rows - 1))


def _column(config):
    """A column without its requantisers: products, accumulators, what passes on to the next, memories' registers."""
    lut, ff = _dot_product(config)
    channel = config.accumulator_bits + config.bias_bits + 36 + 5.5 * (config.columns + 1)
    passed = 8 * config.array_rows * (1 + config.outputs) + 78
    return lut + 50, ff + passed + channel * config.outputs


def _residual(config):
    """Two requantisers for what comes in and one for the sum in every lane; rings and parameters."""
    lanes = config.residual_lanes
    if not lanes:
        return 0, 0
    parts = [_requantiser(10, False)] * 2 + [_requantiser(config.residual_window_bits, False)]
    lut, ff = (sum(values) for values in zip(*parts, strict=True))
    return lanes * (lut + 110) + 110, lanes * (ff + 100) + 340 + 8 * config.word_bits


def _filled(memories):
    """LUT RAM of memories of a few words; selection between the block RAMs of deep ones."""
    lut = ff = 0
    for memory in memories:
        blocks = block_depths(memory.depth)
        if block_rams(1, memory.depth) == 0:
            lut, ff = lut + (4.1 if memory.depth > 16 else 1.5) * memory.width, ff + 2 * memory.width
        lut += memory.width * (len(blocks) - 1)
    return lut, ff


def engines(config: CoreConfig) -> dict[str, tuple[float, float]]:
    """LUT4 and flip-flops of each part of a core and of the board's top around it, by name."""
    lanes, rows, columns = config.lanes, config.array_rows, config.columns
    narrow = config.narrow_channels

    def times(count, part):
        return tuple(count * value for value in part)

    def requantisers(window_bits, hard):
        both = times(hard, _requantiser(window_bits, True)), times(lanes - hard, _requantiser(window_bits, False))
        return tuple(map(sum, zip(*both, strict=True)))

    return {
        "columns": times(columns, _column(config)),
        "array": (465 + 41 * lanes, 420 + 34 * lanes),
        "requantisers": requantisers(config.window_bits, len(config.hard_columns)),
        "depthwise lanes": times(lanes, (1360, 1255) if config.max_pool else (1095, 1065)),
        "depthwise requantisers": requantisers(config.depthwise_window_bits, config.hard_lanes),
        "depthwise engine": (10 + 278 * lanes, 210 + 197 * lanes),
        "residual adder": _residual(config),
        "features": (120 + 17 * lanes, 120 + 99 * lanes),
        "gather": (
            max(100, 160 * lanes + 287 * narrow - 515),
            8 * (rows + lanes * config.taps_a_beat) + 72 * narrow + 15,
        ),
        "patch buffer": (20 + 10 * rows, 45 + 24.5 * rows),
        "window generator": (810 + 151 * lanes, 765 + 80 * lanes),
        "host, programs, top": (725 + 6 * lanes, 920 + 7 * lanes),
        "small and deep memories": _filled(filled_memories(config).values()),
    }


def estimate(config: CoreConfig) -> dict[str, int]:
    """LUT4, flip-flops, multipliers and block RAMs of a core and the board's top."""
    lut, ff = (sum(values) for values in zip(*engines(config).values(), strict=True))
    memories = sum(filled_block_rams(memory.width, memory.depth) for memory in filled_memories(config).values())
    rings = patch_block_rams(config)
    if config.residual_lanes:
        rings += block_rams(config.word_bits, config.residual_depth)
        rings += block_rams(config.word_bits + destination_layout(config).size, ResidualAdder.waiting_depth(config))
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
