"""Dimensions of a core: all that distinguishes one accelerator from another, its memories' contents apart."""

from dataclasses import dataclass
from math import gcd

from hw.primitives import check_primitives

__all__ = ["BANKS", "TAPS", "WINDOW", "ArrayShape", "CoreConfig"]

#: The window generator looks at WINDOW x WINDOW positions a cycle.
WINDOW = 3

#: Positions of a window, and banks of the feature memory: one for each, so that any window is one access.
TAPS = BANKS = WINDOW * WINDOW


#: Dimensions that are not counts of what there must be at least one of.
_FREE = (
    *("primitives", "hard_lanes", "hard_columns", "depthwise_lanes", "max_pool", "residual_lanes", "weight_depths"),
    *("gathered_taps", "packed_channels", "window_bits", "depthwise_window_bits"),
)


@dataclass(frozen=True, kw_only=True)
class ArrayShape:
    """What decides how tensors become patches and patches results; the rest of a core's dimensions follow.

    Parameters
    ----------
    lanes : int
        N: output channels that the array makes at a time, its requantiser lanes, and channels of a feature word.
    words : int
        Feature words in a patch word: a column multiplies K = lanes * words activations a cycle.
    depthwise_lanes : int
        Channels that the depthwise engine takes at a time, its requantiser lanes: a divisor of ``lanes``, or 0 for a
        core without one.
    residual_lanes : int
        Lanes of the residual adder: a divisor of ``lanes``, or 0 for a core without one.
    outputs : int
        Output channels that share the multipliers of a column, 1 or 2: the array has ``lanes / outputs`` columns.
    pixels : int
        Neighbouring pixels that the array can make at a time, 1 or 2: each then has half of a column's multipliers, and
        requantisers of its own. Only stages whose patches fill few words do it.
    """

    lanes: int
    words: int
    depthwise_lanes: int = 0
    residual_lanes: int = 0
    outputs: int = 1
    pixels: int = 1

    @property
    def columns(self) -> int:
        """Columns of the array."""
        return self.lanes // self.outputs

    @property
    def hop(self) -> int:
        """Cycles from a column to the next, which is the longer the more output channels share it."""
        return self.outputs

    @property
    def parts(self) -> int:
        """Windows that the depthwise engine takes for a feature word of results: each gives a part of its channels."""
        return self.lanes // self.depthwise_lanes if self.depthwise_lanes else 1

    @property
    def residual_beats(self) -> int:
        """Cycles that the residual adder takes for a feature word: results to add must be no closer."""
        return self.lanes // self.residual_lanes if self.residual_lanes else 1

    @property
    def array_rows(self) -> int:
        """K, multipliers in a column."""
        return self.lanes * self.words

    @property
    def narrow_channels(self) -> int:
        """Most channels that the narrow gather packs tightly."""
        return min(4, self.lanes)

    @property
    def taps_a_beat(self) -> int:
        """Most taps of a window that go to the patch buffer together: as many as a patch word holds."""
        return min(self.words, TAPS)


@dataclass(frozen=True, kw_only=True)
class CoreConfig(ArrayShape):
    """Dimensions of a core.

    Parameters
    ----------
    lanes, words, depthwise_lanes, residual_lanes, outputs, pixels : int
        See :class:`ArrayShape`.
    accumulator_bits, depthwise_accumulator_bits : int
        Signed accumulators of the array and of the depthwise engine.
    bias_bits, multiplier_bits : int
        Requantisers: see :class:`hw.requantise.Requantiser`.
    window_bits, depthwise_window_bits : tuple of int
        The window of each of the array's requantisers, the second pixel's behind the first's, and of the depthwise
        engine's.
    hard_lanes : int
        How many of the depthwise engine's requantisers, the first ones, have hardware multipliers.
    hard_columns : tuple of int
        Which of the array's requantisers have, of those that serve every stage.
    feature_depth, patch_depth, scale_depth, coefficient_depth, depthwise_scale_depth : int
        Words in a bank of the feature memory, in the patch buffer, in a column's biases and multipliers, in the
        depthwise weights, in the depthwise engine's biases and multipliers.
    weight_depths : tuple of int
        Words of weights in each column. A column that no output channel of the last stages falls to has fewer.
    window_program_depth, array_program_depth : int
        Job words of the two sequencers.
    max_pool : bool
        Whether the depthwise engine can also take maxima.
    gathered_taps : int
        How many of a window's taps the gather can pass on as they are: all, the first (kernels 1 x 1) or none.
    packed_channels : tuple of int
        Numbers of channels that it can pack.
    residual_scale_depth, residual_window_bits : int
        The residual adder's sets of parameters, the first of which is never used, and its requantisers' window.
    primitives : str
        ``portable`` or ``ecp5``.
    """

    accumulator_bits: int
    depthwise_accumulator_bits: int
    bias_bits: int
    window_bits: tuple[int, ...]
    depthwise_window_bits: tuple[int, ...]
    multiplier_bits: int
    hard_lanes: int
    hard_columns: tuple[int, ...]
    feature_depth: int
    patch_depth: int
    weight_depths: tuple[int, ...]
    scale_depth: int
    coefficient_depth: int
    depthwise_scale_depth: int
    window_program_depth: int
    array_program_depth: int
    max_pool: bool = False
    gathered_taps: int = TAPS
    packed_channels: tuple[int, ...] = ()
    residual_scale_depth: int = 1
    residual_window_bits: int = 4
    primitives: str = "portable"

    def __post_init__(self):
        for name, value in vars(self).items():
            if name not in _FREE and value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        for name in ("depthwise_lanes", "residual_lanes"):
            value = getattr(self, name)
            if value and (value < 0 or self.lanes % value):
                raise ValueError(f"{name} must divide {self.lanes} lanes, not {value}")
        if self.outputs not in (1, 2) or self.lanes % self.outputs:
            raise ValueError(f"outputs must be 1 or 2 and divide {self.lanes} lanes, not {self.outputs}")
        if self.pixels not in (1, 2) or self.words % self.pixels:
            raise ValueError(f"pixels must be 1 or 2 and divide {self.words} words, not {self.pixels}")
        if not 0 <= self.hard_lanes <= self.depthwise_lanes:
            raise ValueError(f"hard_lanes must be in 0..{self.depthwise_lanes}, not {self.hard_lanes}")
        if not set(self.hard_columns) <= set(range(self.lanes)):
            raise ValueError(f"hard_columns must be in 0..{self.lanes - 1}, not {self.hard_columns}")
        if len(self.weight_depths) != self.columns or min(self.weight_depths) < 1:
            raise ValueError(f"weight_depths must be {self.columns} positive numbers, not {self.weight_depths}")
        for name, count in (
            ("window_bits", self.lanes * self.pixels), ("depthwise_window_bits", self.depthwise_lanes)
        ):  # fmt: skip
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name} must be {count} numbers, not {getattr(self, name)}")
        if self.gathered_taps not in (0, 1, TAPS):
            raise ValueError(f"gathered_taps must be 0, 1 or {TAPS}, not {self.gathered_taps}")
        if not set(self.packed_channels) <= set(range(1, self.narrow_channels + 1)):
            most = self.narrow_channels
            raise ValueError(f"packed_channels must be in 1..{most}, not {self.packed_channels}")
        if self.patch_depth & (self.patch_depth - 1):
            raise ValueError(f"patch_depth must be a power of two, not {self.patch_depth}")
        check_primitives(self.primitives)

    @property
    def gathered_at_once(self) -> tuple[int, ...]:
        """How many taps the gather may pass on together: for patches of one pixel, and of two."""
        if self.gathered_taps < TAPS:
            return (self.gathered_taps,) if self.gathered_taps else ()
        return tuple(sorted({min(self.taps_a_beat, part) for part in self._patch_parts}))

    @property
    def gathered_choices(self) -> list[list[int]]:
        """For each of the taps that the gather may pass on together, what it may be the next but so many of."""
        return [
            sorted(
                {
                    first
                    for count in self.gathered_at_once
                    if n < count
                    for first in range(0, self.gathered_taps - n, count)
                }
            )
            for n in range(max(self.gathered_at_once, default=0))
        ]

    @property
    def _patch_parts(self):
        """Feature words that a pixel may have of a patch word."""
        return [self.words // pixels for pixels in range(1, self.pixels + 1)]

    @property
    def joined_choices(self) -> list[list[int]]:
        """For each place of a patch word, which of the feature words that join those before together may come there.

        Where as many of them make nine, whatever joins is as many; else the last ones of a window are fewer, and the
        next ones may begin anywhere.
        """
        choices: list[set[int]] = [{n} for n in range(self.words)]  # a whole patch word
        for part in self._patch_parts:
            for count in {1, *(min(most, part) for most in self.gathered_at_once)}:
                step = 1 if TAPS % count else gcd(count, part)
                for n in range(self.words):
                    numbers = {(n - begin) % part for begin in range(0, part, step)}
                    choices[n] |= {number for number in numbers if number < count}
        return [sorted(numbers) for numbers in choices]

    @property
    def requantisers(self) -> int:
        """Requantiser lanes: one for each lane of the depthwise engine, and for each result of the array at a time."""
        return self.depthwise_lanes + self.lanes * self.pixels

    @property
    def residual_depth(self) -> int:
        """Words of the residual buffer: what the patch buffer's credits allow, and what waits for its sums beyond.

        That is a word for each result on its way through the array, fewer than 256; a block RAM holds 512.
        """
        return 2 * max(self.patch_depth, 256)

    @property
    def weight_depth(self) -> int:
        """Words of weights in the columns that have most."""
        return max(self.weight_depths)

    @property
    def word_bits(self) -> int:
        """Width of a feature word."""
        return 8 * self.lanes

    @property
    def address_bits(self) -> int:
        """Width of an address within a bank of the feature memory."""
        return max(1, (self.feature_depth - 1).bit_length())
