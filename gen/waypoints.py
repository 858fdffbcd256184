"""Waypoints: fixed places for the registers that activations pass from column to column of the array.

The multipliers have fixed places, and between two columns they are far apart. A register between two ends costs the
same wire wherever on the way it stands, so place and route puts it anywhere, and one hop becomes too long. Here the
last of each chain stands beside its multiplier, and the others at even distances before it.
"""

import re
from collections.abc import Iterable, Iterator

from boards import Board

__all__ = ["board_rows", "place_waypoints"]

_MULTIPLIER = re.compile(r"core\.array\.column_(\d+)\.products\.multiplier_(\d+)\.\w+$")

#: Registers of a logic tile, which are those of an activation's bits.
_REGISTERS = tuple(f"SLICE{piece}.FF{half}" for piece in "ABCD" for half in "01")


def place_waypoints(module: dict, taken_rows: Iterable[int]) -> int:
    """Give places to the registers of a netlist's ``module``, as Yosys writes it to JSON, in place; their number.

    Nothing happens where multipliers have none. ``taken_rows`` are the rows of the die that have no logic tiles.
    """
    cells = module["cells"]
    driver = {cell["connections"]["Q"][0]: cell for cell in cells.values() if cell["type"] == "TRELLIS_FF"}
    places, inputs = {}, {}
    for name, cell in cells.items():
        match = _MULTIPLIER.match(name)
        if match and "BEL" in cell["attributes"]:
            at = int(match[1]), int(match[2])
            places[at] = _position(cell["attributes"]["BEL"])
            inputs[at] = [driver.get(cell["connections"][f"B{bit}"][0]) for bit in range(len(_REGISTERS))]
    free = _Tiles(taken_rows)
    count = 0
    for (column, row), registers in sorted(inputs.items(), key=lambda item: item[0]):
        before = inputs.get((column - 1, row))
        chains = [_chain(driver, *ends) for ends in zip(registers, before or [None] * len(registers), strict=True)]
        if not all(chains) or len(set(map(len, chains))) > 1:
            continue
        x, y = places[column, row]
        from_x, from_y = places.get((column - 1, row), (x, y))
        for step, stage in enumerate(zip(*chains, strict=True)):
            part = step / len(chains[0])
            tile = free.nearest(x + part * (from_x - x), y + part * (from_y - y))
            for register, name in zip(stage, _REGISTERS, strict=True):
                register["attributes"]["BEL"] = f"X{tile[0]}/Y{tile[1]}/{name}"
                count += 1
    return count


def board_rows(board: Board) -> set[int]:
    """Rows of the board's die that hold multipliers or block RAMs, and no logic."""
    sites = [*board.block_ram_row, *(name for row in board.multiplier_rows for pair in row for name in pair)]
    return {_position(site)[1] for site in sites}


def _position(place):
    match = re.match(r"X(\d+)/Y(\d+)/", place)
    return int(match[1]), int(match[2])


def _chain(driver, register, end):
    """Registers from ``register`` back to what ``end`` drives; only ``register`` where there is no ``end``."""
    if register is None:
        return []
    chain = [register]
    while end is not None:
        before = driver.get(chain[-1]["connections"]["DI"][0])
        if before is end:
            break
        if before is None or len(chain) > 8:
            return []
        chain.append(before)
    return chain


class _Tiles:
    """Logic tiles of the die, each of which is given away once."""

    def __init__(self, taken_rows):
        self._rows, self._used = set(taken_rows), set()

    def nearest(self, x, y):
        """The free tile nearest to a place."""
        centre = round(x), round(y)
        for distance in range(200):
            ring = sorted(_ring(distance), key=lambda step: abs(centre[0] + step[0] - x) + abs(centre[1] + step[1] - y))
            for across, down in ring:
                tile = centre[0] + across, centre[1] + down
                if tile[0] > 1 and tile[1] > 1 and tile[1] not in self._rows and tile not in self._used:
                    self._used.add(tile)
                    return tile
        raise ValueError(f"no logic tile is free near X{x} Y{y}")


def _ring(distance) -> Iterator[tuple[int, int]]:
    """Steps to the tiles at a distance, counted along rows and columns."""
    for across in range(-distance, distance + 1):
        down = distance - abs(across)
        yield from {(across, down), (across, -down)}
