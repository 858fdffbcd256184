"""Places: where on the die parts of a core stand, by place and route's names."""

from dataclasses import dataclass

__all__ = ["CORE_ANYWHERE", "ColumnPlaces", "CorePlaces"]


@dataclass(frozen=True)
class ColumnPlaces:
    """For an output channel of the array: multipliers, its requantiser's, and block RAMs; empty: anywhere."""

    multipliers: tuple[str, ...] = ()
    requantiser: tuple[str, ...] = ()
    block_rams: tuple[str, ...] = ()


@dataclass(frozen=True)
class CorePlaces:
    """Of the array's output channels, the multipliers of each depthwise requantiser, and of block RAMs.

    Those of the depthwise weights, of the depthwise biases and then scales, and of the feature memory. Empty: anywhere.
    """

    columns: tuple[ColumnPlaces, ...] = ()
    lanes: tuple[tuple[str, ...], ...] = ()
    coefficients: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


CORE_ANYWHERE = CorePlaces()
