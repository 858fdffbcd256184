"""Plan: a network on a board. Dimensions, memory map, schedule, exact cycles, estimated resources."""

import zlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from math import inf
from operator import itemgetter

import numpy as np
from amaranth import ClockDomain
from amaranth.back import rtlil
from rich.console import Group

import boards
from gen import lifetimes, schedule
from gen.contents import memory_contents
from gen.errors import FitError, GenError
from gen.floorplan import place_memories, place_multipliers
from gen.layout import Placement, ceil_div, laid_out, patches_of
from gen.order import Row
from gen.packing import obstacle, pair_channels
from gen.plan_print import render
from gen.resources import RESOURCES, estimate, expected_clock_hz, share
from gen.stages import Stage, results_of, stages_of
from gen.table import Table
from gen.tools import rtlil_to_verilog
from gen.waits import WAITS, StageCycles
from hw.config import TAPS, ArrayShape, CoreConfig
from hw.core import Core
from hw.jobs import WindowMode
from hw.memory import DISTRIBUTED_WORDS
from hw.places import CorePlaces
from hw.requantise import Requantiser

__all__ = ["FAST_ENOUGH_US", "Candidate", "Plan", "plan"]

#: An inference that takes no longer is fast enough for a smaller array, which builds in minutes, to be worth more.
FAST_ENOUGH_US = 20

#: What a smaller array may take, of the time of the fastest.
_NEARLY = 1.03

#: N and feature words in a patch word of the arrays that may be chosen, K being N times these.
_LANES = 2, 3, 4, 5, 6, 8, 10, 12, 16
_WORDS = range(1, 2 * TAPS + 1)

#: Largest K and N.
_MOST_ROWS, _MOST_LANES = 128, 16

#: As many arrays are planned, so that people see what a plan was chosen from, however soon the fastest is known.
_SHOWN = 12

#: Most of its time that the array may wait for the residual adder, or for the depthwise engine, to make them smaller.
_WAITING_SHARE = 0.01

#: Patch words between what gathers and the array: one block RAM deep, or, where these run short, LUT RAM.
_PATCH_DEPTHS = 512, DISTRIBUTED_WORDS


@dataclass(frozen=True)
class Candidate:
    """An array that a plan was chosen from.

    Parameters
    ----------
    k, n : int
        Inputs and outputs.
    packing : bool
        Whether two MACs share a multiplier.
    pixels : int
        How many it can make at a time.
    cycles : int
        Exact cycles of an inference.
    latency_us : float
        Expected time of an inference.
    resources : dict of str to int
        Estimated ``lut``, ``ff``, ``mult``, ``ebr``.
    binding : str
        Which of these is the scarcest on the board.
    fits : bool
        Whether the board has all that it needs.
    chosen : bool
        Whether it is the plan's.
    """

    k: int
    n: int
    packing: bool
    pixels: int
    cycles: int
    latency_us: float
    resources: dict[str, int]
    binding: str
    fits: bool
    chosen: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """A lowered table on a board.

    Parameters
    ----------
    table : Table
        What it computes; lowered.
    board : Board
        Where.
    stages : list of Stage
        How the layers run.
    order : list of Row
        Which row of which stage runs when.
    config : CoreConfig
        The core's dimensions.
    places : dict of str to Placement
        Where the tensors lie in the feature memory.
    addresses : list of Addresses
        Where each stage's weights and parameters begin.
    resources : dict of str to int
        Estimated ``lut``, ``ff``, ``mult``, ``ebr``.
    places_on_die : CorePlaces
        Fixed places on the board's die, where it is known.
    candidates : tuple of Candidate
        The arrays that were looked at.
    reason : str
        Why it is this one.
    """

    table: Table
    board: object
    stages: list[Stage]
    order: list[Row]
    config: CoreConfig
    places: dict[str, Placement]
    addresses: list[schedule.Addresses]
    resources: dict[str, int]
    places_on_die: CorePlaces
    candidates: tuple[Candidate, ...] = ()
    reason: str = ""

    @cached_property
    def _timing(self):
        return schedule.cycles_of(self.stages, self.order, self.config)

    @property
    def cycles(self) -> int:
        """Exact cycles of an inference, from start to the last output byte readable."""
        return self._timing[0]

    @property
    def stage_cycles(self) -> list[StageCycles]:
        """When each stage ran."""
        return self._timing[1]

    @property
    def clock_mhz_estimate(self) -> float:
        """Core clock that designs of this kind reach on the board, before place and route tells."""
        return expected_clock_hz(self.resources["lut"]) / 1e6

    @property
    def latency_us(self) -> float:
        """Expected time of an inference."""
        return self.cycles / self.clock_mhz_estimate

    @cached_property
    def contents(self) -> dict[str, list[int]]:
        """First words of all memories but the features, by the names of ``hw.core.filled_memories``."""
        arguments = self.stages, self.order, self.places, self.addresses, self.config
        programs = {
            "window_program": schedule.window_program(*arguments),
            "array_program": schedule.array_program(*arguments),
        }
        return memory_contents(self.stages, self.config) | programs

    @property
    def digest(self) -> int:
        """32 bits that tell cores apart whose dimensions differ."""
        return zlib.crc32(repr(self.config).encode())

    @cached_property
    def _core(self):
        core = Core(self.config, init=self.contents, digest=self.digest, places=self.places_on_die)
        # Without a reset, which would be one net to a register in five: configuration sets all of them.
        clock = partial(ClockDomain, reset_less=True)
        return rtlil_to_verilog(rtlil.convert(core, name="core", emit_src=False, missing_domain=clock))

    def verilog(self) -> str:
        """The core as Verilog, module ``core``: what is simulated and what is synthesised."""
        return self._core

    @property
    def fits(self) -> bool:
        """Whether the board has all that it needs."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """What does not fit the board or the job words, by how much."""
        problems = schedule.limits(self.stages, self.config)
        for name, available in self._bounds.items():
            used = self.resources[name]
            if used > available:
                problems.append(
                    f"{RESOURCES[name]}: needs about {used}, {used - available} more than the {available} there are"
                )
        return problems

    @property
    def binding(self) -> str:
        """The resource of which it takes the largest share of the board's."""
        shares = {name: share(self.resources[name], available) for name, available in self._bounds.items()}
        return max(shares, key=shares.get)

    @property
    def _bounds(self):
        """Resources that the board bounds, and how many it has."""
        unbounded = ("ebr",) if self.board.simulation_only else ()
        return {name: count for name, count in self.board.resources.items() if name not in unbounded}

    def explain(self) -> Group:
        """The plan for people: see :func:`gen.plan_print.render`."""
        return render(self)

    def report(self) -> dict:
        """The planned part of report.json."""
        config = self.config
        macs_per_cycle = config.array_rows * config.lanes
        clock = self.clock_mhz_estimate
        live_macs = sum(layer.macs for stage in self.stages for layer in stage.layers)
        weight_bytes = sum(part.size for s in self.stages for part in (s.weights, s.window_weights) if part is not None)
        return {
            "model": self.table.name,
            "board": self.board.name,
            "device": self.board.device,
            "macs": self.table.unfolded.macs if self.table.unfolded else live_macs,
            "live_macs": live_macs,
            "array": {
                "k": config.array_rows,
                "n": config.lanes,
                "macs_per_cycle": macs_per_cycle,
                "depthwise_lanes": config.depthwise_lanes,
                "requantiser_lanes": config.requantisers,
            },
            "packing": config.outputs > 1,
            "pixels": config.pixels,
            "cycles": self.cycles,
            "clock_mhz": clock,
            "latency_us": self.latency_us,
            "fps": 1e6 * clock / self.cycles,
            "utilisation": live_macs / (self.cycles * macs_per_cycle),
            "resources": {
                name: {"used": self.resources[name], "available": available}
                for name, available in self.board.resources.items()
            },
            "weight_bytes": weight_bytes,
            "feature_bytes": config.feature_depth * 9 * config.lanes,
            "stages": [
                {"name": stage.name, "begin": stage.begin, "end": stage.end, "cycles": stage.cycles, "busy": stage.busy}
                | {cause: stage.waits.get(cause, 0) for cause in WAITS}
                for stage in self.stage_cycles
            ],
            "reason": self.reason,
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }


def plan(
    table: Table,
    board,
    *,
    array: tuple[int, int] | None = None,
    packing: bool | None = False,
    pixels: int | None = None,
) -> Plan:
    """Choose the array (or take ``array`` = (K, N)) for ``table`` on ``board``, and schedule it.

    With ``packing`` two output channels share each multiplier wherever N is even and the weights allow it, without it
    none do; for None, arrays of either kind are looked at. Likewise arrays that make 1 of the ``pixels`` at a time, and
    those that make 2 where that saves cycles, which takes more requantisers.

    Of the arrays that fit it takes the smallest of those within 3 % of the fastest, or that are fast enough
    (:data:`FAST_ENOUGH_US`). They are planned by the cycles that their sums take, which is the least that an inference
    can; once that alone is more than it may be, all others are slower still.

    Raises
    ------
    GenError
        If the engines lack something, or if ``array`` is none that can be built.
    FitError
        If nothing fits; it names what binds, by how much, and the nearest board that would do.
    """
    stages = stages_of(table)
    if array is not None:
        k, n = array
        if not 1 <= n <= _MOST_LANES or not 1 <= k <= _MOST_ROWS or k % n:
            raise GenError(
                f"array {k}x{n}: K must be a multiple of N and at most {_MOST_ROWS}, N must be in 1..{_MOST_LANES}"
            )
        sizes = [(n, k // n)]
    else:
        sizes = [(n, words) for n in _LANES for words in _WORDS if n * words <= _MOST_ROWS]
    tables = [(table, stages)]
    if packing is not False and (other := pair_channels(table)) is not table:
        tables.append((other, stages_of(other)))
    choices = [choice for size in sizes for choice in _choices(tables, *size, packing, pixels)]
    if array is None:
        choices = [choice for choice in choices if _multipliers(choice[2]) <= board.resources["mult"]] or choices
    plans, slowest_us = _search(board, choices)
    fitting = [candidate for candidate in plans if candidate.fits]
    if not fitting:
        closest = min(plans, key=_excess)
        problems = "\n  ".join(closest.problems)
        raise FitError(
            f"{table.name} does not fit {board.name} ({board.device}); closest with array {_array(closest)}:\n  "
            f"{problems}\n  {_way_out(plans)}",
            closest.problems,
        )
    near = [candidate for candidate in fitting if candidate.latency_us <= slowest_us]
    chosen = min(near, key=lambda candidate: (candidate.resources["lut"], candidate.cycles))
    if len(choices) == 1:
        reason = "the array that was asked for"
    elif len(near) == 1:
        reason = "the fastest that fits"
    elif slowest_us > FAST_ENOUGH_US:
        reason = f"the smallest of the {len(near)} that fit and are within 3 % of the fastest of these"
    else:
        reason = f"the smallest of the {len(near)} that fit and take at most {FAST_ENOUGH_US} us"
    if left := len(choices) - len(plans):
        reason += f"; {left} more are slower, for their sums alone take longer"
    return replace(chosen, candidates=tuple(_candidate(other, other is chosen) for other in plans), reason=reason)


def _search(board, choices):
    """Plans of all ``choices`` that may be the one to take, and of a few more; and the longest that it may take, in us.

    Where nothing fits, the plans of all.
    """
    fastest_clock = expected_clock_hz(0) / 1e6
    ranked = sorted(((_least_cycles(*choice[1:]) / fastest_clock, choice) for choice in choices), key=itemgetter(0))
    plans, slowest_us = [], inf
    for least_us, choice in ranked:
        if least_us > slowest_us and len(plans) >= _SHOWN:
            break
        plans.append(candidate := _planned(board, *choice))
        if candidate.fits:
            slowest_us = min(slowest_us, max(_NEARLY * candidate.latency_us, FAST_ENOUGH_US))
    return plans, slowest_us


def _candidate(planned, chosen):
    """What to tell of a plan that was looked at."""
    config = planned.config
    return Candidate(
        config.array_rows, config.lanes, config.outputs > 1, config.pixels, planned.cycles, planned.latency_us,
        planned.resources, planned.binding, planned.fits, chosen,
    )  # fmt: skip


def _choices(tables, lanes, words, packing, pixels):
    """Table, stages and shape of the arrays of K = ``lanes * words`` by N = ``lanes`` that are asked for.

    ``tables`` with their stages differ in the order of channels; the first keeps the network's own.
    """
    stages = tables[0][1]
    shape = _with_lanes(stages, ArrayShape(lanes=lanes, words=words))
    shapes = [shape]
    if words % 2 == 0 and pixels != 1:
        pairs = _with_lanes(stages, replace(shape, pixels=2))
        if any(patches_of(stage, pairs).pixels > 1 for stage in stages):
            shapes = [pairs] if pixels == 2 else [shape, pairs]
    choices = []
    for shape in shapes:
        able = [choice for choice in tables if obstacle(choice[1], shape) is None]
        choices += [] if packing and able else [(*tables[0], shape)]
        choices += [] if packing is False else [(*choice, replace(shape, outputs=2)) for choice in able[:1]]
    return choices


def _array(candidate):
    """Its array as text."""
    sharing = " and shared multipliers" if candidate.config.outputs > 1 else ""
    return f"{candidate.config.array_rows}x{candidate.config.lanes}{sharing}"


def _excess(candidate):
    """How far a plan is from fitting: the largest share by which it exceeds a resource."""
    return max(candidate.resources[name] / available for name, available in candidate.board.resources.items())


def _way_out(plans):
    """The nearest thing that would fit: the smallest board that takes one of ``plans``."""
    known = [boards.get(name) for name in boards.names()]
    for board in sorted((b for b in known if not b.simulation_only), key=lambda b: b.resources["lut"]):
        for candidate in plans:
            if replace(candidate, board=board).fits:
                return f"it would fit {board.name} ({board.device}) with array {_array(candidate)}"
    simulated = any(replace(candidate, board=boards.get("sim")).fits for candidate in plans)
    return "no board here is large enough" + ("; --board sim simulates it all the same" if simulated else "")


def _planned(board, table, stages, array):
    """The plan with an array of this shape."""
    lanes = array.lanes
    results = results_of(table)
    order, places, feature_depth = laid_out(stages, array, results)
    lifetimes.check(stages, order, places, results)
    addresses, weight_depths = [], [1] * array.columns
    coefficients = depthwise_scales = weights = scales = residuals = 0
    packed, taps = set(), 0
    for stage in stages:
        patches = patches_of(stage, array)
        if patches.mode == WindowMode.NARROW:
            packed.add(stage.source_shape[2])
        elif patches.mode == WindowMode.WIDE:
            taps = max(taps, 1 if stage.kernel == (1, 1) else TAPS)
        residuals += stage.residual is not None
        residual = residuals if stage.residual is not None else 0
        addresses.append(schedule.Addresses(coefficients, depthwise_scales, weights, scales, residual))
        channels = stage.output_shape[2]
        groups = ceil_div(channels, lanes)
        for n in range(min(array.columns, ceil_div(channels, array.outputs))):
            weight_depths[n] = weights + ceil_div(channels - n * array.outputs, lanes) * patches.sum_words
        if stage.front is not None:
            coefficients += patches.cycles
            depthwise_scales += patches.passes
        weights += groups * patches.sum_words
        scales += groups
    scalings = [stage.scaling for stage in stages]
    window_scalings = [stage.window_scaling for stage in stages if stage.window_scaling is not None]
    every = scalings + window_scalings
    windows = _lane_windows(scalings, lanes)
    if array.pixels > 1:
        shared = [stage.scaling for stage in stages if patches_of(stage, array).pixels > 1]
        windows += _lane_windows(shared, lanes)
    # The patch buffer holds two of the largest patches, and two beside a whole row of residual words.
    patch_words = 0
    for stage in stages:
        patches = patches_of(stage, array)
        patch_words = max(patch_words, 2 * patches.sum_words)
        if stage.residual is not None:
            row = len(stage.region.columns) * ceil_div(stage.output_shape[2], lanes)
            patch_words = max(patch_words, row + 2 * patches.words)
    least_depth = 1 << (patch_words - 1).bit_length()
    patch_depth = max(_PATCH_DEPTHS[0], least_depth)
    multiplier_bits = 31 + int(max(0, *(s.shift.max() for s in every)))
    # Requantisers get the multipliers that the array leaves, the depthwise engine's first.
    left = max(0, board.resources["mult"] - _multipliers(array)) // Requantiser.hard_multipliers
    left = left if multiplier_bits <= Requantiser.hard_multiplier_bits else 0
    hard_lanes = min(left, array.depthwise_lanes)
    hard_columns = tuple(range(min(left - hard_lanes, lanes)))
    die = place_multipliers(
        board.multiplier_rows, columns=array.columns, outputs=array.outputs, height=array.array_rows, lanes=hard_lanes
    )
    if left and die.columns:
        hard_columns = tuple(n for n, column in enumerate(die.columns) if column.requantiser)
    config = CoreConfig(
        lanes=lanes,
        words=array.words,
        accumulator_bits=_signed_bits(max(s.reach.max() for s in scalings)),
        depthwise_accumulator_bits=_signed_bits(max((s.reach.max() for s in window_scalings), default=1)),
        bias_bits=_signed_bits(max(np.abs(s.bias).max() for s in every)),
        window_bits=windows,
        depthwise_window_bits=_lane_windows(window_scalings, array.depthwise_lanes),
        multiplier_bits=multiplier_bits,
        hard_lanes=hard_lanes,
        hard_columns=hard_columns,
        feature_depth=feature_depth,
        patch_depth=patch_depth,
        weight_depths=tuple(weight_depths),
        scale_depth=scales,
        coefficient_depth=max(1, coefficients),
        depthwise_scale_depth=max(1, depthwise_scales),
        window_program_depth=schedule.window_jobs(stages, order, array, patch_depth),
        array_program_depth=len(order),
        max_pool=any(stage.maximum for stage in stages),
        gathered_taps=max(taps, int(residuals > 0)),
        packed_channels=tuple(sorted(packed)),
        depthwise_lanes=array.depthwise_lanes,
        residual_lanes=array.residual_lanes,
        outputs=array.outputs,
        pixels=array.pixels,
        residual_scale_depth=1 + residuals,
        residual_window_bits=max((s.residual_scaling.window_bits for s in stages if s.residual_scaling), default=4),
        primitives="ecp5",
    )
    if not board.simulation_only and estimate(config)["ebr"] > board.resources["ebr"]:
        small_depth = max(_PATCH_DEPTHS[1], least_depth)
        jobs = schedule.window_jobs(stages, order, array, small_depth)
        small = replace(config, patch_depth=small_depth, window_program_depth=jobs)
        config = min(config, small, key=lambda one: estimate(one)["ebr"])
    if die.columns:
        die = place_memories(die, board, config)
    return Plan(table, board, stages, order, config, places, addresses, estimate(config), die)


def _with_lanes(stages, array):
    """``array`` with a residual adder and a depthwise engine of the fewest lanes for which it waits little for each.

    Without one that no stage needs.
    """
    for name, needed in (("residual_lanes", "residual"), ("depthwise_lanes", "front")):
        if all(getattr(stage, needed) is None for stage in stages):
            continue
        fewer = [replace(array, **{name: n}) for n in range(1, array.lanes + 1) if array.lanes % n == 0]
        most = (1 + _WAITING_SHARE) * _busy_cycles(stages, fewer[-1])
        array = next(one for one in fewer if _busy_cycles(stages, one) <= most)
    return array


def _multipliers(array):
    """Hardware multipliers of the array itself."""
    return array.columns * array.array_rows


def _busy_cycles(stages, array):
    """Cycles of all stages, each as many as its windows take or its sums, whichever are more."""
    return sum(max(cycles) for cycles in _needed_cycles(stages, array))


def _least_cycles(stages, array):
    """Cycles in which the array sums: an inference takes more."""
    return sum(sums for _, sums in _needed_cycles(stages, array))


def _needed_cycles(stages, array):
    """For each stage, the cycles that its windows take, and its sums."""
    for stage in stages:
        patches, width, height = patches_of(stage, array), len(stage.region.columns), len(stage.region.rows)
        sums = ceil_div(width, patches.pixels) * patches.sum_words * ceil_div(stage.output_shape[2], array.lanes)
        yield height * width * patches.cycles, height * sums


def _lane_windows(scalings, lanes):
    """The window of each requantiser that every ``lanes``-th channel falls to."""
    windows = [4] * lanes
    for scaling in scalings:
        for n in range(min(lanes, len(scaling.window_bits))):
            windows[n] = max(windows[n], int(scaling.window_bits[n::lanes].max()))
    return tuple(windows)


def _signed_bits(magnitude):
    """Width of a signed number that holds every value up to ``magnitude`` either side of zero."""
    return int(magnitude).bit_length() + 1
