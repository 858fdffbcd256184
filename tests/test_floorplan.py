"""Places on the die: whole columns, neighbours side by side, each place once, and named in the Verilog."""

import doctest
import re
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest

import boards
import gen.floorplan
from gen.floorplan import drawn_to, place_memories, place_multipliers, position
from gen.passes import lower
from gen.plan import plan
from gen.source import resolve
from hw.array import column_memories
from hw.depthwise import depthwise_memories
from hw.places import CORE_ANYWHERE

ULX3S = boards.get("ulx3s")

#: (K, N) of arrays that the 85F has room for.
ARRAYS = [(16, 8), (8, 8), (18, 6), (12, 6), (20, 5), (15, 5), (16, 4), (8, 4), (9, 3), (8, 2), (40, 1)]


def distance(one, other):
    """Columns and rows of the die between two places."""
    return sum(abs(a - b) for a, b in zip(position(one), position(other), strict=True))


def planned_on(array, **options):
    return plan(lower(resolve(None)), ULX3S, array=array, **options)


def test_documented_examples():
    results = doctest.testmod(gen.floorplan)
    assert results.attempted and not results.failed


def test_the_85f_names_each_place_once():
    assert len(set(ULX3S.multipliers)) == len(ULX3S.multipliers) == ULX3S.resources["mult"]
    assert len(set(ULX3S.block_rams)) == len(ULX3S.block_rams) == ULX3S.resources["ebr"]
    assert all(re.fullmatch(r"X\d+/Y(10|34|58)/MULT18_[0145]", name) for name in ULX3S.multipliers)
    assert all(re.fullmatch(r"X\d+/Y(22|46|70|82)/EBR[0-3]", name) for name in ULX3S.block_rams)


def test_multipliers_come_in_an_order_in_which_neighbours_are_close():
    """A step is one within a block of four, or to the same block in the next row, or to the next block."""
    assert {distance(a, b) for a, b in pairwise(ULX3S.multipliers)} == {1, 3, 29, 52, 54}
    for n in range(0, len(ULX3S.multipliers), 4):
        assert len({position(site)[1] for site in ULX3S.multipliers[n : n + 4]}) == 1


def columns_of(k, n, outputs=1):
    """Places for an array, and the multipliers of each of its columns."""
    spare = (len(ULX3S.multipliers) - k * n) // 2
    requantisers = min(spare, n * outputs)
    lanes = min(spare - requantisers, n * outputs)
    places = place_multipliers(
        ULX3S.multipliers, columns=n, height=k, outputs=outputs, requantisers=requantisers, lanes=lanes
    )
    channels = [places.columns[c * outputs : (c + 1) * outputs] for c in range(n)]
    return places, [[site for channel in column for site in channel.multipliers] for column in channels]


@pytest.mark.parametrize("k, n, outputs", [(*array, 1) for array in ARRAYS] + [(32, 4, 2), (12, 2, 2)])
def test_each_place_once_and_side_by_side(k, n, outputs):
    """Half of the columns, the depthwise engine's requantisers, the other half: one after another, with no gap."""
    places, rows = columns_of(k, n, outputs)
    assert len(places.columns) == n * outputs
    assert [len(column) for column in rows] == [k] * n
    assert all(len(channel.multipliers) == k // outputs for channel in places.columns)
    spare = (len(ULX3S.multipliers) - k * n) // 2
    pairs = [len(channel.requantiser) for channel in places.columns]
    assert pairs == [2] * min(spare, n * outputs) + [0] * (n * outputs - spare)
    assert [len(lane) for lane in places.lanes] == [2] * min(n * outputs, max(0, spare - n * outputs))
    of_columns = [
        {*column, *(site for channel in places.columns[c * outputs :][:outputs] for site in channel.requantiser)}
        for c, column in enumerate(rows)
    ]
    half, following = n // 2, iter(ULX3S.multipliers)
    for ours in (*of_columns[:half], {site for lane in places.lanes for site in lane}, *of_columns[half:]):
        assert {next(following) for _ in ours} == ours


@pytest.mark.parametrize("k, n, outputs", [(*array, 1) for array in ARRAYS] + [(32, 4, 2), (12, 2, 2)])
def test_no_exchange_makes_the_wires_between_columns_shorter(k, n, outputs):
    _, rows = columns_of(k, n, outputs)
    assert n == 1 or rows[0] != rows[1]
    for before, column in pairwise(rows):
        for a, b in combinations(range(k), 2):
            now = distance(before[a], column[a]) + distance(before[b], column[b])
            assert now <= distance(before[a], column[b]) + distance(before[b], column[a])


def test_too_many_or_unknown_places_are_left_to_the_placer():
    sites = ULX3S.multipliers
    several = dict(outputs=1, requantisers=0, lanes=0)
    assert place_multipliers(sites, columns=8, height=24, **several) == CORE_ANYWHERE
    assert place_multipliers((), columns=2, height=2, **several) == CORE_ANYWHERE
    assert place_multipliers(sites, columns=2, height=76, outputs=1, requantisers=1, lanes=2) == CORE_ANYWHERE
    assert place_multipliers(sites, columns=2, height=76, outputs=1, requantisers=1, lanes=1) != CORE_ANYWHERE


def placed_cells(verilog):
    """(module, place) of each cell with a place in ``verilog``; a module is named after its path in the core."""
    module, found = None, []
    for line in verilog.splitlines():
        if begins := re.match(r"module \\?(\S+?)[ (]", line + " "):
            module = re.sub(r"\$\d+", "", begins[1])
        if place := re.search(r'\(\* BEL = "([^"]+)" \*\)', line):
            found.append((module, place[1]))
    return found


def part_of(module):
    """The part of the core that a module with a place belongs to: a memory, a requantiser, a column's products."""
    numbered = r"(weights|bias|scale|requantiser)_\d+"
    found = re.match(
        rf"core\.(array\.column_\d+\.({numbered}|products)|depthwise\.(requantiser_\d+|coefficients|bias|scale)"
        r"|features\.bank_\d_\d+|(window|array)_program\.memory|patch\.ram_\d+)\.",
        module,
    )
    assert found, module
    return found[0].rstrip(".")


def places_by_part(cells):
    """Places of each part's cells, slice after slice of a memory."""
    parts = {}
    for module, place in sorted(cells, key=lambda cell: [int(n) for n in re.findall(r"\d+", cell[0])]):
        parts.setdefault(part_of(module), []).append(place)
    return parts


@pytest.mark.parametrize(
    "array, packing", [((4, 2), False), ((6, 6), False), ((8, 4), True)], ids=["4x2", "6x6", "8x4-packed"]
)
def test_the_core_names_its_places(array, packing):
    """In every module that is placed stand its own part's places, each once; each multiplier has one."""
    planned = planned_on(array, packing=packing)
    die, outputs, cells = planned.places_on_die, planned.config.outputs, placed_cells(planned.verilog())
    assert planned.config.outputs == 1 + packing
    assert len({place for _, place in cells}) == len(cells)
    of_part = places_by_part(cells)
    for n in range(planned.config.columns):
        both = die.columns[n * outputs : (n + 1) * outputs]
        products = of_part.pop(f"core.array.column_{n}.products")
        assert sorted(products) == sorted(name for column in both for name in column.multipliers)
    for n, column in enumerate(die.columns):
        part = f"core.array.column_{n // outputs}.requantiser_{n}"
        assert of_part.pop(part, []) == list(column.requantiser)
    for n, lane in enumerate(die.lanes):
        assert of_part.pop(f"core.depthwise.requantiser_{n}") == list(lane)
    parts = {"patch": [f"core.patch.ram_{n}" for n in range(planned.config.words)]}
    slices = -(-planned.config.word_bits // 36)
    parts["features"] = [f"core.features.bank_{bank}_{n}" for n in range(slices) for bank in range(9)]
    parts |= {name: [f"core.{name}.memory"] for name in ("window_program", "array_program")}
    parts |= {
        name: [f"core.depthwise.{name.removeprefix('depthwise_')}"] for name in depthwise_memories(planned.config)
    }
    for n in range(planned.config.columns):
        parts |= {name: [f"core.array.column_{n}.{name}"] for name in column_memories(planned.config, n)}
    for name, places in die.memories.items():
        assert sum((of_part.pop(part) for part in parts[name]), []) == list(places)
    assert not of_part


def test_weights_stand_by_the_multipliers_that_take_them():
    """36 bits are the weights of four and a half rows: each block RAM is drawn to the middle of its own."""
    planned = planned_on((12, 2))
    (points,) = {len(drawn_to(planned.places_on_die, planned.config)[f"weights_{n}"]) for n in range(2)}
    assert points == 3
    for n in range(2):
        multipliers = [position(site) for site in planned.places_on_die.columns[n].multipliers]
        drawn = drawn_to(planned.places_on_die, planned.config)[f"weights_{n}"]
        for number, rows in enumerate([(0, 5), (4, 9), (9, 12)]):
            assert np.array_equal(drawn[number], np.mean(multipliers[slice(*rows)], axis=0))


def test_no_exchange_of_two_block_rams_makes_wires_shorter():
    planned = planned_on((6, 6))
    die = planned.places_on_die
    drawn = drawn_to(die, planned.config)
    assert drawn.keys() == die.memories.keys()
    pairs = [(site, point) for name in drawn for site, point in zip(die.memories[name], drawn[name], strict=True)]
    away = [[np.abs(np.subtract(position(site), point)).sum() ** 2 for site, _ in pairs] for _, point in pairs]
    for a, b in combinations(range(len(pairs)), 2):
        assert away[a][a] + away[b][b] <= away[a][b] + away[b][a] + 1e-6
    unused = set(ULX3S.block_rams) - {site for site, _ in pairs}
    for n, (_, point) in enumerate(pairs):
        assert away[n][n] <= min(np.abs(np.subtract(position(site), point)).sum() ** 2 for site in unused) + 1e-6


def test_where_there_are_too_few_block_rams_none_is_placed():
    planned = planned_on((4, 2))
    die = replace(planned.places_on_die, memories={})
    count = sum(map(len, planned.places_on_die.memories.values()))
    few = replace(ULX3S, block_rams=ULX3S.block_rams[: count - 1])
    assert place_memories(die, few, planned.config) == die
    just = replace(ULX3S, block_rams=ULX3S.block_rams[:count])
    placed = place_memories(die, just, planned.config).memories
    assert sorted(site for places in placed.values() for site in places) == sorted(just.block_rams)


def test_elsewhere_nothing_is_placed():
    planned = plan(lower(resolve(None)), boards.get("ulx3s-12f"), array=(4, 2))
    assert planned.places_on_die == CORE_ANYWHERE
    assert placed_cells(planned.verilog()) == []
