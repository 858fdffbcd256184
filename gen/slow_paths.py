"""Slow paths of a placed design, before it is routed: for whoever makes the clock faster.

    nextpnr-ecp5 ... --no-route --write placed.json     # the other options as nextpnr-place.log's first line has them
    python -m gen.slow_paths placed.json                # --refined: after what the build does next

Delays are nextpnr's prediction for an ECP5 of speed grade 6: by distance between cells, and by cell.
"""

import argparse
import json
import re
from collections.abc import Iterator
from itertools import groupby

import numpy as np

from gen.placement import Placement
from gen.refine import refine

__all__ = ["slow_paths"]


def slow_paths(placement: Placement) -> Iterator[tuple[float, list[int]]]:
    """Nanoseconds and arcs of the slowest paths, slowest first, each with an arc that none before it has."""
    delays, told = placement.delays, set()
    for arc in np.argsort(-delays, kind="stable").tolist():
        if arc not in told and np.isfinite(delays[arc]):
            path = placement.path(arc)
            told.update(path)
            yield float(delays[arc]), path


def main(arguments=None):
    """Print the slowest path between any two kinds of cells."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("placed", help="a design as nextpnr writes it after placement")
    parser.add_argument("--refined", action="store_true", help="move what is on slow paths first")
    parser.add_argument("--paths", type=int, default=20, help="number of paths (%(default)s)")
    options = parser.parse_args(arguments)
    with open(options.placed, encoding="utf-8") as file:
        placement = Placement(json.load(file))
    if options.refined:
        refine(placement)
    told = set()
    for delay_ns, path in slow_paths(placement):
        cells = [placement.names[placement.arc_from[path[0]]], *(placement.names[placement.arc_cell[n]] for n in path)]
        kind = tuple(re.sub(r"\d+", "#", cells[end]) for end in (0, -1))
        if kind not in told:
            told.add(kind)
            print(f"{delay_ns:6.2f} ns  {' -> '.join(_steps(cells))}.{placement.arc_port[path[-1]]}")
        if len(told) >= options.paths:
            break


def _steps(cells):
    """What a path goes through: cells without the endings that synthesis gives them, those of one name once."""
    named = (re.sub(r"_(TRELLIS|LUT4|CCU2C|PFUMX|L6MUX21)_.*|\$CCU2_COMB.$", "", cell) for cell in cells)
    return [name for name, _ in groupby(named)]


if __name__ == "__main__":
    main()
