"""Floorplan: fixed places on the die for the array's and the requantisers' multipliers, and for block RAMs by them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from scipy.optimize import linear_sum_assignment

from boards import Board
from hw.array import column_memories
from hw.config import BANKS, CoreConfig
from hw.core import filled_memories
from hw.depthwise import depthwise_memories
from hw.memory import SLICE_BITS, block_rams
from hw.patch import patch_block_rams
from hw.places import CORE_ANYWHERE, ColumnPlaces, CorePlaces
from hw.requantise import Requantiser

__all__ = ["drawn_to", "place_memories", "place_multipliers", "position"]


def place_multipliers(
    sites: Sequence[str], *, columns: int, height: int, outputs: int, requantisers: int, lanes: int
) -> CorePlaces:
    """Places for an array, such that what is connected lies side by side; none at all where it does not fit so.

    A column takes the next of ``sites``, for its multipliers and those of its requantisers. Which is which, wires to
    the column before decide: the shortest to each row's multiplier there. The requantisers of the depthwise engine, to
    which most else belongs, stand in the middle.

    Parameters
    ----------
    sites : sequence of str
        The device's multipliers, in an order in which neighbours are close.
    columns, height : int
        Columns of the array, multipliers in each.
    outputs : int
        Output channels of a column.
    requantisers, lanes : int
        Requantisers with multipliers: the first ones of the array, and of the depthwise engine.

    >>> sites = [f"X{x}/Y{y}/MULT" for x in range(4) for y in (1, 2, 3)]
    >>> plan = place_multipliers(sites, columns=2, height=3, outputs=1, requantisers=2, lanes=1)
    >>> [[position(site) for site in column.multipliers] for column in plan.columns]
    [[(0, 1), (0, 2), (0, 3)], [(3, 1), (2, 2), (2, 3)]]
    >>> [[position(site) for site in column.requantiser] for column in plan.columns], plan.lanes
    ([[(1, 1), (1, 2)], [(3, 2), (3, 3)]], (('X1/Y3/MULT', 'X2/Y1/MULT'),))
    >>> place_multipliers(sites, columns=3, height=4, outputs=1, requantisers=1, lanes=0) == CORE_ANYWHERE
    True
    """
    pair = Requantiser.hard_multipliers
    if columns * height + pair * (requantisers + lanes) > len(sites):
        return CORE_ANYWHERE
    following, before = iter(sites), None
    placed, lane_places = [], ()
    for column in range(columns):
        if column == columns // 2:
            lane_places = tuple(tuple(islice(following, pair)) for _ in range(lanes))
        channels = range(column * outputs, (column + 1) * outputs)
        hard = [pair * (channel < requantisers) for channel in channels]
        ours = list(islice(following, height + sum(hard)))
        before = rows = ours[:height] if before is None else _matched(before, ours)
        others = iter([site for site in ours if site not in rows])
        share = height // outputs
        placed += [
            ColumnPlaces(tuple(rows[n * share :][:share]), tuple(islice(others, count))) for n, count in enumerate(hard)
        ]
    return CorePlaces(tuple(placed), lane_places)


def _matched(points, sites):
    """For each of ``points`` one of ``sites``, such that the sum of distances is least; both are names of sites."""
    _, chosen = linear_sum_assignment(_distances([position(point) for point in points], sites))
    return [sites[at] for at in chosen]


def _distances(points, sites):
    """Columns and rows of the die from each of ``points`` (x, y) to each of ``sites``."""
    return np.abs(np.array(points)[:, None] - [position(site) for site in sites]).sum(axis=-1)


def place_memories(die: CorePlaces, board: Board, config: CoreConfig) -> CorePlaces:
    """``die`` with places for block RAMs: those with the shortest wires to what they serve.

    Each is drawn to a point: a slice of weights to the multipliers that take them, biases and multipliers to their
    requantiser, what the depthwise engine reads to its lanes. Of all ways to hand out the device's block RAMs, it is
    the one with the least sum of the squares of distances. Where there are too few, none are placed.
    """
    points = drawn_to(die, config)
    every = sum(points.values(), [])
    if len(every) > len(board.block_rams):
        return die
    _, chosen = linear_sum_assignment(_distances(every, board.block_rams) ** 2)
    sites = iter(board.block_rams[at] for at in chosen)
    return replace(die, memories={name: tuple(islice(sites, len(drawn))) for name, drawn in points.items()})


def position(site: str) -> tuple[int, int]:
    """Column and row of the die where ``site`` is.

    >>> position("X4/Y58/MULT18_0")
    (4, 58)
    """
    return tuple(map(int, re.match(r"X(\d+)/Y(\d+)/", site).groups()))


def drawn_to(die: CorePlaces, config: CoreConfig) -> dict[str, list]:
    """Points (x, y) that the block RAMs of each memory are drawn to, by the names of :class:`hw.places.CorePlaces`."""
    every = [[position(site) for site in (*place.multipliers, *place.requantiser)] for place in die.columns]
    start = every[0][0]
    lanes = [np.mean([position(site) for site in lane], axis=0) for lane in die.lanes] or [start]
    engine = np.mean(lanes, axis=0)
    lanes += [engine] * (config.lanes - len(lanes))
    memories = filled_memories(config)

    def along(name, points, *, banks=1):
        """Of ``points`` that share a word's bits evenly, those of each block RAM."""
        width, depth = memories[name].width, memories[name].depth
        found = []
        for low in range(0, width, SLICE_BITS):
            high = min(low + SLICE_BITS, width)
            ours = points[low * len(points) // width : -(-high * len(points) // width)]
            found += [np.mean(ours, axis=0)] * (banks * block_rams(high - low, depth))
        return found

    drawn = {}
    for number in range(config.columns):
        channels = range(number * config.outputs, (number + 1) * config.outputs)
        places = [die.columns[n] for n in channels]
        multipliers = [position(site) for place in places for site in place.multipliers]
        weights, *parameters = column_memories(config, number)
        drawn[weights] = along(weights, multipliers)
        for name in parameters:
            requantiser = die.columns[int(name.rpartition("_")[2])].requantiser
            drawn[name] = along(name, [np.mean([position(site) for site in requantiser] or multipliers, axis=0)])
    for name in depthwise_memories(config):
        drawn[name] = along(name, lanes)
    drawn["features"] = along("features_0", lanes, banks=BANKS)
    drawn["window_program"] = along("window_program", [engine])
    drawn["patch"] = [(engine + start) / 2] * patch_block_rams(config)
    drawn["array_program"] = along("array_program", [(engine + start) / 2])
    return {name: points for name, points in drawn.items() if points}
