"""Schedule: the job words of a plan, and their exact cycles."""

from collections import deque
from dataclasses import dataclass

from amaranth import Shape
from amaranth.lib import data

from gen.errors import GenError
from gen.layout import Placement, ceil_div, patches_of
from gen.order import Row, rows_to_await
from gen.stages import Stage
from gen.waits import Ledger, StageCycles, row_causes
from hw.array import MacArray
from hw.config import WINDOW, ArrayShape, CoreConfig
from hw.core import Core, filled_memories
from hw.depthwise import DepthwiseEngine
from hw.gather import Gather
from hw.jobs import JobKind, WindowMode, array_job, layer_job, row_job
from hw.memory import FillWord
from hw.program import Sequencer
from hw.window import WindowGenerator

__all__ = ["Addresses", "array_program", "cycles_of", "limits", "window_program"]


@dataclass(frozen=True)
class Addresses:
    """First words of a stage's weights and parameters in their memories; ``residual`` 0 is none."""

    coefficients: int
    depthwise_scales: int
    weights: int
    scales: int
    residual: int


def _bounds(scaling):
    if scaling is None:
        return {"zero_point": 0, "lo": 0, "hi": 0}
    return {"zero_point": scaling.zero_point, "lo": scaling.clamp[0], "hi": scaling.clamp[1]}


def _encode(layout, fields):
    return layout.const(fields).as_value().value


def limits(stages: list[Stage], config: CoreConfig) -> list[str]:
    """What about ``stages`` the job words, or the fill bus, of a core have no room for."""
    layer, array = layer_job(config), array_job(config)
    problems = []
    for stage in stages:
        patches = patches_of(stage, config)
        outputs = ceil_div(stage.output_shape[2], config.lanes)
        for what, count, room in (
            ("input channel groups", patches.passes, _width(layer, "groups")),
            ("output channel groups", outputs, _width(array, "groups")),
            ("patch words of a pixel", patches.sum_words, _width(array, "words")),
        ):
            if count > 1 << room:
                problems.append(f"{stage.name}: {what}: {count}, more than the {1 << room} that a job counts")
    most = 1 << _width(data.Layout.cast(FillWord), "address")
    for name, memory in filled_memories(config).items():
        if memory.depth > most:
            problems.append(f"{name}: needs {memory.depth} words, more than the {most} that the fill bus addresses")
    return problems


def _width(layout, name):
    """Bits of a field."""
    return Shape.cast(layout[name].shape).width


def residual_rows(stages: list[Stage], order: list[Row], array: ArrayShape, patch_depth: int) -> list[int]:
    """For each row in order, how many rows' residual words, its own first, are read just before its windows.

    That is 0 where they were read with those of a row before: to go over to them and back takes a while, in which the
    array may have to wait. Read together are rows that follow each other, as many as the patch buffer has room for
    beside two patches, and whose residual words are there by then.
    """
    counts = [0] * len(order)
    awaited = [residual for _, residual in rows_to_await(stages, order)]
    number = 0
    while number < len(order):
        at = order[number].stage
        stage, count = stages[at], 1
        if stage.residual is not None:
            row_words = len(stage.region.columns) * ceil_div(stage.output_shape[2], array.lanes)
            room = (patch_depth - 2 * patches_of(stage, array).words) // row_words
            following = range(number + 1, min(number + max(room, 1), len(order)))
            apart = (n for n in following if order[n].stage != at or awaited[n] > number)
            count = next(apart, following.stop) - number
            counts[number] = count
        number += count
    return counts


def window_jobs(stages: list[Stage], order: list[Row], array: ArrayShape, patch_depth: int) -> int:
    """Number of the window generator's job words."""
    words, current = 1, None
    for (at, _), count in zip(order, residual_rows(stages, order, array, patch_depth), strict=True):
        words += 1 + (1 + count if count else 0) + (count > 0 or at != current)
        current = at
    return words


def window_program(
    stages: list[Stage], order: list[Row], places: dict[str, Placement], addresses: list[Addresses], config: CoreConfig
) -> list[int]:
    """The window generator's job words: a layer's wherever it changes, then one for each of its rows; then the end."""
    words: list[int] = []
    current = None
    awaited = rows_to_await(stages, order)
    counts = residual_rows(stages, order, config, config.patch_depth)
    for number, ((at, y), count) in enumerate(zip(order, counts, strict=True)):
        stage = stages[at]
        if count:
            place = places[stage.residual]
            words.append(_residual_layer(stage, place, config))
            words += [_row(place, order[n].y, awaited[n][1], config) for n in range(number, number + count)]
            current = None
        place = places[stage.source]
        if current is not stage:
            words.append(_layer(stage, place, addresses[at], config))
            current = stage
        words.append(_row(place, y * stage.stride[0] - stage.padding[0], awaited[number][0], config))
    return [*words, _encode(row_job(config), {"kind": JobKind.END})]


def _layer(stage, place, address, config):
    """The job word of a stage for the window generator."""
    patches = patches_of(stage, config)
    narrow = patches.mode == WindowMode.NARROW
    return _walk(
        place,
        stage.region.left * stage.stride[1] - stage.padding[2],
        stage,
        config,
        mode=patches.mode,
        beats=patches.beats - 1,
        taps=patches.taps,
        last_taps=patches.last_taps,
        whole=patches.whole,
        channels=stage.source_shape[2] - 1 if narrow else 0,
        groups=patches.passes - 1,
        tiles_x=patches.tiles[1] - 1,
        tiles_y=patches.tiles[0] - 1,
        step=patches.step,
        stride=stage.stride[1] - 1,
        pad=stage.pad,
        patch_words=patches.words,
        coefficients=address.coefficients,
        scales=address.depthwise_scales,
        bounds=_bounds(stage.window_scaling),
        **({"maximum": stage.maximum} if config.max_pool else {}),
        **({"paired": patches.pixels > 1} if config.pixels > 1 else {}),
    )


def _residual_layer(stage, place, config):
    """The job word that sends rows of a stage's residual tensor to the adder, a word after the other."""
    return _walk(
        place, stage.region.left, stage, config,
        mode=WindowMode.RESIDUAL, groups=place.groups - 1, patch_words=place.groups, bounds=_bounds(None), taps=1,
        last_taps=1,
    )  # fmt: skip


def _walk(place, left, stage, config, **fields):
    """A layer's job word: where the tensor at ``place`` lies, from column ``left`` of each row on; other fields 0."""
    mask = (1 << config.address_bits) - 1
    fields |= {
        "kind": JobKind.LAYER,
        "width": place.shape[1],
        "height": place.shape[0],
        "pixels": len(stage.region.columns) - 1,
        "x": left,
        "column_base": left // WINDOW * place.column_pitch & mask,
        "column_residue": left % WINDOW,
        "column_pitch": place.column_pitch & mask,
        "row_pitch": place.row_pitch & mask,
    }
    return _encode(layer_job(config), fields)


def _row(place, top, awaited, config):
    """The job word of one row of windows, whose first row is ``top`` of the tensor at ``place``."""
    mask = (1 << config.address_bits) - 1
    rows = range(top, top + WINDOW)
    bases = {y % WINDOW: place.row_address(0) + _triple(place, y) & mask for y in rows}
    return _encode(
        row_job(config),
        {
            "kind": JobKind.ROW,
            "written": awaited & 0xFFFF,
            "row_base": [bases[r] for r in range(WINDOW)],
            "row_residue": top % WINDOW,
            "high_half": sum(place.in_high_half(y) << n for n, y in enumerate(rows)),
            "y": top,
        },
    )


def _triple(place, y):
    """Offset of row ``y``'s group of three rows; rows outside the tensor count on, for nobody looks at them."""
    if 0 <= y < place.shape[0]:
        return place.row_address(y) - place.base
    return y // WINDOW * place.row_pitch


def array_program(
    stages: list[Stage], order: list[Row], places: dict[str, Placement], addresses: list[Addresses], config: CoreConfig
) -> list[int]:
    """The array's job words: one for each row of results."""
    words = []
    mask = (1 << config.address_bits) - 1
    for number, (at, y) in enumerate(order):
        stage, address = stages[at], addresses[at]
        patches, place = patches_of(stage, config), places[stage.output]
        left, width = stage.region.left, len(stage.region.columns)
        fields = {
            "pixels": ceil_div(width, patches.pixels) - 1,
            "words": patches.sum_words - 1,
            "freed": _credits(stage, patches, config) - 1,
            "groups": place.groups - 1,
            "weights": address.weights,
            "scales": address.scales,
            "address": place.row_address(y) + left // WINDOW * place.column_pitch,
            "column_pitch": place.column_pitch & mask,
            "row_residue": y % WINDOW,
            "column_residue": left % WINDOW,
            "last": number == len(order) - 1,
            "bounds": _bounds(stage.scaling),
        }
        if config.pixels > 1:
            fields |= {"paired": patches.pixels > 1, "odd": width % patches.pixels}
        if config.residual_lanes:
            fields |= {"residual": address.residual, "idle": patches.sum_words - patches.words}
        words.append(_encode(array_job(config), fields))
    return words


def _credits(stage, patches, config):
    """Words that a patch takes in the patch buffer, and beside it in the residual buffer."""
    return patches.words + (ceil_div(stage.output_shape[2], config.lanes) if stage.residual is not None else 0)


class _WindowJobs:
    """When the window generator takes its jobs: each comes from the sequencer into a register, then is found due."""

    def __init__(self, start):
        self._offered, self._register_free = start + Sequencer.period, 0

    def take(self, *, due, free):
        """The cycle in which the next job is taken: ``due`` when it may be, once the generator is ``free``."""
        moved = max(self._offered, self._register_free)
        taken = max(moved + 2, due + 1, free)
        self._offered, self._register_free = moved + Sequencer.period, taken + 1
        return taken


class _Credits:
    """Room in the patch buffer as the window generator counts it."""

    def __init__(self, words):
        self._room = words
        self._given: deque[tuple[int, int]] = deque()  # when, and how many words

    def give(self, when, words):
        """``words`` come back in cycle ``when``."""
        self._given.append((when, words))

    def take(self, words, issue):
        """The first cycle from ``issue`` on in which there is room for ``words``, which are then taken."""
        while self._room < words:
            if not self._given:
                raise GenError("the patch buffer is too small for a row's residual words: the schedule would stall")
            when, given = self._given.popleft()
            self._room, issue = self._room + given, max(issue, when)
        self._room -= words
        return issue


def cycles_of(stages: list[Stage], order: list[Row], config: CoreConfig) -> tuple[int, list[StageCycles]]:
    """Exact cycles of an inference, and of each stage, from the engines' rules.

    Follows every patch through window generator and array: its windows begin when the one before is through, its row's
    job is there, and it has room; its sums begin when it is complete.

    Raises
    ------
    GenError
        If the schedule would stall for ever.
    """
    drain = Core.drain_cycles(config)
    write = MacArray.latency(config)

    start = Core.start_cycles
    job_array = start + Sequencer.period  # when the next job is valid
    jobs = _WindowJobs(start)
    written = [0]  # when the count of rows written reaches the index
    credits = _Credits(config.patch_depth)
    window_free, window_last = 0, -drain  # first cycle for another job; last issue
    array_free = -1  # last issue of the array
    begin, end, ledger = {}, {}, Ledger()
    current, before = None, None
    awaited = rows_to_await(stages, order)
    counts = residual_rows(stages, order, config, config.patch_depth)
    for number, ((at, _), count) in enumerate(zip(order, counts, strict=True)):
        stage, source = stages[at], awaited[number][0]
        patches = patches_of(stage, config)
        groups = ceil_div(stage.output_shape[2], config.lanes)
        residual_words = None
        if count:
            jobs.take(due=max(window_free, window_last + drain + 1), free=window_free)
            for n in range(number, number + count):
                taken = jobs.take(due=written[awaited[n][1]], free=window_free)
                issue = taken + 1
                if residual_words is None:
                    residual_words = taken, written[awaited[n][1]], issue
                for _ in stage.region.columns:
                    window_last = credits.take(groups, issue) + groups - 1
                    issue = window_last + 1
                window_free = issue
            residual_words, current = (*residual_words, window_last), None
        if current is not stage:
            jobs.take(due=max(window_free, window_last + drain + 1), free=window_free)
            current = stage
        sum_cycles, useful = patches.sum_words * groups, patches.words * groups
        to_patch = WindowGenerator.latency + 5 + MacArray.arrival_delay
        to_patch += DepthwiseEngine.latency(config) if patches.mode == WindowMode.DEPTHWISE else Gather.latency
        engine = "depthwise" if patches.mode == WindowMode.DEPTHWISE else "gather"
        taken = jobs.take(due=written[source], free=window_free)
        issue = taken + 1
        job_taken = max(job_array, array_free + 1)
        job_array = job_taken + Sequencer.period
        array_next = job_taken + 1
        freed = _credits(stage, patches, config)
        causes, rest = row_causes(
            issue, taken=taken, written=written[source], to_patch=to_patch, changed=at != before,
            residual=residual_words,
        )  # fmt: skip
        width = len(stage.region.columns)
        for column in range(0, width, patches.pixels):
            windows = min(patches.pixels, width - column) * patches.cycles
            issued = credits.take(patches.words, issue)
            window_last = issued + windows - 1
            sums = max(array_next, window_last + to_patch)
            begin.setdefault(at, sums)
            if sums == array_next:  # the patch is there; at most a job was not
                ledger.wait(at, sums - array_free - 1, (), "jobs")
            else:
                late = (engine, windows), ("memory", issued - issue), *causes
                ledger.wait(at, sums - array_free - 1, late, rest)
            causes, rest = (), "fill"
            array_free = sums + sum_cycles - 1
            credits.give(array_free + 3, freed)
            array_next, issue = array_free + 1, window_last + 1
        window_free, before = window_last + 1, at
        written.append(array_free + write + 1)
        end[at] = array_free
        count = ceil_div(width, patches.pixels)
        ledger.sum(at, useful * count)
        ledger.wait(at, (sum_cycles - useful) * count, (), "adder")
    ledger.wait(at, write + 1, (), "requantiser")
    report = [ledger.stage(n, stage.name, begin[n], end[n]) for n, stage in enumerate(stages)]
    return array_free + write + 2, report
