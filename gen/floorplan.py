"""Floorplan: fixed places on the die for the array's multipliers."""

from collections.abc import Sequence

__all__ = ["multiplier_places"]


def multiplier_places(rows: Sequence[Sequence[str]], columns: int, height: int) -> list[Sequence[str]]:
    """Places for each column of the array, so that columns that are neighbours there are neighbours on the die.

    A column's multipliers stand side by side; columns fill a row of the die, then the next one backwards.

    Parameters
    ----------
    rows : sequence of sequence of str
        The die's multipliers, row by row, each from one side to the other.
    columns, height : int
        Columns of the array, multipliers in each.

    Returns
    -------
    list
        ``columns`` sequences of ``height`` places; nothing when they do not fit without breaking a column.

    >>> multiplier_places(["abcdefg", "ABCDEFG"], 3, 3)
    ['abc', 'def', 'DEF']
    >>> multiplier_places(["abcdefg", "ABCDEFG"], 5, 3)
    []
    """
    places = []
    for number, row in enumerate(rows):
        pieces = [row[first : first + height] for first in range(0, len(row) - height + 1, height)]
        places += pieces[::-1] if number % 2 else pieces
    return places[:columns] if len(places) >= columns else []
