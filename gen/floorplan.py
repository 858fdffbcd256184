"""Floorplan: fixed places on the die for the array's and the requantisers' multipliers, and for block RAMs by them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from boards import Board
from hw.array import column_memories
from hw.config import CoreConfig
from hw.core import filled_memories
from hw.features import feature_block_rams
from hw.memory import filled_block_rams
from hw.places import CORE_ANYWHERE, ColumnPlaces, CorePlaces
from hw.requantise import Requantiser

__all__ = ["place_memories", "place_multipliers"]

Row = Sequence[tuple[str, str]]


def place_multipliers(rows: Sequence[Row], *, columns: int, outputs: int = 1, height: int, lanes: int) -> CorePlaces:
    """Places for an array, such that what is connected lies side by side; none at all where it does not fit so.

    A column's multipliers lie side by side in one row of the die, behind them its requantisers' where the row has room
    for them. A row begins with a column where the row before ended; the first one, if it has room for a single column,
    at its far end, where the programs are and what carries them out. What is left of the rows serves the channels of
    the columns for which no row has room. Where that is not enough, each column gets its part of every row instead.
    The multipliers of the depthwise engine's requantisers come first of all.

    Parameters
    ----------
    rows : sequence of sequence of (str, str)
        The die's multipliers, row by row, each with the block RAM beside it.
    columns, outputs, height : int
        Columns of the array, output channels of each, multipliers in each.
    lanes : int
        Requantisers of the depthwise engine.

    >>> rows = [[(letter, letter.upper()) for letter in "abcdefghij"], [(digit, digit + "R") for digit in "0123456"]]
    >>> plan = place_multipliers(rows, columns=3, height=3, lanes=1)
    >>> plan.lanes
    (('a', 'b'),)
    >>> [("".join(column.multipliers), "".join(column.requantiser)) for column in plan.columns]
    [('cde', 'fg'), ('hij', ''), ('234', '56')]
    >>> shared = place_multipliers(rows, columns=2, outputs=2, height=6, lanes=0)
    >>> [("".join(channel.multipliers), "".join(channel.requantiser)) for channel in shared.columns]
    [('abc', 'gh'), ('def', 'ij'), ('012', ''), ('345', '')]
    >>> long = place_multipliers(rows, columns=2, height=8, lanes=0)
    >>> [("".join(column.multipliers), "".join(column.requantiser)) for column in long.columns]
    [('abcd0123', ''), ('efghi456', '')]
    >>> place_multipliers(rows, columns=6, height=3, lanes=1) == CORE_ANYWHERE
    True
    """
    pair = Requantiser.hard_multipliers
    spare = sum(map(len, rows)) - columns * height
    hard = max(0, min(lanes, spare // pair))
    free = [[multiplier for multiplier, _ in row] for row in rows]
    if not free or len(free[0]) < pair * hard:
        return CORE_ANYWHERE
    names, free[0] = free[0][: pair * hard], free[0][pair * hard :]
    share = height // outputs
    placed: list[ColumnPlaces] = []
    left: list[list[str]] = []
    rank = {multiplier: at for row in rows for at, (multiplier, _) in enumerate(row)}

    def place(row, paired, backwards=False):
        """Place a column at one end of ``row``, its first ``paired`` channels with requantisers.

        Returns what is left of the row, and twice the middle of the column's places.
        """
        hard_here = [channel < paired for channel in range(outputs)]
        size = height + pair * sum(hard_here)
        run, row = (row[-size:], row[:-size]) if backwards else (row[:size], row[size:])
        behind = iter(run[height:])
        for channel, its_own in enumerate(hard_here):
            requantiser = tuple(islice(behind, pair * its_own))
            placed.append(ColumnPlaces(tuple(run[channel * share :][:share]), requantiser))
        return row, 2 * rank[run[0]] + size

    backwards, middle = len(free[0]) < 2 * height, 0
    for row in free:
        count = min(columns - len(placed) // outputs, len(row) // height)
        paired = min(count * outputs, (len(row) - count * height) // pair)
        for n in range(count):
            row, middle = place(row, paired - n * outputs, backwards)
        left.append(row)
        backwards = middle > len(rows[0])
    for row in left:
        for _ in range(min(columns * outputs - len(placed), len(row) // share)):
            placed.append(ColumnPlaces(tuple(row[:share])))
            row = row[share:]
    if len(placed) < columns * outputs:
        # From left to right, whatever the row, two by two, which are summed first.
        placed.clear()
        across = sorted((name for row in free for name in row), key=lambda name: rank[name] // 2)
        spare = (len(across) - columns * height) // pair
        if spare < 0:
            return CORE_ANYWHERE
        for n in range(columns):
            paired = min(outputs, spare - n * outputs)
            size = height + pair * max(0, paired)
            strip, across = across[:size], across[size:]
            place([name for row in free for name in row if name in strip], paired)
    return CorePlaces(tuple(placed), tuple(zip(*[iter(names)] * pair, strict=True)))


def place_memories(die: CorePlaces, board: Board, config: CoreConfig) -> CorePlaces:
    """``die`` with places for block RAMs, each memory's side by side, where there is room for the whole of it.

    A column's and the depthwise weights stand beside their multipliers, and a column's biases and scales as far as
    there is room. The features go to the row that has no multipliers, before them the other memories of the depthwise
    engine, behind them the programs, at the far end where the columns reach as far; these memories take what is left
    elsewhere where that row has no more room.
    """
    beside = {multiplier: ram for row in board.multiplier_rows for multiplier, ram in row}
    counts = {name: filled_block_rams(memory.width, memory.depth) for name, memory in filled_memories(config).items()}
    rows = [board.block_ram_row, *([ram for _, ram in row] for row in board.multiplier_rows)]
    rank = {site: at for row in rows for at, site in enumerate(row)}.get
    columns_before: Counter[int] = Counter()
    elsewhere: list[str] = []
    taken: dict[str, tuple[str, ...]] = {}

    def take(names, sites):
        if sum(counts[name] for name in names) <= len(sites):
            for name in names:
                taken[name], sites = tuple(sites[: counts[name]]), sites[counts[name] :]

    for n in range(config.columns):
        channels = range(n * config.outputs, (n + 1) * config.outputs)
        places = [die.columns[channel] for channel in channels]
        multipliers = [name for place in places for name in place.multipliers]
        multipliers += [name for place in places for name in place.requantiser]
        order = [beside[name] for name in multipliers]
        sites = sorted(order, key=rank) if len(order) <= len(rows[0]) else list(order)
        # From the left in every other column of a row: what two neighbours leave lies together.
        row = next(number for number, row in enumerate(rows) if sites[0] in row)
        if columns_before[row] % 2:
            sites.reverse()
        columns_before[row] += 1
        # Apart, where there is room, and weights in the order of the multipliers that take them.
        weights, *_ = names = list(column_memories(config, n))
        while sum(counts[name] for name in names) > len(sites):
            elsewhere.append(names.pop())
        needed, count = sum(counts[name] for name in names), counts[weights]
        sites = sites[:: max(1, len(sites) // max(1, needed))]
        take(names, sorted(sites[:count], key=order.index) + sites[count:])
    if config.depthwise_lanes:
        take(["coefficients"], [beside[name] for lane in die.lanes for name in lane])
        elsewhere += {"coefficients"} - taken.keys()
    counts["features"] = feature_block_rams(config)

    def free(row):
        used = {site for sites in taken.values() for site in sites}
        return [site for site in row if site not in used]

    programs = ("array_program", "window_program")
    far = any(2 * rank(beside[name]) > len(rows[0]) for column in die.columns for name in column.multipliers)
    behind = programs if far else ("features", *programs)
    for name in ("depthwise_scale", "depthwise_bias", *behind, *elsewhere, "features"):
        if name in counts and name not in taken:
            first, *others = (free(row)[:: -1 if far and name in programs else 1] for row in rows)
            if name == "features":
                others = []
            elif "features" not in taken and len(rows[0]) >= counts["features"]:
                first = first[: len(first) - counts["features"]]
            take([name], next((sites for sites in (first, *others) if len(sites) >= counts[name]), []))
    return replace(die, memories=taken)
