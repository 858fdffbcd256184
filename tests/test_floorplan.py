"""Places of the array's multipliers: whole columns, neighbours side by side, each place once and on the device."""

import doctest
import re

import boards
import gen.floorplan
from gen.floorplan import multiplier_places
from gen.passes import lower
from gen.plan import plan
from gen.source import resolve

ULX3S = boards.get("ulx3s")


def test_documented_examples():
    results = doctest.testmod(gen.floorplan)
    assert results.attempted and not results.failed


def test_the_85f_names_each_multiplier_once():
    places = [place for row in ULX3S.multiplier_rows for place in row]
    assert len(set(places)) == len(places) == ULX3S.resources["mult"]


def test_columns_that_are_neighbours_stay_close():
    """The last place of a column and the first of the next lie in one row, or at one end of two rows."""
    places = multiplier_places(ULX3S.multiplier_rows, 8, 16)
    assert [len(column) for column in places] == [16] * 8
    position = [[tuple(map(int, re.match(r"X(\d+)/Y(\d+)/", place).groups())) for place in column] for column in places]
    assert all(len({y for _, y in column}) == 1 for column in position)
    middles = [(sum(x for x, _ in column) / 16, column[0][1]) for column in position]
    for (x, y), (next_x, next_y) in zip(middles, middles[1:], strict=False):
        assert abs(x - next_x) < 40 and abs(y - next_y) <= 24 and (y == next_y or abs(x - next_x) < 10)


def test_too_many_or_unknown_places_are_left_to_the_placer():
    assert multiplier_places(ULX3S.multiplier_rows, 3, 53) == multiplier_places((), 2, 2) == []


def test_the_core_names_its_places():
    """As many BEL attributes as the array has multipliers, on the board whose die is known, and none elsewhere."""
    table = lower(resolve(None))
    for board, count in ((ULX3S, 4 * 2), (boards.get("ulx3s-12f"), 0)):
        found = re.findall(r'\(\* BEL = "(X\d+/Y\d+/MULT18_\d)" \*\)', plan(table, board, array=(4, 2)).verilog())
        assert len(found) == len(set(found)) == count
