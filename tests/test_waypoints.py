"""Waypoints: registers between placed multipliers stand on the way, each bit's in a place of its own."""

import re

import pytest

import boards
from gen.waypoints import board_rows, place_waypoints

ROWS = {10, 22, 34, 46, 58, 70, 82}


def netlist(places, hops, *, between="TRELLIS_FF"):
    """Multipliers by (column, row) and place, each input fed by a chain of ``hops`` registers from the column before.

    The registers of the first column come from elsewhere.
    """
    cells, bits = {}, iter(range(2, 10_000))
    last = {}
    for (column, row), place in sorted(places.items()):
        inputs = {}
        for bit in range(8):
            net = last.get((column - 1, row, bit), next(bits))
            for hop in range(hops if column else 1):
                before, net = net, next(bits)
                kind = "TRELLIS_FF" if hop or not column else between
                cells[f"register_{column}_{row}_{bit}_{hop}"] = {
                    "type": kind, "attributes": {}, "connections": {"DI": [before], "Q": [net]}
                }  # fmt: skip
            last[column, row, bit] = net
            inputs[f"B{bit}"] = [net]
        cells[f"core.array.column_{column}.products.multiplier_{row}.mult18x18d"] = {
            "type": "MULT18X18D", "attributes": {"BEL": place} if place else {}, "connections": inputs
        }  # fmt: skip
    return {"cells": cells}


def tiles(module):
    """The tile and the bel of every register that has a place."""
    found = {}
    for name, cell in module["cells"].items():
        if cell["type"] == "TRELLIS_FF" and "BEL" in cell["attributes"]:
            x, y, bel = re.fullmatch(r"X(\d+)/Y(\d+)/(SLICE[ABCD]\.FF[01])", cell["attributes"]["BEL"]).groups()
            found[name] = int(x), int(y), bel
    return found


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_even_distances(hops):
    """The last register beside its multiplier, the others on the way from the one before; no two in one place."""
    places = {(0, 0): "X80/Y10/MULT18_0", (0, 1): "X80/Y10/MULT18_1", (1, 0): "X20/Y34/MULT18_4"}
    places[1, 1] = "X23/Y34/MULT18_5"
    module = netlist(places, hops)
    assert place_waypoints(module, ROWS) == 2 * 8 * (1 + hops)
    found = tiles(module)
    assert len(set(found.values())) == len(found) == 2 * 8 * (1 + hops)
    assert not {y for _, y, _ in found.values()} & ROWS
    for row in range(2):
        for bit in range(8):
            x, y, _ = found[f"register_0_{row}_{bit}_0"]
            assert abs(x - 80) + abs(y - 10) <= 2
            way = [found[f"register_1_{row}_{bit}_{hop}"][:2] for hop in range(hops)]
            steps = [abs(a - c) + abs(b - d) for (a, b), (c, d) in zip([(80, 10), *way], way, strict=False)]
            assert max(steps) <= (60 + 24) / hops + 4
            assert abs(way[-1][0] - (20, 23)[row]) + abs(way[-1][1] - 34) <= 2


def test_what_cannot_be_placed_is_left():
    """Multipliers without a place, and inputs that come through logic."""
    assert place_waypoints(netlist({(0, 0): None, (1, 0): None}, 2), ROWS) == 0
    module = netlist({(0, 0): "X8/Y10/MULT18_0", (1, 0): "X8/Y34/MULT18_0"}, 2, between="LUT4")
    assert place_waypoints(module, ROWS) == 8
    assert {name.split("_")[1] for name in tiles(module)} == {"0"}


def test_rows_without_logic():
    assert board_rows(boards.get("ulx3s")) == ROWS
