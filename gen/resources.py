"""Resource estimates: what a core of given dimensions takes, before any tool runs."""

from hw.config import CoreConfig
from hw.core import filled_memories
from hw.memory import block_depths, filled_block_rams
from hw.requantise import Requantiser

__all__ = ["EXPECTED_CLOCK_HZ", "estimate"]

#: Clock that place and route is asked for: what designs reach today (docs/place_and_route.md).
EXPECTED_CLOCK_HZ = 100_000_000


def _requantiser(window_bits, hard):
    """LUT4 and flip-flops of one: gated adders and their sums for every two bits that no multiplier takes."""
    rows = max(0, window_bits - 18) // 2 if hard else window_bits // 2
    return (230 + 97 * rows, 175 + 90 * rows) if hard else (76 * rows, 50 + 70 * rows)


def _column(config, number):
    """LUT4 and flip-flops of a column of the array."""
    lut, ff = _requantiser(config.window_bits, number in config.hard_columns)
    blocks = block_depths(config.weight_depth)
    word = 8 * config.array_rows
    # Selection between blocks; and LUT RAM, where it is that.
    lut += word * (len(blocks) - 1) + word * (blocks[0] <= 32)
    ff += word * (len(blocks) > 1) + word * (blocks[0] <= 32)
    return lut + 17 * config.array_rows + 60, ff + 25 * config.array_rows + 130


def estimate(config: CoreConfig) -> dict[str, int]:
    """LUT4, flip-flops, multipliers and block RAMs of a core.

    Logic by engine, from what Yosys made of digits on 8x2 and of vww_96_int8 on 16x8; place and route adds a sixth for
    the ends of carry chains.
    """
    memories = sum(filled_block_rams(memory.width, memory.depth) for memory in filled_memories(config).values())
    patch = config.words * filled_block_rams(config.word_bits, config.patch_depth)
    hard = config.hard_lanes + len(config.hard_columns)
    parts = [(3030, 2850), *[(365, 256)] * config.lanes]
    for lane in range(config.lanes):
        depthwise = _requantiser(config.depthwise_window_bits, lane < config.hard_lanes)
        parts += [_column(config, lane), depthwise, (1000, 980)]
    return {
        "lut": round(1.17 * sum(lut for lut, _ in parts)),
        "ff": sum(ff for _, ff in parts),
        "mult": config.columns * config.array_rows + Requantiser.hard_multipliers * hard,
        "ebr": memories + patch,
    }
