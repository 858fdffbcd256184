"""Floorplan: fixed places on the die for the array's and the requantisers' multipliers, and for block RAMs by them."""

from collections.abc import Sequence

from hw.places import CORE_ANYWHERE, ColumnPlaces, CorePlaces
from hw.requantise import Requantiser

__all__ = ["floorplan"]

Row = Sequence[tuple[str, str]]


def floorplan(rows: Sequence[Row], *, columns: int, height: int, lanes: int) -> CorePlaces:
    """Places for an array, such that what is connected lies side by side; none at all where it does not fit so.

    A column's multipliers lie side by side in one row of the die, behind them its requantiser's where the row has room
    for them, and its block RAMs in the row beside. Columns go through the rows like a plough, the first of which begins
    with the multipliers of the depthwise engine's requantisers, by which its weights lie.

    Parameters
    ----------
    rows : sequence of sequence of (str, str)
        The die's multipliers, row by row, each with the block RAM beside it.
    columns, height : int
        Columns of the array, multipliers in each.
    lanes : int
        Requantisers of the depthwise engine.

    >>> rows = [[(letter, letter.upper()) for letter in "abcdefghij"], [(digit, digit + "R") for digit in "0123456"]]
    >>> plan = floorplan(rows, columns=3, height=3, lanes=1)
    >>> plan.lanes, plan.coefficients
    ((('a', 'b'),), ('A', 'B'))
    >>> for column in plan.columns:
    ...     print(*map("".join, (column.multipliers, column.requantiser, column.block_rams)))
    cde fg CDEFG
    hij  HIJ
    654 32 6R5R4R3R2R
    >>> floorplan(rows, columns=6, height=3, lanes=1) == CORE_ANYWHERE
    True
    """
    pair = Requantiser.hard_multipliers
    spare = sum(map(len, rows)) - columns * height
    hard = max(0, min(lanes, spare // pair))
    free = [list(row) for row in rows]
    if not free or len(free[0]) < pair * hard:
        return CORE_ANYWHERE
    names, rams = zip(*free[0][: pair * hard], strict=True) if hard else ((), ())
    free[0] = free[0][pair * hard :]
    placed: list[ColumnPlaces] = []
    for number, row in enumerate(free):
        ahead = row[::-1] if number % 2 else row
        count = min(columns - len(placed), len(row) // height)
        paired = min(count, (len(row) - count * height) // pair)
        for n in range(count):
            size = height + pair * (n < paired)
            run, ahead = ahead[:size], ahead[size:]
            multipliers, block_rams = zip(*run, strict=True)
            placed.append(ColumnPlaces(multipliers[:height], multipliers[height:], block_rams))
    if len(placed) < columns:
        return CORE_ANYWHERE
    return CorePlaces(tuple(placed), tuple(zip(*[iter(names)] * pair, strict=True)), rams)
