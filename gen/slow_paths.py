"""Slow paths of a placed design, before it is routed: for whoever makes the clock faster.

    nextpnr-ecp5 ... --no-route --write placed.json        # the other options as nextpnr.log's first line has them
    python -m gen.slow_paths placed.json

Delays are nextpnr's own prediction for an ECP5 of speed grade 6: by distance between cells, and by cell.
"""

import json
import re
import sys
from collections import Counter
from itertools import groupby
from typing import NamedTuple

__all__ = ["Path", "slow_paths"]

#: Nanoseconds from the clock to a register's output, by cell; paths begin and end at these.
_CLOCK_TO_OUTPUT = {"TRELLIS_FF": 0.52, "MULT18X18D": 0.74, "DP16KD": 0.96}

#: Nanoseconds a tile, and once more for the first tiles; through a LUT; along a carry chain, into it and out of it.
_TILE, _FIRST_TILES, _LUT, _CARRY, _INTO_CARRY = 0.13, 5, 0.24, 0.07, 0.45

#: Inputs of a LUT cell that lead to no output of it in the same cycle.
_CLOCKED = ("WCK", "WRE", "CLK")


class Path(NamedTuple):
    """A path from a register to a register: nanoseconds, its cells, and the input port where it ends."""

    delay_ns: float
    cells: tuple[str, ...]
    port: str


def slow_paths(design: dict) -> list[Path]:
    """The slowest path to every register's input, slowest first, of a placed ``design`` as nextpnr writes it."""
    cells = {name: cell for name, cell in design["modules"]["top"]["cells"].items() if not name.startswith("$PACKER")}
    places = {name: _place(cell) for name, cell in cells.items()}
    driver = {
        bit: (name, port)
        for name, cell in cells.items()
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "output"
        for bit in bits
    }
    known: dict[tuple[str, str], tuple[float, tuple[str, ...]] | None] = {}

    def inputs(name):
        cell = cells[name]
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input" and not port.startswith(_CLOCKED):
                yield from ((port, driver[bit]) for bit in bits if bit in driver)

    def arrival(name, port):
        """When an output settles, and the cells on the way; None where no register is behind it."""
        kind = cells[name]["type"]
        if kind in _CLOCK_TO_OUTPUT:
            return _CLOCK_TO_OUTPUT[kind], (name,)
        if kind != "TRELLIS_COMB":
            return None
        if (name, port) not in known:
            known[name, port] = None  # a loop, if it comes back here
            ways = []
            for entry, source in inputs(name):
                if before := arrival(*source):
                    chained = entry == "FCI"
                    through = _CARRY if chained and port == "FCO" else _INTO_CARRY if chained or port == "FCO" else _LUT
                    wire = 0 if chained else _wire(places[source[0]], places[name])
                    ways.append((before[0] + wire + through, (*before[1], name)))
            known[name, port] = max(ways, default=None)
        return known[name, port]

    paths = []
    for name, cell in cells.items():
        if cell["type"] in _CLOCK_TO_OUTPUT:
            for port, source in inputs(name):
                if before := arrival(*source):
                    local = port == "DI" and places[source[0]] == places[name]
                    wire = 0 if local else _wire(places[source[0]], places[name])
                    paths.append(Path(before[0] + wire, (*before[1], name), port))
    return sorted(paths, reverse=True)


def _place(cell):
    match = re.match(r"X(\d+)/Y(\d+)/", cell["attributes"].get("NEXTPNR_BEL", ""))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _wire(a, b):
    """Predicted nanoseconds of a wire between two places."""
    across, down = (abs(p - q) for p, q in zip(a, b, strict=True))
    return _TILE * (across + down + min(across, _FIRST_TILES) + min(down, _FIRST_TILES))


def main(arguments):
    """Print the slowest of the paths between any two kinds of cells, of the slowest 5,000."""
    sys.setrecursionlimit(100_000)  # long carry chains
    with open(arguments[0], encoding="utf-8") as file:
        paths = slow_paths(json.load(file))
    kinds = Counter()
    for path in paths[:5000]:
        kind = tuple(re.sub(r"\d+", "#", path.cells[end]) for end in (0, -1))
        kinds[kind] += 1
        if kinds[kind] == 1:
            print(f"{path.delay_ns:6.2f} ns  {' -> '.join(_steps(path.cells))}.{path.port}")


def _steps(cells):
    """What a path goes through: cells without the endings that synthesis gives them, those of one name once."""
    named = (re.sub(r"_(TRELLIS|LUT4|CCU2C|PFUMX|L6MUX21)_.*|\$CCU2_COMB.$", "", cell) for cell in cells)
    return [name for name, _ in groupby(named)]


if __name__ == "__main__":
    main(sys.argv[1:])
