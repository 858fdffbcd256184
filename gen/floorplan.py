"""Floorplan: fixed places on the die for the array's and the requantisers' multipliers, and for block RAMs by them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from scipy.optimize import linear_sum_assignment

from boards import Board
from hw.array import column_memories
from hw.config import CoreConfig
from hw.core import filled_memories
from hw.depthwise import depthwise_memories
from hw.features import feature_block_rams
from hw.memory import SLICE_BITS, block_rams
from hw.patch import patch_block_rams
from hw.places import CORE_ANYWHERE, ColumnPlaces, CorePlaces
from hw.requantise import Requantiser

__all__ = ["drawn_to", "place_memories", "place_multipliers", "position"]


def place_multipliers(sites: Sequence[str], *, columns: int, height: int, lanes: int) -> CorePlaces:
    """Places for an array, such that what is connected lies side by side; none at all where it does not fit so.

    Column by column its multipliers and, while the device has more than the array takes, those of its requantiser; the
    depthwise engine's requantisers, to which most else belongs, in the middle.

    Parameters
    ----------
    sites : sequence of str
        The device's multipliers, in an order in which neighbours are close.
    columns, height : int
        Output channels of the array, multipliers for each.
    lanes : int
        Requantisers of the depthwise engine.

    >>> plan = place_multipliers("abcdefghijklm", columns=3, height=3, lanes=1)
    >>> [("".join(column.multipliers), "".join(column.requantiser)) for column in plan.columns]
    [('abc', 'de'), ('hij', ''), ('klm', '')]
    >>> plan.lanes
    (('f', 'g'),)
    >>> place_multipliers("abcdefghijklm", columns=5, height=3, lanes=1) == CORE_ANYWHERE
    True
    """
    pair = Requantiser.hard_multipliers
    spare = len(sites) - columns * height
    if not sites or spare < 0:
        return CORE_ANYWHERE
    hard = min(lanes, spare // pair)
    paired = spare // pair - hard
    following = iter(sites)

    def take(count):
        return tuple(islice(following, count))

    placed, lane_places = [], ()
    for n in range(columns):
        if n == columns // 2:
            lane_places = tuple(take(pair) for _ in range(hard))
        placed.append(ColumnPlaces(take(height), take(pair * (n < paired))))
    return CorePlaces(tuple(placed), lane_places)


def place_memories(die: CorePlaces, board: Board, config: CoreConfig) -> CorePlaces:
    """``die`` with places for block RAMs: those with the shortest wires to what they serve.

    Each is drawn to a point: a slice of weights to the multipliers that take them, biases and multipliers to their
    requantiser, what the depthwise engine reads to its lanes. Of all ways to hand out the device's block RAMs, it is
    the one with the least sum of the squares of distances. Where there are too few, none are placed.
    """
    points = {name: np.array(drawn) for name, drawn in drawn_to(die, config).items()}
    sites = np.array([position(name) for name in board.block_rams])
    wanted = np.concatenate([*points.values()])
    if len(wanted) > len(sites):
        return die
    distance = np.abs(wanted[:, None] - sites).sum(axis=-1)
    _, chosen = linear_sum_assignment(distance**2)
    names = iter(board.block_rams[at] for at in chosen)
    return replace(die, memories={name: tuple(islice(names, len(drawn))) for name, drawn in points.items()})


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

    def along(name, points):
        """Of ``points`` that share a word's bits evenly, those of each block RAM."""
        width, depth = memories[name].width, memories[name].depth
        found = []
        for low in range(0, width, SLICE_BITS):
            high = min(low + SLICE_BITS, width)
            ours = points[low * len(points) // width : -(-high * len(points) // width)]
            found += [np.mean(ours, axis=0)] * block_rams(high - low, depth)
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
    drawn["features"] = [engine] * feature_block_rams(config)
    drawn["window_program"] = along("window_program", [engine])
    drawn["patch"] = [(engine + start) / 2] * patch_block_rams(config)
    drawn["array_program"] = along("array_program", [(engine + start) / 2])
    return {name: points for name, points in drawn.items() if points}
