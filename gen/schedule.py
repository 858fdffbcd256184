"""Schedule: the job words of a plan, and their exact cycles."""

from dataclasses import dataclass

from amaranth import Shape
from amaranth.lib import data

from gen.layout import Placement, ceil_div, patches_of
from gen.stages import Stage
from hw.array import MacArray
from hw.config import WINDOW, CoreConfig
from hw.core import Core, filled_memories
from hw.depthwise import DepthwiseEngine
from hw.gather import Gather
from hw.jobs import JobKind, WindowMode, array_job, layer_job, row_job
from hw.memory import FillWord
from hw.program import Sequencer
from hw.window import WindowGenerator

__all__ = ["Addresses", "StageCycles", "array_program", "cycles_of", "limits", "window_program"]


@dataclass(frozen=True)
class Addresses:
    """First words of a stage's weights and parameters in their memories."""

    coefficients: int
    depthwise_scales: int
    weights: int
    scales: int


@dataclass(frozen=True)
class StageCycles:
    """When a stage's array began and ended, counted from ``start``, and how many cycles the array was busy."""

    name: str
    begin: int
    end: int
    busy: int


def rows_needed(stage: Stage, y: int) -> int:
    """How many rows of the source result row ``y`` needs to be there."""
    last = y * stage.stride[0] - stage.padding[0] + stage.kernel[0]
    return min(max(last, 1), stage.source_shape[0])


def _rows_before(stages):
    """For each tensor made, the rows that the array has written before its first."""
    before, rows = {}, 0
    for stage in stages:
        before[stage.output] = rows
        rows += stage.output_shape[0]
    return before


def _bounds(scaling):
    return {"zero_point": scaling.zero_point, "lo": scaling.clamp[0], "hi": scaling.clamp[1]}


def _encode(layout, fields):
    return layout.const(fields).as_value().value


def limits(stages: list[Stage], config: CoreConfig) -> list[str]:
    """What about ``stages`` the job words, or the fill bus, of a core have no room for."""
    layer, array = layer_job(config), array_job(config)
    problems = []
    for stage in stages:
        patches = patches_of(stage, config.lanes, config.words)
        outputs = ceil_div(stage.output_shape[2], config.lanes)
        for what, count, room in (
            ("input channel groups", patches.groups, _width(layer, "groups")),
            ("output channel groups", outputs, _width(array, "groups")),
            ("patch words of a pixel", patches.words, _width(array, "words")),
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


def window_program(
    stages: list[Stage], places: dict[str, Placement], addresses: list[Addresses], config: CoreConfig
) -> list[int]:
    """The window generator's job words: a layer's, then one for each of its rows, stage by stage; then the end."""
    before = _rows_before(stages)
    words = []
    mask = (1 << config.address_bits) - 1
    for stage, address in zip(stages, addresses, strict=True):
        patches = patches_of(stage, config.lanes, config.words)
        place = places[stage.source]
        left = -stage.padding[2]
        scaling = stage.window_scaling
        words.append(
            _encode(
                layer_job(config),
                {
                    "kind": JobKind.LAYER,
                    "mode": patches.mode,
                    "beats": patches.beats - 1,
                    "channels": stage.source_shape[2] - 1 if patches.mode == WindowMode.NARROW else 0,
                    "groups": patches.groups - 1,
                    "tiles_x": patches.tiles[1] - 1,
                    "tiles_y": patches.tiles[0] - 1,
                    "stride": stage.stride[1] - 1,
                    "width": stage.source_shape[1],
                    "height": stage.source_shape[0],
                    "pixels": stage.patch_shape[1] - 1,
                    "x": left,
                    "column_base": left // WINDOW * place.column_pitch & mask,
                    "column_residue": left % WINDOW,
                    "column_pitch": place.column_pitch & mask,
                    "row_pitch": place.row_pitch & mask,
                    "pad": stage.pad,
                    "patch_words": patches.words,
                    "coefficients": address.coefficients,
                    "scales": address.depthwise_scales,
                    "bounds": _bounds(scaling) if scaling else {"zero_point": 0, "lo": 0, "hi": 0},
                },
            )
        )
        for row in range(stage.patch_shape[0]):
            top = row * stage.stride[0] - stage.padding[0]
            rows = range(top, top + WINDOW)
            bases = {y % WINDOW: place.row_address(0) + _triple(place, y) & mask for y in rows}
            written = before[stage.source] + rows_needed(stage, row) if stage.source in before else 0
            high = sum(place.in_high_half(y) << n for n, y in enumerate(rows))
            words.append(
                _encode(
                    row_job(config),
                    {
                        "kind": JobKind.ROW,
                        "written": written & 0xFFFF,
                        "row_base": [bases[r] for r in range(WINDOW)],
                        "row_residue": top % WINDOW,
                        "high_half": high,
                        "y": top,
                    },
                )
            )
    return [*words, _encode(row_job(config), {"kind": JobKind.END})]


def _triple(place, y):
    """Offset of row ``y``'s group of three rows; rows outside the tensor count on, for nobody looks at them."""
    if 0 <= y < place.shape[0]:
        return place.row_address(y) - place.base
    return y // WINDOW * place.row_pitch


def array_program(
    stages: list[Stage], places: dict[str, Placement], addresses: list[Addresses], config: CoreConfig
) -> list[int]:
    """The array's job words: one for each row of results."""
    words = []
    mask = (1 << config.address_bits) - 1
    for stage, address in zip(stages, addresses, strict=True):
        patches = patches_of(stage, config.lanes, config.words)
        place = places[stage.output]
        for row in range(stage.output_shape[0]):
            words.append(
                _encode(
                    array_job(config),
                    {
                        "pixels": stage.output_shape[1] - 1,
                        "words": patches.words - 1,
                        "groups": place.groups - 1,
                        "weights": address.weights,
                        "scales": address.scales,
                        "address": place.row_address(row),
                        "column_pitch": place.column_pitch & mask,
                        "row_residue": row % WINDOW,
                        "last": stage is stages[-1] and row == stage.output_shape[0] - 1,
                        "bounds": _bounds(stage.scaling),
                    },
                )
            )
    return words


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


def cycles_of(stages: list[Stage], config: CoreConfig) -> tuple[int, list[StageCycles]]:
    """Exact cycles of an inference, and of each stage, from the engines' rules.

    Follows every pixel through window generator and array: a pixel's windows begin when the one before is through,
    its row's job is there, and its patch has room; its sums begin when its patch is complete.
    """
    drain = Core.drain_cycles(config)
    write = MacArray.latency(config)
    before = _rows_before(stages)

    start = 1  # the host's start passes a register
    job_array = start + Sequencer.period  # when the next job is valid
    jobs = _WindowJobs(start)
    written: list[int] = []  # when the count of rows written reaches index + 1
    freed: list[tuple[int, int]] = []  # when, and how many words
    room, next_freed = config.patch_depth, 0
    window_free, window_last = 0, -drain  # first cycle for another job; last issue
    array_free = -1  # last issue of the array
    report = []
    for stage in stages:
        patches = patches_of(stage, config.lanes, config.words)
        groups = ceil_div(stage.output_shape[2], config.lanes)
        busy = patches.words * groups
        to_patch = WindowGenerator.latency + 3
        to_patch += DepthwiseEngine.latency(config) if patches.mode == WindowMode.DEPTHWISE else Gather.latency
        jobs.take(due=max(window_free, window_last + drain + 1), free=window_free)
        begin = None
        for row in range(stage.output_shape[0]):
            due = written[before[stage.source] + rows_needed(stage, row) - 1] if stage.source in before else 0
            issue = jobs.take(due=due, free=window_free) + 1
            job_taken = max(job_array, array_free + 1)
            job_array = job_taken + Sequencer.period
            array_next = job_taken + 1
            for _ in range(stage.output_shape[1]):
                while room < patches.words:
                    when, count = freed[next_freed]
                    room, next_freed, issue = room + count, next_freed + 1, max(issue, when)
                room -= patches.words
                window_last = issue + patches.cycles - 1
                sums = max(array_next, window_last + to_patch)
                begin = sums if begin is None else begin
                array_free = sums + busy - 1
                freed.append((array_free + 3, patches.words))
                array_next, issue = array_free + 1, window_last + 1
            window_free = window_last + 1
            written.append(array_free + write + 1)
        report.append(StageCycles(stage.name, begin, array_free, busy * stage.output_shape[0] * stage.output_shape[1]))
    return array_free + write + 2, report
