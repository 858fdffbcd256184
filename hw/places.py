"""Places: where on the die parts of a core stand, by place and route's names."""

from dataclasses import dataclass

__all__ = ["COLUMN_ANYWHERE", "CORE_ANYWHERE", "ColumnPlaces", "CorePlaces"]


@dataclass(frozen=True)
class ColumnPlaces:
    """Of a column's multipliers, its requantiser's, and its block RAMs; empty: anywhere."""

    multipliers: tuple[str, ...] = ()
    requantiser: tuple[str, ...] = ()
    block_rams: tuple[str, ...] = ()


@dataclass(frozen=True)
class CorePlaces:
    """Of the array's columns, the multipliers of each depthwise requantiser, the depthwise weights' block RAMs.

    Empty: anywhere.
    """

    columns: tuple[ColumnPlaces, ...] = ()
    lanes: tuple[tuple[str, ...], ...] = ()
    coefficients: tuple[str, ...] = ()


COLUMN_ANYWHERE, CORE_ANYWHERE = ColumnPlaces(), CorePlaces()
