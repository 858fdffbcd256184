"""A placed design: where its cells stand, and how fast it will be.

Delays are those of an ECP5 of speed grade 6, as nextpnr and Project Trellis have them. Before it is routed, a wire's
delay is nextpnr's prediction, by how far apart its ends are, so the clock is what nextpnr tells after placement. Only
carry chains count a little too slow (see :data:`_CARRY`), as they do when nextpnr routes the design.
"""

import re
from collections import defaultdict

import numpy as np

from boards.top import CORE_CLOCK_NET

__all__ = ["CORE_NET", "Placement", "wire_ns"]

#: The core's clock as nextpnr names it, on its global network.
CORE_NET = f"$glbnet${CORE_CLOCK_NET}"

#: Nanoseconds from the clock to a register's output, by cell; and to that of a block RAM without its own register.
_LAUNCH = {"TRELLIS_FF": 0.525, "MULT18X18D": 0.735, "DP16KD": 0.973}
_LAUNCH_UNREGISTERED = 5.83

#: Nanoseconds before the clock at which an input is needed, by cell and the letters of its port; others: 0.
_SETUP = {
    "TRELLIS_FF": {"LSR": 0.424},
    "TRELLIS_COMB": {"WRE": 0.392},
    "MULT18X18D": {"A": 0.084, "B": 0.084, "CE": 0.252, "RST": 0.095},
    "DP16KD": {
        "ADA": 0.251, "DIA": 0.218, "WEA": 0.139, "CSA": 0.02, "CEA": 0.211, "OCEA": 0.226, "RSTA": 0.579,
        "ADB": 0.205, "DIB": 0.134, "CEB": 0.34, "OCEB": 0.253, "RSTB": 0.585,
    },
}  # fmt: skip

#: Nanoseconds through a LUT and the multiplexers behind it, by input (A stands for A to D) and output.
_LUT = {
    ("A", "F"): 0.236, ("A", "OFX"): 0.401, ("F1", "OFX"): 0.165, ("M", "OFX"): 0.256,
    ("FXA", "OFX"): 0.239, ("FXB", "OFX"): 0.242,
}  # fmt: skip

#: Likewise through half a slice of a carry chain. The upper half would be faster, FCI to FCO 0 and FCI to F 0.403, but
#: a design that nextpnr reads back no longer tells it which half a cell is.
_CARRY = {("A", "F"): 0.236, ("A", "FCO"): 0.447, ("FCI", "F"): 0.443, ("FCI", "FCO"): 0.071}

#: Which output of a LUT RAM's write port follows which input.
_WRITE_PORT = {
    "A0": "WADO3", "A1": "WDO1", "B0": "WADO1", "B1": "WDO3", "C0": "WADO2", "C1": "WDO0", "D0": "WADO0", "D1": "WDO2",
}  # fmt: skip

#: Nanoseconds of wire a tile; how many tiles of the way across, and down, count twice; and what counts besides.
_TILE, _NEAR, _ALWAYS = 0.08, 5, 6

#: Cells of logic tiles, by their name in a place.
_LOGIC = {"TRELLIS_COMB": "K", "TRELLIS_FF": "FF"}

#: A cell's place: its tile and, in a logic tile, the slice and the half of it.
_BEL = re.compile(r"X(\d+)/Y(\d+)/(?:SLICE([ABCD])\.(?:K|FF)([01])$)?")

_CLOCK = re.compile(r"CLK[AB\d]?|WCK")


def wire_ns(across, down):
    """Predicted nanoseconds of a wire over so many tiles; numbers or arrays."""
    return _TILE * (_ALWAYS + across + down + np.minimum(across, _NEAR) + np.minimum(down, _NEAR))


class Placement:
    """Cells, places and timing of a placed design, as far as the core's clock goes.

    A *pin* is an output of a cell, an *arc* the way from a pin to an input of a cell. Cells, pins and arcs are numbers.

    Parameters
    ----------
    design : dict
        A design as nextpnr writes it to JSON after placement.

    Attributes
    ----------
    names, cells : list of str, list of dict
        Names of cells, and what the design says of them.
    x, y, slot : ndarray of int, (cells,)
        Their tiles, and which eighth of a logic tile. To change them, :meth:`move`, or :meth:`update` afterwards.
    pin_cell, pin_port : ndarray of int, list of str, (pins,)
        The output of a cell that a pin is.
    arc_pin, arc_from, arc_cell, arc_port : ndarray of int, list of str, (arcs,)
        Where an arc comes from, pin and cell, and the input of a cell to which it leads.
    ways : dict of int to list of (int, float)
        By pin of a cell without a clock: arcs to that cell, and the nanoseconds from their ends to the pin.
    level : ndarray of int, (pins,)
        A pin comes after all those with a lower level that it depends on.
    setup : ndarray of float, (arcs,)
        Nanoseconds before the clock that an arc has to settle; -inf where it does not lead to a register.
    arrival : ndarray of float, (pins,)
        Nanoseconds after the clock that a pin settles; -inf where no register is behind it.
    wire, rest : ndarray of float, (arcs,)
        Nanoseconds of an arc, and of the slowest path from its end to a register, setup included.
    """

    def __init__(self, design: dict):
        self._design = design
        top = design["modules"]["top"]
        named = {
            name: cell
            for name, cell in top["cells"].items()
            if cell["type"] in _SETUP or cell["type"] == "TRELLIS_RAMW"
            if "NEXTPNR_BEL" in cell["attributes"] and not name.startswith("$PACKER")
        }
        self.names, self.cells = list(named), list(named.values())
        places = [_BEL.match(cell["attributes"]["NEXTPNR_BEL"]).groups() for cell in self.cells]
        self.x, self.y = (np.array([int(place[axis]) for place in places]) for axis in (0, 1))
        self.slot = np.array([2 * "ABCD".index(piece) + int(half) if piece else -1 for *_, piece, half in places])
        self._connect()
        self.sort_ways()
        self.update()

    def _connect(self):
        """Pins and arcs, and the nanoseconds through cells."""
        (core_clock,) = self._design["modules"]["top"]["netnames"][CORE_NET]["bits"]
        pins, self.pin_port, of_bit = [], [], {}
        outputs = [{} for _ in self.cells]
        for number, cell in enumerate(self.cells):
            for port, bit in _connected(cell, "output"):
                of_bit[bit] = outputs[number][port] = len(pins)
                pins.append(number)
                self.pin_port.append(port)
        self.pin_cell = np.array(pins)
        self._launch = np.full(len(pins), -np.inf)
        arcs, setups = [], []
        self.arc_port, self.ways = [], defaultdict(list)
        for number, cell in enumerate(self.cells):
            kind = cell["type"]
            clocked = kind in _LAUNCH and (kind != "TRELLIS_FF" or cell["connections"]["CLK"][0] == core_clock)
            if clocked:
                for port, pin in outputs[number].items():
                    bare = kind == "DP16KD" and cell["parameters"].get(f"REGMODE_{port[2]}") == "NOREG"
                    self._launch[pin] = _LAUNCH_UNREGISTERED if bare else _LAUNCH[kind]
            through = _CARRY if cell["parameters"].get("MODE") == "CCU2" else _LUT
            for port, bit in _connected(cell, "input"):
                if bit not in of_bit or _CLOCK.fullmatch(port):
                    continue
                arc = len(arcs)
                arcs.append((of_bit[bit], number))
                self.arc_port.append(port)
                letters = port if kind == "TRELLIS_COMB" else port.rstrip("0123456789")
                ends = clocked or (kind == "TRELLIS_COMB" and port.startswith("W"))
                setups.append(_SETUP[kind].get(letters, 0.0) if ends else -np.inf)
                for output, pin in outputs[number].items():
                    if kind == "TRELLIS_RAMW" and _WRITE_PORT[port] == output:
                        self.ways[pin].append((arc, 0.0))
                    entry = "A" if port in "ABCD" else port
                    if kind == "TRELLIS_COMB" and (entry, output) in through:
                        self.ways[pin].append((arc, through[entry, output]))
        self.arc_pin, self.arc_cell = np.array(arcs).T
        self.arc_from = self.pin_cell[self.arc_pin]
        self.setup = np.array(setups)
        # Ways within a tile that take no time: always, beside one another, and from LUT to LUT.
        port, source = np.array(self.arc_port), np.array(self.pin_port)[self.arc_pin]
        self._tied = np.isin(port, ["FCI", "FXA", "FXB"]) | ((port == "DI") & (source == "F"))
        to_lut = np.isin(port, list("ABCD"))
        self._beside, self._across = to_lut & (source == "Q"), to_lut & (source == "F")

    def sort_ways(self):
        """Levels of pins; ways level by level, as arrays of arcs, pins and nanoseconds."""
        self.level = np.zeros(len(self.pin_cell), int)
        waiting, users = {}, defaultdict(list)
        for pin, ways in self.ways.items():
            sources = [source for source in self.arc_pin[[arc for arc, _ in ways]].tolist() if source in self.ways]
            waiting[pin] = len(sources)
            for source in sources:
                users[source].append(pin)
        self._levels = []
        ready = [pin for pin, count in waiting.items() if not count]
        while ready:
            ways = [(arc, pin, delay) for pin in ready for arc, delay in self.ways[pin]]
            self._levels.append(tuple(map(np.array, zip(*ways, strict=True))))
            self.level[ready] = len(self._levels)
            following = []
            for user in (user for pin in ready for user in users[pin]):
                waiting[user] -= 1
                if not waiting[user]:
                    following.append(user)
            ready = following

    def update(self):
        """Work out the timing of where cells stand now."""
        source, sink = self.arc_from, self.arc_cell
        across, down = np.abs(self.x[source] - self.x[sink]), np.abs(self.y[source] - self.y[sink])
        slot = self.slot[source]
        near = (self._beside & (slot == self.slot[sink])) | (self._across & (slot != 1) & (slot != 6))
        self.wire = np.where(self._tied | (near & (across + down == 0)), 0.0, wire_ns(across, down))
        self.arrival = self._launch.copy()
        for arcs, pins, delays in self._levels:
            np.maximum.at(self.arrival, pins, self.arrival[self.arc_pin[arcs]] + self.wire[arcs] + delays)
        self.rest = self.setup.copy()
        after = np.full(len(self.pin_cell), -np.inf)
        np.maximum.at(after, self.arc_pin, self.wire + self.rest)
        for arcs, pins, delays in reversed(self._levels):
            np.maximum.at(self.rest, arcs, after[pins] + delays)
            np.maximum.at(after, self.arc_pin[arcs], self.wire[arcs] + self.rest[arcs])

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``x``, ``y`` and ``slot``, copied."""
        return self.x.copy(), self.y.copy(), self.slot.copy()

    def move(self, x, y, slot) -> None:
        """Put all cells to other places."""
        self.x, self.y, self.slot = x, y, slot
        self.update()

    @property
    def delays(self) -> np.ndarray:
        """Nanoseconds of the slowest path through each arc; -inf where there is none. (arcs,)"""
        return self.arrival[self.arc_pin] + self.wire + self.rest

    @property
    def clock_mhz(self) -> float:
        """The clock that the placement promises."""
        return 1000 / float(self.delays.max())

    def path(self, arc: int) -> list[int]:
        """Arcs of the slowest path through ``arc``, from a register to a register."""
        path = [arc]
        while ways := self.ways.get(int(self.arc_pin[path[0]])):
            path.insert(
                0, max(ways, key=lambda way: self.arrival[self.arc_pin[way[0]]] + self.wire[way[0]] + way[1])[0]
            )
        while self.setup[path[-1]] < 0:
            following = np.flatnonzero(self.arc_from == self.arc_cell[path[-1]]).tolist()
            through = {n: dict(self.ways[int(self.arc_pin[n])]).get(path[-1], -np.inf) for n in following}
            path.append(max(following, key=lambda n: through[n] + self.wire[n] + self.rest[n]))
        return path

    @property
    def clock_nets(self) -> list[str]:
        """Names of the nets that are on the die's global networks."""
        nets = self._design["modules"]["top"]["netnames"]
        return [name for name, net in nets.items() if int(net["attributes"].get("ECP5_IS_GLOBAL", "0"), 2)]

    def design(self) -> dict:
        """The design with its cells where they stand now."""
        for number, cell in enumerate(self.cells):
            if cell["type"] in _LOGIC:
                slot = int(self.slot[number])
                piece = f"SLICE{'ABCD'[slot // 2]}.{_LOGIC[cell['type']]}{slot % 2}"
                cell["attributes"]["NEXTPNR_BEL"] = f"X{self.x[number]}/Y{self.y[number]}/{piece}"
        return self._design


def _connected(cell, direction):
    """Ports of a cell in a direction, and the bit of each; of those that are connected."""
    for port, bits in cell["connections"].items():
        if cell["port_directions"][port] == direction and bits and isinstance(bits[0], int):
            yield port, bits[0]
