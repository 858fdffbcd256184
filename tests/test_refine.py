"""Refinement: chains even out, slow logic moves, and what stands in a place always may stand there."""

import itertools
import json
import random

import numpy as np
import pytest
from placed_designs import cell, design

from gen.placement import Placement, wire_ns
from gen.refine import refine

#: Corners of the die.
CORNERS = {
    "low": cell("TRELLIS_FF", "X2/Y2/SLICEA.FF0", Q=9000),
    "high": cell("TRELLIS_FF", "X100/Y30/SLICED.FF1", Q=9001),
}


def rows(*without):
    """A register in each row of the die that has logic."""
    return {
        f"row_{y}": cell("TRELLIS_FF", f"X2/Y{y}/SLICED.FF0", Q=9100 + y) for y in range(3, 31) if y not in without
    }  # fmt: skip


def chain(length, *, at="X12/Y10"):
    """Registers between two multipliers 80 tiles apart, all of them near the first."""
    cells = {"begin": cell("MULT18X18D", "X10/Y10/MULT18_0", P0=100)}
    for n in range(length):
        cells[f"hop_{n}"] = cell("TRELLIS_FF", f"{at}/SLICE{'ABCD'[n // 2]}.FF{n % 2}", M=100 + n, Q=101 + n)
    cells["end"] = cell("MULT18X18D", "X90/Y10/MULT18_8", A0=100 + length, P0=200)
    return cells


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_hops_of_a_chain_become_even(length):
    placement = Placement(design(**CORNERS, **rows(10), **chain(length, at="X12/Y11")))
    before = placement.clock_mhz
    moves = refine(placement)
    # A tile above or below the row of the multipliers; each hop a part of the way, near tiles count twice.
    even = wire_ns(-(-80 // (length + 1)), 1)
    assert moves >= length and placement.clock_mhz > before
    assert placement.delays.max() <= 0.735 + even + 0.15
    xs = [int(placement.x[placement.names.index(f"hop_{n}")]) for n in range(length)]
    assert xs == sorted(xs)


def test_a_lut_and_its_register_move_together():
    """To where both ways are equal; what is tied to nothing slow stays."""
    cells = chain(0)
    cells["lut"] = cell("TRELLIS_COMB", "X12/Y11/SLICEB.K1", A=100, D=101, F=150)
    cells["register"] = cell("TRELLIS_FF", "X12/Y11/SLICEB.FF1", DI=150, Q=151)
    cells["end"]["connections"]["A0"] = [151]
    cells["begin"]["connections"]["P1"] = [101]
    cells["begin"]["port_directions"]["P1"] = "output"
    cells["idle"] = cell("TRELLIS_FF", "X50/Y11/SLICEA.FF0", M=151, Q=152)
    placement = Placement(design(**CORNERS, **rows(10), **cells))
    places = places_by_name(placement)
    refine(placement)
    after = places_by_name(placement)
    moved = {name for name in places if places[name] != after[name]}
    assert {"lut", "register"} <= moved <= {"lut", "register", "idle"}
    assert after["lut"] == after["register"]
    into, out = 0.735 + 0.236 + wire_ns(after["lut"][0] - 10, 1), 0.525 + wire_ns(90 - after["lut"][0], 1) + 0.084
    assert abs(into - out) < 0.2 and placement.delays.max() == pytest.approx(max(into, out))


def slices(columns):
    """Slices of the tiles above and below the multipliers' row, as column, row and letter."""
    return itertools.product(columns, (9, 11), "ABCD")


def places_by_name(placement):
    axes = (axis.tolist() for axis in placement.places)
    return {name: tuple(place) for name, *place in zip(placement.names, *axes, strict=True)}


def test_a_full_tile_is_passed_over():
    """The best place is taken by registers with another enable: the next best is as good as it can be."""
    nets = itertools.count(3000)
    others = {
        f"other_{x}_{y}_{piece}": cell("TRELLIS_FF", f"X{x}/Y{y}/SLICE{piece}.FF0", CE=300, Q=next(nets))
        for x, y, piece in slices(range(48, 53))
    }  # fmt: skip
    placement = Placement(design(**CORNERS, **rows(10), **chain(1, at="X12/Y11"), **others))
    refine(placement)
    at = placement.names.index("hop_0")
    assert (int(placement.x[at]), int(placement.y[at])) not in {(x, y) for x in range(48, 53) for y in (9, 11)}
    assert 44 <= placement.x[at] <= 56
    assert legal(placement) == []


def test_half_a_slice_of_carries_is_passed_over():
    """Beside half a carry chain there is no room for a LUT."""
    cells = chain(0)
    cells["lut"] = cell("TRELLIS_COMB", "X12/Y11/SLICEB.K1", A=100, F=150)
    cells["register"] = cell("TRELLIS_FF", "X12/Y11/SLICEB.FF1", DI=150, Q=151)
    cells["end"]["connections"]["A0"] = [151]
    for x, y, piece in slices(range(45, 55)):
        cells[f"carry_{x}_{y}_{piece}"] = cell(
            "TRELLIS_COMB", f"X{x}/Y{y}/SLICE{piece}.K0", parameters={"MODE": "CCU2"}, A=None, F=None
        )  # fmt: skip
    placement = Placement(design(**CORNERS, **rows(10), **cells))
    refine(placement)
    at = placement.names.index("lut")
    assert 40 <= placement.x[at] <= 60 and legal(placement) == []


def test_a_constant_keeps_the_lut_beside_its_register():
    """It comes through that LUT: the register stays, and no LUT moves to where it is."""
    cells = chain(0)
    cells["lut"] = cell("TRELLIS_COMB", "X12/Y11/SLICEB.K1", A=100, F=150)
    cells["end"]["connections"]["A0"] = [150]
    for x, y, piece in slices(range(10, 91)):
        place = f"X{x}/Y{y}/SLICE{piece}.FF0"
        cells[f"one_{x}_{y}_{piece}"] = cell("TRELLIS_FF", place, DI=99, Q=10_000 + len(cells))
    cells["$PACKER_VCC"] = cell("TRELLIS_COMB", "X3/Y3/SLICEA.K0", F=99)
    cells["end"]["connections"]["A1"] = cells["one_10_9_A"]["connections"]["Q"]
    cells["end"]["port_directions"]["A1"] = "input"
    placement = Placement(design(**CORNERS, **rows(9, 10, 11), **cells))
    refine(placement)
    after = places_by_name(placement)
    assert after["lut"] not in {place for name, place in after.items() if name.startswith("one_")}
    assert all(
        after[name][:2] == (int(name.split("_")[1]), int(name.split("_")[2])) for name in after if name[:4] == "one_"
    )


def legal(placement):
    """What is wrong with where cells stand, by the rules of the die."""
    wrong, held = [], {}
    for number, data in enumerate(placement.cells):
        place = int(placement.x[number]), int(placement.y[number]), int(placement.slot[number])
        if data["type"] in ("TRELLIS_FF", "TRELLIS_COMB"):
            if (data["type"], *place) in held:
                wrong.append(("twice", place))
            held[data["type"], *place] = number
    tiles = {}
    for (kind, x, y, slot), number in held.items():
        tiles.setdefault((x, y), {})[kind, slot] = placement.cells[number]

    def net(data, port):
        bits = [bit for bit in data["connections"].get(port, []) if isinstance(bit, int)]
        return bits[0] if bits else None

    for tile, cells in tiles.items():
        registers = {slot: data for (kind, slot), data in cells.items() if kind == "TRELLIS_FF"}
        luts = {slot: data for (kind, slot), data in cells.items() if kind == "TRELLIS_COMB"}
        for port in ("CLK", "LSR"):
            if len({net(data, port) for data in registers.values()}) > 1:
                wrong.append((port, tile))
        for piece in range(4):
            pair = [registers[slot] for slot in (2 * piece, 2 * piece + 1) if slot in registers]
            if len({(net(data, "CE"), data["parameters"].get("CEMUX")) for data in pair}) > 1:
                wrong.append(("CE", tile, piece))
            modes = {
                luts[slot]["parameters"].get("MODE") == "CCU2" for slot in (2 * piece, 2 * piece + 1) if slot in luts
            }
            if len(modes) > 1:
                wrong.append(("carry", tile, piece))
        for slot, data in registers.items():
            if slot in luts and net(data, "M") is not None and net(luts[slot], "M") is not None:
                wrong.append(("M", tile, slot))
            if (bit := net(data, "DI")) is not None and (slot not in luts or net(luts[slot], "F") != bit):
                wrong.append(("DI", tile, slot))
    of_bit = {}
    for number, data in enumerate(placement.cells):
        for port in ("FCO", "F", "OFX"):
            if (bit := net(data, port)) is not None:
                of_bit[bit, port] = number
    for number, data in enumerate(placement.cells):
        bit = net(data, "FCI")
        if bit is not None and (before := of_bit.get((bit, "FCO"))) is not None:
            step = 8 * (placement.x[number] - placement.x[before]) + placement.slot[number] - placement.slot[before]
            if placement.y[number] != placement.y[before] or step != 1:
                wrong.append(("FCI", placement.names[number]))
        bit = net(data, "F1")
        if bit is not None and (upper := of_bit.get((bit, "F"))) is not None:
            x, y, slot = (axis[number] - axis[upper] for axis in placement.places)
            if (x, y) != (0, 0) or slot != -1:
                wrong.append(("F1", placement.names[number]))
    return wrong


def crowd(rng):
    """A crowd of cells of all kinds, legal, whose nets lead anywhere."""
    cells = dict(CORNERS) | rows(10, 20)
    free = iter(rng.sample([(x, y) for x in range(5, 95, 3) for y in range(3, 31) if y not in (10, 20)], 500))
    fresh = iter(range(1000, 9000))
    sources = []

    def source():
        return rng.choice(sources) if sources else next(fresh)

    for n in range(12):
        cells[f"mult_{n}"] = cell(
            "MULT18X18D", f"X{rng.randrange(4, 96)}/Y{rng.choice((10, 20))}/MULT18_{n}", A0=None, P0=next(fresh)
        )
        sources.append(cells[f"mult_{n}"]["connections"]["P0"][0])
    for n in range(60):
        x, y = next(free)
        enable, reset = rng.choice((None, 901, 902)), rng.choice((None, None, 903))
        for slot in rng.sample(range(8), rng.randint(1, 5)):
            piece, half = "ABCD"[slot // 2], slot % 2
            extra = {"LSR": reset} | ({} if enable is None else {"CE": enable})
            name = f"{n}_{slot}"
            if rng.random() < 0.5:
                out = next(fresh)
                cells[f"lut_{name}"] = cell(
                    "TRELLIS_COMB", f"X{x}/Y{y}/SLICE{piece}.K{half}", A=source(), C=source(), F=out
                )
                if rng.random() < 0.5:
                    register_out = next(fresh)
                    cells[f"ff_{name}"] = cell(
                        "TRELLIS_FF", f"X{x}/Y{y}/SLICE{piece}.FF{half}", DI=out, Q=register_out, **extra
                    )
                    sources.append(register_out)
                else:
                    sources.append(out)
            else:
                out = next(fresh)
                cells[f"ff_{name}"] = cell("TRELLIS_FF", f"X{x}/Y{y}/SLICE{piece}.FF{half}", M=source(), Q=out, **extra)
                sources.append(out)
    for n in range(12):
        x, y = next(free)
        carry = None
        for slot in range(rng.choice((4, 8))):
            after, out = next(fresh), next(fresh)
            ports = {} if carry is None else {"FCI": carry}
            cells[f"sum_{n}_{slot}"] = cell(
                "TRELLIS_COMB", f"X{x}/Y{y}/SLICE{'ABCD'[slot // 2]}.K{slot % 2}",
                parameters={"MODE": "CCU2"}, A=source(), FCO=after, F=out, **ports,
            )  # fmt: skip
            cells[f"total_{n}_{slot}"] = cell(
                "TRELLIS_FF", f"X{x}/Y{y}/SLICE{'ABCD'[slot // 2]}.FF{slot % 2}", DI=out, Q=next(fresh)
            )  # fmt: skip
            carry = after
    for n in range(40):
        (x, y), (far_x, far_y) = next(free), next(free)
        upper, out = next(fresh), next(fresh)
        cells[f"upper_{n}"] = cell("TRELLIS_COMB", f"X{x}/Y{y}/SLICEB.K1", A=source(), F=upper)
        cells[f"lower_{n}"] = cell("TRELLIS_COMB", f"X{x}/Y{y}/SLICEB.K0", B=source(), F1=upper, M=source(), OFX=out)
        cells[f"chosen_{n}"] = cell("TRELLIS_FF", f"X{far_x}/Y{far_y}/SLICEA.FF0", M=out, Q=next(fresh))
    for n in range(12):
        cells[f"mult_{n}"]["connections"]["A0"] = [source()]
    return cells


@pytest.mark.parametrize("seed", range(6))
def test_every_place_is_a_legal_one(seed):
    """Fixed cells stay, each cell has a place that it may have, and the clock is at least as fast."""
    placement = Placement(json.loads(json.dumps(design(**crowd(random.Random(seed))))))
    assert legal(placement) == []
    before, places = placement.clock_mhz, placement.places
    said = []
    moves = refine(placement, said.append)
    assert moves > 5 and placement.clock_mhz > 1.02 * before
    assert said[-1] == f"{placement.clock_mhz:.1f} MHz promised"
    assert legal(placement) == []
    fixed = [n for n, data in enumerate(placement.cells) if data["type"] == "MULT18X18D"]
    assert all(np.array_equal(old[fixed], new[fixed]) for old, new in zip(places, placement.places, strict=True))
    promised = placement.clock_mhz
    placement.update()
    assert placement.clock_mhz == pytest.approx(promised)
