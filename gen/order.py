"""Order: which row of which stage runs when, what it waits for, and how many rows of each tensor are kept.

Rows are the machine's units of work. Both sequencers list them in one order, in which the array makes them; a row may
read whatever rows before it have made.
"""

from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from gen.stages import Stage
from hw.config import WINDOW

__all__ = ["Row", "kept_rows", "order_of", "rows_read", "rows_to_await"]

#: Rows of a tensor that is never whole: a window's, and as many that are made meanwhile.
_RING = 2 * WINDOW


class Row(NamedTuple):
    """One row of results: the number of its stage, and which row of the stage's output."""

    stage: int
    y: int


def rows_read(stage: Stage, y: int) -> range:
    """Rows of the source that row ``y`` of the output is made of."""
    top = y * stage.stride[0] - stage.padding[0]
    return range(max(top, 0), min(top + stage.kernel[0], stage.source_shape[0]))


def kept_rows(stages: list[Stage], results: Iterable[str]) -> dict[str, int]:
    """Tensors of which only some rows are kept, and how many: the wide ones inside inverted residual blocks.

    Such a tensor is larger than what it is made from and what is made of it, the next stage alone reads it, and its
    windows are no taller than the machine's.
    """
    readers = Counter(name for stage in stages for name in (stage.source, stage.residual) if name is not None)
    makers = Counter(stage.output for stage in stages)
    rows = {}
    for maker, reader in zip(stages, stages[1:], strict=False):
        name = maker.output
        alone = reader.source == name and readers[name] == makers[name] == makers[reader.output] == 1
        wide = prod(maker.output_shape) > max(prod(maker.source_shape), prod(reader.output_shape))
        tall = maker.output_shape[0] > _RING and reader.kernel[0] <= WINDOW
        if alone and wide and tall and name not in results and maker.source not in rows:
            rows[name] = _RING
    return rows


def order_of(stages: list[Stage], kept: dict[str, int]) -> list[Row]:
    """All rows in order: stage by stage, but a tensor of which only ``kept`` rows stay is made just before its use."""
    order, number = [], 0
    while number < len(stages):
        stage = stages[number]
        rows = [Row(number, y) for y in stage.region.rows]
        number += 1
        if stage.output not in kept:
            order += rows
            continue
        reader = stages[number]
        ahead = kept[stage.output] - reader.kernel[0]
        done = 0
        for y in reader.region.rows:
            wanted = rows_read(reader, y).stop + ahead
            order += rows[done:wanted]
            done = max(done, wanted)
            order.append(Row(number, y))
        order += rows[done:]
        number += 1
    return order


def rows_to_await(stages: list[Stage], order: list[Row]) -> list[tuple[int, int]]:
    """For each row in order, how many rows must have been written before its windows, and its residual, are read."""
    written: dict[tuple[str, int], int] = {}
    waits = []
    for number, (at, y) in enumerate(order):
        stage = stages[at]
        source = max((written.get((stage.source, row), 0) for row in rows_read(stage, y)), default=0)
        waits.append((source, written.get((stage.residual, y), 0)))
        written[stage.output, y] = number + 1
    return waits
