"""Resource estimates: what a core of given dimensions takes, before any tool runs."""

from hw.config import BANKS, CoreConfig
from hw.core import filled_memories
from hw.memory import block_depths, slices_of
from hw.requantise import Requantiser

__all__ = ["EXPECTED_CLOCK_HZ", "estimate"]

#: Clock that place and route is asked for: what designs reach today (docs/place_and_route.md).
EXPECTED_CLOCK_HZ = 100_000_000


def _block_rams(width, depth):
    """Block RAMs of 18 Kb that a filled memory takes."""
    return sum(slices_of(width) * max(1, size // 512) if size > 32 else 0 for size in block_depths(depth))


def estimate(config: CoreConfig) -> dict[str, int]:
    """LUT4, flip-flops, multipliers and block RAMs of a core."""
    memories = sum(_block_rams(memory.width, memory.depth) for memory in filled_memories(config).values())
    patch = config.words * _block_rams(config.word_bits, config.patch_depth)
    lanes = config.lanes
    requantisers = 38 * (config.window_bits + config.depthwise_window_bits) + 240
    lane = 880
    column = 20 * config.array_rows + config.accumulator_bits
    window = BANKS * config.word_bits * 4
    return {
        "lut": lanes * (requantisers + lane + column) + window + 1500,
        "ff": lanes * (2 * 900 + 800 + 30 * config.array_rows) + 2 * window + 1500,
        "mult": lanes * config.array_rows + Requantiser.hard_multipliers * config.hard_requantisers,
        "ebr": memories + patch,
    }
