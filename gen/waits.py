"""Where every cycle goes: the cycles in which the array sums, and what it waits for in all others."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["WAITS", "Ledger", "StageCycles", "row_causes"]

#: What the array can wait for.
#: ``depthwise``, ``gather``: windows of the next patch, which that engine takes one a cycle;
#: ``fill``: the pipeline from there to the array, after a start, a change of stages or a wait for rows;
#: ``requantiser``: rows that windows need, on their way from the array through the requantisers into the feature
#: memory; at the end the last results;
#: ``adder``: the residual adder, while a sum reads its last word again;
#: ``memory``: residual words that are read before the windows, or room in the patch buffer;
#: ``jobs``: the sequencers' next job words.
WAITS = ("fill", "depthwise", "gather", "requantiser", "adder", "memory", "jobs")


@dataclass(frozen=True)
class StageCycles:
    """When a stage's array began and ended, counted from ``start``, and where the cycles went that it took.

    ``busy`` counts cycles in which the array sums, ``waits`` those that it waits, by :data:`WAITS`. Those of all stages
    together are the inference's.
    """

    name: str
    begin: int
    end: int
    busy: int
    waits: dict[str, int]

    @property
    def cycles(self) -> int:
        """All cycles that went into it."""
        return self.busy + sum(self.waits.values())


class Ledger:
    """Books the cycles of the array, stage by stage."""

    def __init__(self):
        self._busy, self._waits = Counter(), Counter()

    def sum(self, stage: int, cycles: int) -> None:
        """``cycles`` in which the array summed for stage number ``stage``."""
        self._busy[stage] += cycles

    def wait(self, stage: int, cycles: int, causes: Iterable[tuple[str, int]], rest: str) -> None:
        """``cycles`` in a row in which it waited: ``causes`` with how many each explains, the latest first.

        What none explains goes to ``rest``.
        """
        for cause, most in causes:
            part = max(0, min(cycles, most))
            self._waits[stage, cause] += part
            cycles -= part
        self._waits[stage, rest] += cycles

    def stage(self, number: int, name: str, begin: int, end: int) -> StageCycles:
        """What went into stage ``number``."""
        waits = {cause: self._waits[number, cause] for cause in WAITS if self._waits[number, cause]}
        return StageCycles(name, begin, end, self._busy[number], waits)


def row_causes(issue, *, taken, written, to_patch, changed, residual=None):
    """What keeps back the first patch of a row whose windows could come from cycle ``issue`` on: causes and the rest.

    Parameters
    ----------
    issue, taken, written, to_patch : int
        When the first window could be issued, when its job was taken and when the rows that it needs were written; how
        long a window takes to the array.
    changed : bool
        Whether the stage is another than that of the row before.
    residual : (int, int, int, int) or None
        Of residual words before: when their job was taken, when the rows that they need were written, when the first
        and when the last was issued.
    """
    if taken == written + 1:
        return [("fill", issue + to_patch - written - 2)], "requantiser"
    if residual is None:
        return [], "fill" if changed else "jobs"
    taken, written, first, last = residual
    causes = [("fill", issue - last - 1), ("memory", last - first + 1)]
    if taken == written + 1:
        return [*causes, ("fill", first + to_patch - written - 2)], "requantiser"
    return causes, "fill"
