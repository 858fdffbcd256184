"""Dimensions of a core: all that distinguishes one accelerator from another, its memories' contents apart."""

from dataclasses import dataclass

from hw.primitives import check_primitives

__all__ = ["BANKS", "TAPS", "WINDOW", "CoreConfig"]

#: The window generator looks at WINDOW x WINDOW positions a cycle.
WINDOW = 3

#: Positions of a window, and banks of the feature memory: one for each, so that any window is one access.
TAPS = BANKS = WINDOW * WINDOW


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """Dimensions of a core.

    Parameters
    ----------
    lanes : int
        N: columns of the array, depthwise lanes, requantiser lanes of each, and channels of a feature word.
    words : int
        Feature words in a patch word: a column multiplies K = lanes * words activations a cycle.
    accumulator_bits, depthwise_accumulator_bits : int
        Signed accumulators of the array and of the depthwise engine.
    bias_bits, multiplier_bits, window_bits, depthwise_window_bits : int
        Requantisers: see :class:`hw.requantise.Requantiser`; the window of the array's and of the depthwise engine's.
    hard_requantisers : int
        How many requantisers, the depthwise engine's first, have hardware multipliers.
    feature_depth, patch_depth, weight_depth, scale_depth, coefficient_depth, depthwise_scale_depth : int
        Words in a bank of the feature memory, in the patch buffer, in a column's weights, in a column's biases and
        multipliers, in the depthwise weights, in the depthwise engine's biases and multipliers.
    window_program_depth, array_program_depth : int
        Job words of the two sequencers.
    primitives : str
        ``portable`` or ``ecp5``.
    """

    lanes: int
    words: int
    accumulator_bits: int
    depthwise_accumulator_bits: int
    bias_bits: int
    window_bits: int
    depthwise_window_bits: int
    multiplier_bits: int
    hard_requantisers: int
    feature_depth: int
    patch_depth: int
    weight_depth: int
    scale_depth: int
    coefficient_depth: int
    depthwise_scale_depth: int
    window_program_depth: int
    array_program_depth: int
    primitives: str = "portable"

    def __post_init__(self):
        for name, value in vars(self).items():
            if name not in ("primitives", "hard_requantisers") and value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        if not 0 <= self.hard_requantisers <= self.requantisers:
            raise ValueError(f"hard_requantisers must be in 0..{self.requantisers}, not {self.hard_requantisers}")
        if self.patch_depth & (self.patch_depth - 1):
            raise ValueError(f"patch_depth must be a power of two, not {self.patch_depth}")
        check_primitives(self.primitives)

    @property
    def requantisers(self) -> int:
        """Requantiser lanes: one for each lane of the depthwise engine and each column of the array."""
        return 2 * self.lanes

    @property
    def array_rows(self) -> int:
        """K, multipliers in a column."""
        return self.lanes * self.words

    @property
    def word_bits(self) -> int:
        """Width of a feature word."""
        return 8 * self.lanes

    @property
    def narrow_channels(self) -> int:
        """Most channels that the narrow gather packs tightly."""
        return min(4, self.lanes)

    @property
    def address_bits(self) -> int:
        """Width of an address within a bank of the feature memory."""
        return max(1, (self.feature_depth - 1).bit_length())
