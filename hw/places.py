"""Places: where on the die parts of a core stand, by place and route's names."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CORE_ANYWHERE", "ColumnPlaces", "CorePlaces"]


@dataclass(frozen=True)
class ColumnPlaces:
    """For an output channel of the array: multipliers, and those of its requantiser; empty: anywhere."""

    multipliers: tuple[str, ...] = ()
    requantiser: tuple[str, ...] = ()


@dataclass(frozen=True)
class CorePlaces:
    """Of the array's output channels, the multipliers of each depthwise requantiser, and the block RAMs of memories.

    Memories have the names of :func:`hw.core.filled_memories`, but all banks of features are one, ``features``. Empty,
    or not there: anywhere.
    """

    columns: tuple[ColumnPlaces, ...] = ()
    lanes: tuple[tuple[str, ...], ...] = ()
    memories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


CORE_ANYWHERE = CorePlaces()
