"""Lifetimes: a check that every word of the feature memory still holds what a row reads from it.

It walks the rows in order, as both sequencers do, and keeps for every word of every bank which tensor's row, column and
channel group it holds. Of the layout it knows only what :class:`gen.layout.Placement` says where.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

import numpy as np

from gen.errors import GenError
from gen.layout import Placement, ceil_div
from gen.order import Row
from gen.stages import Stage, sources_of
from hw.config import BANKS, WINDOW

__all__ = ["check"]


def check(stages: list[Stage], order: list[Row], places: dict[str, Placement], results: Iterable[str]) -> None:
    """Check that rows in ``order``, on tensors at ``places``, read what they should and leave ``results`` whole.

    Inputs are there from the start. A row's windows, and its residual words, are read before what it makes is written,
    but not all of its windows are: it may overwrite nothing that it reads.

    Raises
    ------
    GenError
        If a word holds something else when it is read, or when the host reads results; if a word is written outside of
        its tensor's place; or if a row is missing.
    """
    if sorted(order) != [Row(number, y) for number, stage in enumerate(stages) for y in stage.region.rows]:
        raise GenError("the order of rows has not every row of every stage once")
    memory = _Memory(places)
    for name in sources_of(stages):
        memory.fill(name)
    for number, y in order:
        stage = stages[number]
        where = f"{stage.name}, row {y}"
        reads = [(stage.source, *_window(stage, y))]
        if stage.residual is not None:
            reads.append((stage.residual, range(y, y + 1), stage.region.columns))
        for name, rows, columns in reads:
            memory.read(where, name, rows, columns)
        memory.write(where, stage.output, y, stage.region.columns)
        for name, rows, columns in reads:
            if memory.overlap(name, stage.output):
                memory.read(f"{where}, once it is written", name, rows, columns)
    for name in results:
        height, width, _ = places[name].shape
        memory.read("the host", name, range(height), range(width))


def _window(stage, y):
    """Rows and columns of the source, from first to last, that the windows of an output's row look at."""
    spans = []
    for axis, outputs in enumerate((range(y, y + 1), stage.region.columns)):
        step, before = stage.stride[axis], stage.padding[2 * axis]
        begin, end = outputs[0] * step - before, outputs[-1] * step - before + stage.kernel[axis]
        spans.append(range(max(begin, 0), min(end, stage.source_shape[axis])))
    return spans


class _Memory:
    """Which word of which tensor every word of the banks holds, in its low and in its high half.

    Words are numbered: tensor by tensor, row by row, in a row by the column's residue, then in the order in which they
    lie in a bank. So what belongs into a piece of a bank is a piece of the numbers.
    """

    _NOTHING = -1

    def __init__(self, places):
        self._places = places
        counts = [place.shape[0] * WINDOW * place.row_pitch for place in places.values()]
        self._first = dict(zip(places, accumulate([0, *counts]), strict=False))
        depth = max((place.base + place.words for place in places.values()), default=0)
        self._held = np.full((2, BANKS, depth), self._NOTHING)
        self._numbers = np.arange(sum(counts))

    def fill(self, name):
        """The host writes a tensor, and zeros into what is left of its place."""
        place = self._places[name]
        self._held[:, :, place.base : place.base + place.words] = self._NOTHING
        for y in range(place.shape[0]):
            self.write("the host", name, y, range(place.shape[1]))

    def write(self, where, name, y, columns):
        """``columns`` of row ``y`` of a tensor are written."""
        place = self._places[name]
        for bank, halves, at, numbers in self._pieces(name, y, columns):
            if not place.base <= at.start <= at.stop <= place.base + place.words:
                raise GenError(f"{where}: writes {name} at words {at.start} to {at.stop - 1}, outside of its place")
            self._held[halves, bank, at] = numbers

    def read(self, where, name, rows, columns):
        """Raise unless ``columns`` of ``rows`` of a tensor are there."""
        for y in rows:
            for bank, halves, at, numbers in self._pieces(name, y, columns):
                held = self._held[halves, bank, at]
                wrong = held != numbers
                if held.shape[-1] != len(numbers) or wrong.any():
                    found = held[wrong][0] if wrong.any() else self._NOTHING
                    raise GenError(f"{where}: reads row {y} of {name}, but finds {self._told(found)} there")

    def overlap(self, a, b):
        """Whether two tensors share words."""
        a, b = self._places[a], self._places[b]
        return a.base < b.base + b.words and b.base < a.base + a.words

    def _pieces(self, name, y, columns):
        """Where ``columns`` of a row lie: (bank, halves, slice of it, numbers), one for each residue of a column."""
        place = self._places[name]
        groups = place.groups
        start = place.base + y % place.rows // WINDOW * place.row_pitch
        halves = slice(None) if place.halves == 1 else slice(y // place.rows, y // place.rows + 1)
        for residue in range(WINDOW):
            triples = range(*(ceil_div(edge - residue, WINDOW) for edge in (columns.start, columns.stop)))
            first = self._first[name] + (y * WINDOW + residue) * place.row_pitch + triples.start * groups
            if triples:
                count = len(triples) * groups
                at = start + triples.start * place.column_pitch
                yield y % WINDOW * WINDOW + residue, halves, slice(at, at + count), self._numbers[first : first + count]

    def _told(self, number):
        """A word's number as text."""
        if number == self._NOTHING:
            return "nothing"
        names = list(self._first)
        name = names[bisect_right(list(self._first.values()), number) - 1]
        row = (number - self._first[name]) // (WINDOW * self._places[name].row_pitch)
        return f"row {row} of {name}"
