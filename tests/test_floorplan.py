"""Places on the die: whole columns, neighbours side by side, each place once, and named in the Verilog."""

import doctest
import re
from dataclasses import replace
from itertools import pairwise

import pytest

import boards
import gen.floorplan
from gen.floorplan import place_memories, place_multipliers
from gen.passes import lower
from gen.plan import plan
from gen.source import resolve
from hw.jobs import window_job_bits
from hw.places import CORE_ANYWHERE

ULX3S = boards.get("ulx3s")

#: The block RAM beside each multiplier.
BESIDE = {multiplier: ram for row in ULX3S.multiplier_rows for multiplier, ram in row}

#: (K, N) of arrays that the 85F has room for, with as many requantisers of the depthwise engine as there are lanes.
ARRAYS = [(16, 8), (8, 8), (18, 6), (12, 6), (20, 5), (15, 5), (16, 4), (8, 4), (9, 3), (8, 2)]


def position(place):
    """Column and row of a place on the die."""
    return tuple(map(int, re.match(r"X(\d+)/Y(\d+)/", place).groups()))


def test_documented_examples():
    results = doctest.testmod(gen.floorplan)
    assert results.attempted and not results.failed


def test_the_85f_names_each_multiplier_once():
    pairs = [pair for row in ULX3S.multiplier_rows for pair in row]
    multipliers, block_rams = zip(*pairs, strict=True)
    assert len(set(multipliers)) == len(multipliers) == ULX3S.resources["mult"]
    assert len(set(block_rams)) == len(block_rams) <= ULX3S.resources["ebr"]
    assert all(re.fullmatch(r"X\d+/Y\d+/MULT18_[0145]", name) for name in multipliers)
    assert all(re.fullmatch(r"X\d+/Y\d+/EBR[0-3]", name) for name in block_rams)
    for multiplier, block_ram in pairs:
        (x, y), (ram_x, ram_y) = position(multiplier), position(block_ram)
        assert abs(x - ram_x) <= 2 and abs(y - ram_y) == 12


def test_the_85f_names_each_block_ram_once():
    """Those beside a multiplier, and the row above the first of these, which has no multipliers: all there are."""
    beside = [ram for row in ULX3S.multiplier_rows for _, ram in row]
    names = ULX3S.block_ram_row
    assert len({*beside, *names}) == len(beside) + len(names) == ULX3S.resources["ebr"]
    assert all(re.fullmatch(r"X\d+/Y\d+/EBR[0-3]", name) for name in names)
    # Right above the first row's, tile for tile.
    first = [position(ram) for _, ram in ULX3S.multiplier_rows[0]]
    assert [position(name) for name in names] == [(x, y + 12) for x, y in first]
    assert [name[-1] for name in names] == [ram[-1] for _, ram in ULX3S.multiplier_rows[0]]


@pytest.mark.parametrize("k, n", ARRAYS)
@pytest.mark.parametrize("all_lanes", [False, True])
def test_each_place_once(k, n, all_lanes):
    places = place_multipliers(ULX3S.multiplier_rows, columns=n, height=k, lanes=n * all_lanes)
    assert len(places.columns) == n
    assert all(len(column.multipliers) == k and len(column.requantiser) in (0, 2) for column in places.columns)
    assert [len(lane) for lane in places.lanes] == [2] * (n * all_lanes)
    used = [name for column in places.columns for name in (*column.multipliers, *column.requantiser)]
    used += [name for lane in places.lanes for name in lane]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("k, n", ARRAYS)
def test_neighbours_are_close(k, n):
    """A column lies in one row without a gap; the next begins beside its end, or at the same end of the next row."""
    places = place_multipliers(ULX3S.multiplier_rows, columns=n, height=k, lanes=n)
    order = {name: at for row in ULX3S.multiplier_rows for at, (name, _) in enumerate(row)}
    spans = []
    for column in places.columns:
        names = (*column.multipliers, *column.requantiser)
        assert len({position(name)[1] for name in names}) == 1
        ranks = [order[name] for name in names]
        assert [abs(a - b) for a, b in pairwise(ranks)] == [1] * (len(ranks) - 1)
        spans.append((min(ranks), max(ranks), position(names[0])[1]))
    for (low, high, y), (next_low, next_high, next_y) in pairwise(spans):
        if y == next_y:
            assert next_low == high + 1 or next_high == low - 1
        else:
            assert abs(y - next_y) == 24
            assert abs((low + high) - (next_low + next_high)) / 2 <= k  # less than a column's width apart
    # The depthwise engine's requantisers stand before the first column.
    ranks = [order[name] for lane in places.lanes for name in lane]
    assert (ranks, spans[0][0]) == (list(range(2 * n)), 2 * n)


def test_a_single_column_stands_at_the_far_end():
    """With a lane in front of it, there is room; a row of several columns leaves it between them and the next row's."""
    names = [name for name, _ in ULX3S.multiplier_rows[0]]
    places = place_multipliers(ULX3S.multiplier_rows, columns=4, outputs=2, height=32, lanes=1)
    first = [name for channel in places.columns[:2] for name in (*channel.multipliers, *channel.requantiser)]
    assert places.lanes == (tuple(names[:2]),) and sorted(first) == sorted(names[-len(first) :])


def test_shared_columns_stand_one_below_the_other():
    """Of four columns of 32, three are rows' right ends, place for place; the fourth is what two rows have left."""
    rows = ULX3S.multiplier_rows
    places = place_multipliers(rows, columns=4, outputs=2, height=32, lanes=8)
    at = {name: (y, x) for y, row in enumerate(rows) for x, (name, _) in enumerate(row)}
    found = [[at[name] for name in (*channel.multipliers, *channel.requantiser)] for channel in places.columns]
    for y in range(3):
        ours = found[2 * y : 2 * y + 2]
        assert [place for channel in ours for place in channel[:16]] == [(y, x) for x in range(16, 48)]
        assert [place for channel in ours for place in channel[16:]] == [(y, x) for x in range(48, 52)]
    assert found[6:] == [[(y, x) for x in range(16)] for y in (1, 2)]
    assert [at[name] for lane in places.lanes for name in lane] == [(0, x) for x in range(16)]


def test_columns_longer_than_a_row_stand_in_strips():
    """Through all three rows, one beside the other; multipliers that are summed first side by side."""
    rows = ULX3S.multiplier_rows
    places = place_multipliers(rows, columns=2, outputs=2, height=72, lanes=1)
    at = {name: (y, x) for y, row in enumerate(rows) for x, (name, _) in enumerate(row)}
    strips = [[at[name] for channel in places.columns[n : n + 2] for name in channel.multipliers] for n in (0, 2)]
    for strip in strips:
        assert len(strip) == 72 and strip == sorted(strip) and {y for y, _ in strip} == {0, 1, 2}
        assert all(b == (y, x + 1) for (y, x), b in zip(strip[::2], strip[1::2], strict=True))
    assert max(x for _, x in strips[0]) < min(x for _, x in strips[1]) + 2
    everything = [name for channel in places.columns for name in (*channel.multipliers, *channel.requantiser)]
    everything += [name for lane in places.lanes for name in lane]
    assert len(set(everything)) == len(everything) == 144 + 2 * (4 + 1)


def test_too_many_or_unknown_places_are_left_to_the_placer():
    rows = ULX3S.multiplier_rows
    assert place_multipliers(rows, columns=3, height=53, lanes=0) == CORE_ANYWHERE  # wider than a row
    assert place_multipliers(rows, columns=8, height=24, lanes=0) == CORE_ANYWHERE  # more than there are
    assert place_multipliers((), columns=2, height=2, lanes=2) == CORE_ANYWHERE
    assert place_multipliers(rows, columns=3, height=52, lanes=5).lanes == ()  # no multiplier is left


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
        r"|features\.bank_\d_\d+|(window|array)_program\.memory)\.",
        module,
    )
    assert found, module
    return found[0].rstrip(".")


def places_by_part(cells):
    parts = {}
    for module, place in cells:
        parts.setdefault(part_of(module), []).append(place)
    return parts


def spread(sites, count):
    """The first ``count`` of ``sites``, every second or third where there are so many."""
    return sites[:: len(sites) // count][:count]


def test_the_core_names_its_places():
    """In every module that is placed stands one of its own part's places, and each multiplier has one."""
    planned = plan(lower(resolve(None)), ULX3S, array=(4, 2))
    die, cells = planned.places_on_die, placed_cells(planned.verilog())
    assert die.columns and planned.config.hard_lanes == len(die.lanes) == 1 and planned.config.hard_columns == (0, 1)
    of_part = places_by_part(cells)
    for n, column in enumerate(die.columns):
        part = f"core.array.column_{n}"
        assert sorted(of_part.pop(f"{part}.products")) == sorted(column.multipliers)
        assert of_part.pop(f"{part}.requantiser_{n}") == list(column.requantiser)
        memories = [of_part.pop(f"{part}.{name}_{n}") for name in ("weights", "bias", "scale")]
        # 32 bits of weights and nearly a thousand of them are two block RAMs; biases and multipliers are one each.
        assert [len(places) for places in memories] == [2, 1, 1]
        # From the left in the first column, from the right in the next, but weights as their multipliers.
        sites = [BESIDE[name] for name in (*column.multipliers, *column.requantiser)]
        apart = spread(sites[::-1] if n else sites, 4)
        assert sum(memories, []) == [*sorted(apart[:2], key=sites.index), *apart[2:]]
    for n, lane in enumerate(die.lanes):
        assert of_part.pop(f"core.depthwise.requantiser_{n}") == list(lane)
    assert of_part.pop("core.depthwise.coefficients") == [BESIDE[name] for lane in die.lanes for name in lane]
    # In the row without multipliers: a multiplier in 36 bits, a bias in 18 bits, then 16 bits of each bank; behind
    # them, for so small an array, a program (the array's has too few words for block RAM).
    row = list(ULX3S.block_ram_row)
    assert of_part.pop("core.depthwise.scale") == row[:1]
    slices = -(-window_job_bits(planned.config) // 36)
    assert of_part.pop("core.depthwise.bias") == [row[1]]
    assert of_part.pop("core.window_program.memory") == row[11 : 11 + slices]
    for bank in range(9):
        assert of_part.pop(f"core.features.bank_{bank}_0") == [row[2 + bank % 3 * 3 + bank // 3]]
    assert not of_part
    assert len({place for _, place in cells}) == len(cells)


def test_banks_of_a_slice_lie_side_by_side():
    """48 bits are a slice of 36 and one of 12: the nine banks of the one, by their columns, then those of the other."""
    planned = plan(lower(resolve(None)), ULX3S, array=(6, 6))
    cells = placed_cells(planned.verilog())
    of_part = places_by_part(cells)
    placed = [of_part[f"core.features.bank_{bank}_{part}"] for part in range(2) for bank in (0, 3, 6, 1, 4, 7, 2, 5, 8)]
    assert planned.config.feature_depth <= 512
    row = list(ULX3S.block_ram_row)
    begin = row.index(placed[0][0])
    assert sum(placed, []) == row[begin : begin + 18]
    program = planned.places_on_die.memories["window_program"]
    assert {place for _, place in cells} & set(row) == {*row[: begin + 18], *program}
    assert len({place for _, place in cells}) == len(cells)


def test_with_shared_multipliers_the_core_names_its_places():
    """A column of two output channels takes the places of both: half of the rows' multipliers from each."""
    planned = plan(lower(resolve(None)), ULX3S, array=(8, 4), packing=True)
    assert planned.config.outputs == 2
    die, cells = planned.places_on_die, placed_cells(planned.verilog())
    assert [len(column.multipliers) for column in die.columns] == [4] * 4
    of_part = places_by_part(cells)
    for n in range(2):
        part, both = f"core.array.column_{n}", die.columns[2 * n : 2 * n + 2]
        assert len(of_part[f"{part}.products"]) == 8
        assert set(of_part[f"{part}.products"]) == {name for column in both for name in column.multipliers}
        for channel, column in zip((2 * n, 2 * n + 1), both, strict=True):
            assert of_part[f"{part}.requantiser_{channel}"] == list(column.requantiser)
        names = [f"weights_{n}", *(f"{kind}_{c}" for c in (2 * n, 2 * n + 1) for kind in ("bias", "scale"))]
        memories = sum((of_part[f"{part}.{name}"] for name in names), [])
        multipliers = [name for column in both for name in column.multipliers]
        multipliers += [name for column in both for name in column.requantiser]
        sites = [BESIDE[name] for name in multipliers]
        count = len(of_part[f"{part}.weights_{n}"])
        apart = spread(sites[::-1] if n else sites, len(memories))
        assert memories == [*sorted(apart[:count], key=sites.index), *apart[count:]]
    assert "core.array.column_2.products" not in of_part
    assert len({place for _, place in cells}) == len(cells)


def test_memories_of_a_column_stand_apart_where_there_is_room():
    """A few block RAMs beside twelve multipliers and two of a requantiser: not one after another."""
    planned = plan(lower(resolve(None)), ULX3S, array=(12, 2))
    die = planned.places_on_die
    for n, column in enumerate(die.columns):
        sites = [BESIDE[name] for name in (*column.multipliers, *column.requantiser)]
        weights, *others = (die.memories[f"{name}_{n}"] for name in ("weights", "bias", "scale"))
        apart = spread(sites[::-1] if n else sites, len(weights) + 2)
        assert weights == tuple(sorted(apart[:-2], key=sites.index))
        assert others == [(site,) for site in apart[-2:]]


def test_memories_that_find_no_room_are_left_to_the_placer():
    """Whole memories or none, for one block RAM alone would be far from the others."""
    planned = plan(lower(resolve(None)), ULX3S, array=(4, 2))
    config, die = planned.config, planned.places_on_die
    first, second = die.columns
    # Three block RAMs beside the first column, which needs four; five in the row without multipliers.
    less = replace(die, columns=(replace(first, multipliers=first.multipliers[:3], requantiser=()), second))
    row = list(ULX3S.block_ram_row[:5])
    memories = place_memories(less, replace(ULX3S, block_ram_row=tuple(row)), config).memories
    named = {name for name, places in memories.items() if places}
    assert named == {
        *("weights_0", "bias_0", "scale_0", "weights_1", "bias_1", "scale_1"),
        *("coefficients", "depthwise_scale", "window_program", "depthwise_bias"),
    }
    # A program that the rest of the row is too short for goes beside the first row of multipliers; one bias does not,
    # nor does the multiplier for which the first column has no room.
    assert memories["depthwise_scale"] == (row[0],) and memories["depthwise_bias"] == (row[1],)
    assert memories["scale_0"] == (row[2],)
    assert window_job_bits(config) > 4 * 36
    assert {position(name)[1] for name in memories["window_program"]} == {70}
    used = [name for places in memories.values() for name in places]
    assert len(set(used)) == len(used)
    cells = placed_cells(replace(planned, places_on_die=replace(die, memories=memories)).verilog())
    assert sorted(name for _, name in cells if "EBR" in name) == sorted(used)


def test_elsewhere_nothing_is_placed():
    planned = plan(lower(resolve(None)), boards.get("ulx3s-12f"), array=(4, 2))
    assert planned.places_on_die == CORE_ANYWHERE
    assert placed_cells(planned.verilog()) == []
