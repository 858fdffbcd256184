"""Refinement of a placed design: what is on slow paths moves to free places that make them faster.

A placement's clock is bounded by a few dozen wires; most lead to or from registers that stand anywhere between two ends
that are far apart. One after the other, the cells on the slowest paths move to the free place at which the paths
through them are fastest, until nothing is gained any more. All other cells stay where the placer has put them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np

from gen.placement import Placement, wire_ns

__all__ = ["refine"]

#: Nanoseconds by which a path must be slower than another to weigh e times as much: round by round, then again.
_SHARPNESS = (0.4, 0.2, 0.1, 0.05)

#: How many nanoseconds faster than the slowest paths those are whose cells move.
_MARGIN = 1.5

#: Nanoseconds of a slowest path less that this part of a nanosecond of any wire is worth.
_LENGTH = 1e-4

#: Places that are tried for a group, best first.
_TRIES = 400

#: Inputs that only the neighbouring half of a slice, or the next slice, leads to.
_TIED = ("F1", "FXA", "FXB", "FCI", "DI")


def refine(design: Placement, say: Callable[[str], None] = lambda text: None) -> int:
    """Move cells of a placed ``design``, in place, until its slowest path gets no faster; number of moves."""
    sites = _Sites(design)
    group_of = _groups(design)
    best, kept, moves = np.inf, design.places, 0
    while True:
        before = best
        for sharpness in _SHARPNESS:
            worst = design.delays.max()
            slow = np.flatnonzero(design.delays > worst - _MARGIN)
            slow = slow[np.argsort(-design.delays[slow])]
            ends = np.column_stack([design.arc_cell[slow], design.arc_from[slow]]).ravel().tolist()
            groups = dict.fromkeys(group_of[cell] for cell in ends if cell in group_of)
            weigh = partial(_weight, worst=worst, sharpness=sharpness)
            moves += sum(_move(design, sites, group, weigh) for group in groups)
            now = float(design.delays.max())
            if now < best:
                best, kept = now, design.places
            say(f"{1000 / best:.1f} MHz promised")
        if best > before * 0.999:
            break
    design.move(*kept)
    return moves


def _weight(path, *, worst, sharpness):
    """What paths weigh, by their nanoseconds."""
    return np.exp((path - worst) / sharpness)


class _Group:
    """Cells that only move together, and the arcs to, from and among them."""

    def __init__(self, design, cells, into, out):
        self.cells = np.array(cells)
        inside = set(cells)
        self.into = np.array([arc for c in cells for arc in into[c] if design.arc_from[arc] not in inside], int)
        self.out = np.array([arc for c in cells for arc in out[c] if design.arc_cell[arc] not in inside], int)
        self.ends = [arc for c in cells for arc in into[c] if design.setup[arc] >= 0]
        pins = {int(design.arc_pin[arc]) for c in cells for arc in out[c]}
        self.pins = sorted(pins, key=design.level.__getitem__)
        self.single = len(set(zip(design.x[cells], design.y[cells], design.slot[cells], strict=True))) == 1


def _groups(design):
    """The groups that can be moved, by each of their cells."""
    into, out = defaultdict(list), defaultdict(list)
    leader = list(range(len(design.cells)))

    def find(cell):
        while leader[cell] != cell:
            leader[cell] = leader[leader[cell]]
            cell = leader[cell]
        return cell

    for arc, (cell, source) in enumerate(zip(design.arc_cell.tolist(), design.arc_from.tolist(), strict=True)):
        into[cell].append(arc)
        out[source].append(arc)
        if design.arc_port[arc] in _TIED:
            leader[find(cell)] = find(source)
    members = defaultdict(list)
    for cell in range(len(design.cells)):
        members[find(cell)].append(cell)
    groups = {}
    for cells in members.values():
        kinds = {design.cells[cell]["type"] for cell in cells}
        ram = any(design.cells[cell]["parameters"].get("MODE") == "DPRAM" for cell in cells)
        constant = kinds == {"TRELLIS_FF"} and any(_net(design.cells[cell], "DI") is not None for cell in cells)
        if kinds <= {"TRELLIS_FF", "TRELLIS_COMB"} and not ram and not constant:
            groups |= dict.fromkeys(cells, _Group(design, cells, into, out))
    return groups


class _Sites:
    """Which places of logic tiles are free, and what may go there."""

    def __init__(self, design):
        self._design = design
        self._held = {"TRELLIS_COMB": {}, "TRELLIS_FF": {}}
        self._slice_keys, self._tile_keys = defaultdict(Counter), defaultdict(Counter)
        self._keys = {cell: _keys(data) for cell, data in enumerate(design.cells) if data["type"] == "TRELLIS_FF"}
        self._carry = {cell for cell, data in enumerate(design.cells) if data["parameters"].get("MODE") == "CCU2"}
        self._takes_m = {cell for cell, data in enumerate(design.cells) if _net(data, "M") is not None}
        self._ram = set()
        logic = []
        for cell, data in enumerate(design.cells):
            if data["type"] in self._held:
                logic.append(cell)
                self.take(cell)
            if data["type"] == "TRELLIS_RAMW" or data["parameters"].get("MODE") == "DPRAM":
                self._ram.add(self._place(cell)[:2])
        # A constant comes to a register through the LUT beside it, which therefore has to stay free.
        luts = self._held["TRELLIS_COMB"]
        for cell in self._keys:
            if _net(design.cells[cell], "DI") is not None:
                luts.setdefault(self._place(cell), cell)
        # Rows without logic are those of multipliers and block RAMs.
        self.columns = np.arange(design.x[logic].min(), design.x[logic].max() + 1)
        self.rows = np.unique(design.y[logic])
        self._tiles = {(x, y) for x in self.columns.tolist() for y in self.rows.tolist()}

    def _place(self, cell):
        design = self._design
        return int(design.x[cell]), int(design.y[cell]), int(design.slot[cell])

    def take(self, cell):
        """A cell is where it is now."""
        self._count(cell, 1)
        self._held[self._design.cells[cell]["type"]][self._place(cell)] = cell

    def leave(self, cell):
        """A cell is no longer where it is now."""
        self._count(cell, -1)
        del self._held[self._design.cells[cell]["type"]][self._place(cell)]

    def _count(self, cell, by):
        if cell in self._keys:
            x, y, slot = self._place(cell)
            of_slice, of_tile = self._keys[cell]
            self._slice_keys[x, y, slot // 2][of_slice] += by
            self._tile_keys[x, y][of_tile] += by

    def fits(self, cell, x, y, slot):
        """Whether a cell may stand at a place."""
        luts, registers = self._held.values()
        place, other = (x, y, slot), (x, y, slot ^ 1)
        if (x, y) not in self._tiles or (x, y) in self._ram:
            return False
        if cell in self._keys:
            of_slice, of_tile = self._keys[cell]
            return (
                place not in registers
                and not (cell in self._takes_m and luts.get(place) in self._takes_m)
                and all(key == of_slice for key, count in self._slice_keys[x, y, slot // 2].items() if count)
                and all(key == of_tile for key, count in self._tile_keys[x, y].items() if count)
            )
        return (
            place not in luts
            and not (cell in self._takes_m and registers.get(place) in self._takes_m)
            and (other not in luts or (luts[other] in self._carry) == (cell in self._carry))
        )


def _keys(data):
    """What registers of one slice, and of one tile, must have in common."""
    has = data["parameters"].get
    return (
        (has("GSR"), has("CEMUX"), _net(data, "CE")),
        (_net(data, "CLK"), _net(data, "LSR"), has("CLKMUX"), has("LSRMUX"), has("SRMODE")),
    )


def _net(data, port):
    """The bit at a cell's port, or None."""
    bits = data["connections"].get(port)
    return bits[0] if bits and bits[0] != "x" else None


def _move(design, sites, group, weigh):
    """Move a group to a better free place, if there is one; whether it was moved."""
    sources, sinks = design.arc_from[group.into], design.arc_cell[group.out]
    before = _cost(design, group, design.wire[group.into][:, None], design.wire[group.out][:, None], weigh)[0]
    # Steps across and down: to anywhere between its neighbours.
    steps = []
    for at, allowed in ((design.x, sites.columns), (design.y, sites.rows)):
        own = at[group.cells[0]]
        ends = np.concatenate([at[sources], at[sinks], [own]])
        steps.append(allowed[(allowed >= ends.min() - 1) & (allowed <= ends.max() + 1)] - own)
    across, down = (axis.ravel() for axis in np.meshgrid(*steps))
    wires = [
        wire_ns(
            np.abs(design.x[inner][:, None] + across - design.x[outer][:, None]),
            np.abs(design.y[inner][:, None] + down - design.y[outer][:, None]),
        )
        for inner, outer in ((design.arc_cell[group.into], sources), (design.arc_from[group.out], sinks))
    ]
    cost = _cost(design, group, *wires, weigh)
    better = np.flatnonzero(cost < before * 0.98 - 1e-9)
    better = better[np.argsort(cost[better])][:_TRIES]
    cells = group.cells.tolist()
    for cell in cells:
        sites.leave(cell)
    x, y, slot = (axis[group.cells] for axis in (design.x, design.y, design.slot))
    for n in better.tolist():
        for turn in range(8) if group.single else (None,):
            to = x + across[n], y + down[n], slot if turn is None else np.full_like(slot, turn)
            if all(map(sites.fits, cells, *(axis.tolist() for axis in to))):
                design.x[group.cells], design.y[group.cells], design.slot[group.cells] = to
                for cell in cells:
                    sites.take(cell)
                design.update()
                return True
    for cell in cells:
        sites.take(cell)
    return False


def _cost(design, group, wires_in, wires_out, weigh):
    """What the paths through a group weigh, by the wires to and from it, (arcs, places)."""
    wires = dict(zip(group.into.tolist(), wires_in, strict=True))
    places = (wires_in if len(wires_in) else wires_out).shape[-1]
    settled = {}

    def reach(arc):
        pin = int(design.arc_pin[arc])
        return (settled[pin] if pin in settled else design.arrival[pin]) + wires.get(arc, design.wire[arc])

    for pin in group.pins:
        ways = [reach(arc) + delay for arc, delay in design.ways.get(pin, ())]
        settled[pin] = np.broadcast_to(np.max(ways, axis=0) if ways else design.arrival[pin], places)
    paths = [reach(arc) + design.setup[arc] for arc in group.ends]
    paths += [
        settled[pin] + wire + rest
        for pin, wire, rest in zip(
            design.arc_pin[group.out].tolist(), wires_out, design.rest[group.out].tolist(), strict=True
        )
    ]
    length = _LENGTH * (wires_in.sum(0) + wires_out.sum(0))
    return sum(map(weigh, paths)) + length
