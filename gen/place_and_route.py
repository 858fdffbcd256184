"""nextpnr-ecp5: places a design, and routes it for several clocks.

What is on slow paths of a placement is moved (:mod:`gen.refine`). From there the router is asked for two clocks, side
by side, between those that it surely reaches and those that it hardly does; then for two more, between the fastest that
it reached and the slowest that it did not. All runs begin from the placement, for nextpnr takes long to read routes.
"""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from boards import Board
from boards.pll import CORE_HZ, achievable
from boards.top import CORE_CLOCK_NET
from gen import tools
from gen.errors import GenError
from gen.placement import CORE_NET, Placement
from gen.refine import refine
from gen.steps import Steps

__all__ = ["CELLS", "TOOL_LIMIT_S", "Routed", "RouterWatch", "nextpnr_phase", "place_and_route", "readable"]

#: Longest that synthesis, or a run of nextpnr, may take.
TOOL_LIMIT_S = 2 * 3600

#: Iterations that the router gets to come nearer to an end. Asked for a clock that is out of reach, it would go on for
#: ever with a few wires.
PATIENCE = 50

#: Between which clocks the router's best is looked for, of what the placement promises, and in how many rounds.
SLOWEST, FASTEST, ROUNDS = 0.8, 1.01, 2

#: Settings of nextpnr that no option sets. A net may go this many tiles beyond the box around its pins, half of the
#: 85F; with 3, as it would be, nets in a crowd cannot go round it. The way that is left to go counts 60 % of what
#: nextpnr predicts, which is twice what long wires take; with 125 %, as it would be, the first way found is taken.
#: Wires that another net has cost 9 times as much from the beginning; with 1.5 times, as it would be, twice as many are
#: shared after the first iteration. And where the placer has only to take places as they are, it need not anneal.
SETTINGS = {
    "router2/bbMargin/x": 64,
    "router2/bbMargin/y": 32,
    "router2/estimateWeight": "0.6",
    "router2/initCurrCongWeight": "8",
    "placer1/startTemp": "0.00000001",
}

#: nextpnr's names of what report.json counts.
CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "mult": "MULT18X18D", "ebr": "DP16KD"}


def nextpnr_phase(line: str) -> str | None:
    """What nextpnr does at this line of its log, or None."""
    for pattern, text in (
        (r"Info: Packing (.+?)\.\.", "packing {}"),
        (r"Info:\s+at iteration #(\d+), type ALL", "placing, iteration {}"),
        (r"Info: iter=(\d+) steplen=", "placing, iteration {}"),
        (r"Info:\s+at iteration #(\d+): temp", "refining the placement, iteration {}"),
        (r"Info:\s+iter=(\d+) wires=\d+ overused=(\d+)", "routing, iteration {}, {} wires overused"),
        (r"Info: Running router1 to check", "checking the routes"),
    ):
        if match := re.match(pattern, line):
            return text.format(*match.groups())
    return None


class RouterWatch:
    """Looks at nextpnr's log; calling it with a line ends the tool where the router makes no headway.

    Raises
    ------
    StopTool
        From the call.
    """

    def __init__(self):
        self._fewest, self._since = None, 0

    def __call__(self, line: str):
        wrong = re.match(r"Info:\s+iter=(\d+) wires=\d+ overused=(\d+) .*tmgfail=(\d+)", line)
        if wrong:
            iteration, overused, too_slow = map(int, wrong.groups())
            count = overused + too_slow
            if self._fewest is None or count < self._fewest:
                # At 0 all ways are bound, net by net; where one's old way is another's new one, it goes on.
                self._fewest, self._since = count or None, iteration
            if iteration >= self._since + PATIENCE:
                raise tools.StopTool


@dataclass(frozen=True)
class Routed:
    """One routed design, as nextpnr reports it.

    Parameters
    ----------
    seed : int
        nextpnr's.
    promised_mhz, asked_mhz, fmax_mhz : float
        Clock of the core that the placement promised, that was asked for, and that was reached.
    resources : dict
        ``{lut|ff|mult|ebr: {used, available}}``.
    critical_path : dict
        ``from``, ``to`` (cell.port), ``delay_ns``, ``logic_ns``, ``routing_ns`` of the core clock's slowest path.
    """

    seed: int
    promised_mhz: float
    asked_mhz: float
    fmax_mhz: float
    resources: dict[str, dict[str, int]]
    critical_path: dict[str, str | float]

    @classmethod
    def from_report(cls, seed: int, promised_mhz: float, report: dict) -> "Routed":
        """Read nextpnr's ``--report``.

        Raises
        ------
        GenError
            If the core's clock is not in it, or another clock misses its timing.
        """
        for net, result in report["fmax"].items():
            if net != CORE_NET and result["achieved"] < result["constraint"]:
                raise GenError(f"clock {net} reaches {result['achieved']:.2f} MHz of {result['constraint']:.2f} MHz")
        if CORE_NET not in report["fmax"]:
            raise GenError(f"nextpnr reports no clock {CORE_CLOCK_NET!r}: the core holds no register")
        edge = f"posedge {CORE_NET}"
        path = next(path["path"] for path in report["critical_paths"] if path["from"] == path["to"] == edge)
        delay = {"logic": 0.0, "routing": 0.0}
        for arc in path:
            delay["routing" if arc["type"] == "routing" else "logic"] += arc["delay"]
        begin, end = path[0]["from"], path[-1]["to"]
        utilisation = report["utilization"]
        return cls(
            seed=seed,
            promised_mhz=promised_mhz,
            asked_mhz=report["fmax"][CORE_NET]["constraint"],
            fmax_mhz=report["fmax"][CORE_NET]["achieved"],
            resources={
                name: {"used": utilisation[cell]["used"], "available": utilisation[cell]["available"]}
                for name, cell in CELLS.items()
            },
            critical_path={
                "from": f"{begin['cell']}.{begin['port']}",
                "to": f"{end['cell']}.{end['port']}",
                "delay_ns": round(sum(delay.values()), 3),
                "logic_ns": round(delay["logic"], 3),
                "routing_ns": round(delay["routing"], 3),
            },
        )


def readable(design: dict) -> dict:
    """A placed design that nextpnr has written, for nextpnr to read and route with ``--no-pack --placer sa``.

    Inputs that nothing drives would get lost, and ports would be packed anew. Places become those that the placer has
    to take: of cells that have a place when they are read, nextpnr does not know yet which are carries and memory, and
    the router would swap their inputs.
    """
    top = design["modules"]["top"]
    for cell in top["cells"].values():
        cell["attributes"]["BEL"] = cell["attributes"].pop("NEXTPNR_BEL")
        for port, bits in cell["connections"].items():
            if not bits:
                cell["connections"][port] = ["x"]
    top["ports"], top["settings"] = {}, SETTINGS
    return design


def place_and_route(
    board: Board, directory: Path, *, placer: tuple[str, ...], seeds: int, clock_mhz: float | None, steps: Steps
) -> Routed:
    """Place and route ``top.json`` and ``top.lpf`` in ``directory`` with seeds 1 to ``seeds``; the fastest design.

    Leaves logs and, of the seed that is returned, ``nextpnr-SEED.config``.

    Parameters
    ----------
    board : Board
        Its nextpnr arguments and clock.
    directory : Path
        Where everything is.
    placer : tuple of str
        nextpnr's arguments.
    seeds : int
        As many are tried side by side as there are processors.
    clock_mhz : float, optional
        What is asked for first, whatever the placement promises.
    steps : Steps
        Gets the step ``place_and_route``.

    Raises
    ------
    GenError
        If nextpnr fails with every seed.
    """
    title = "place and route" if seeds == 1 else f"place and route, {seeds} seeds"
    processors = os.cpu_count() or 1
    with (
        steps.step("place_and_route", title) as say,
        ThreadPoolExecutor(processors) as tool_runs,
        ThreadPoolExecutor(seeds) as pool,
    ):
        one = partial(_one_seed, board, directory, seeds, clock_mhz, placer, tool_runs, say)
        runs = [pool.submit(one, seed) for seed in range(1, seeds + 1)]
        failures = [error for run in runs if (error := run.exception()) is not None]
        for error in failures:
            if not isinstance(error, GenError):
                raise error
        if len(failures) == seeds:
            raise failures[0]
    return max((run.result() for run in runs if run.exception() is None), key=lambda routed: routed.fmax_mhz)


def _one_seed(board, directory, seeds, clock_mhz, placer, tool_runs, say, seed):
    """Place with one seed, and route in ``tool_runs``: for ``clock_mhz``, or whatever clock is within reach."""
    name, label = f"nextpnr-{seed}", f"seed {seed}: " if seeds > 1 else ""
    placed, netlist = f"{name}-placed.json", f"{name}-refined.json"

    def nextpnr(stage, *more, what="", watch=lambda line: None):
        def on_line(line):
            if phase := nextpnr_phase(line):
                say(label + what + phase)
            watch(line)

        arguments = [*board.nextpnr_arguments, "--seed", str(seed), "--timing-allow-fail", *more]
        log = f"nextpnr-{stage}.log" if seeds == 1 else f"{name}-{stage}.log"
        tools.run("nextpnr-ecp5", arguments, directory=directory, log=log, on_line=on_line, timeout_s=TOOL_LIMIT_S)

    def read(file):
        return json.loads((directory / file).read_text(encoding="utf-8"))

    arguments = "--json", "top.json", "--lpf", "top.lpf", *placer, "--no-route", "--write", placed
    tool_runs.submit(nextpnr, "place", *arguments).result()
    placement = Placement(read(placed))
    refine(placement, lambda text: say(label + text))
    (directory / netlist).write_text(json.dumps(readable(placement.design())), encoding="utf-8")
    routed = {}

    def route(asked_mhz, stage, *more, **watch):
        """The routed design and its configuration, or None where the router makes no headway."""
        constraints, config, told = (f"{name}-{stage}.{kind}" for kind in ("lpf", "config", "json"))
        clocks = {net: board.clock_in_hz / 1e6 for net in placement.clock_nets} | {CORE_NET: asked_mhz}
        lines = [f'FREQUENCY NET "{net}" {mhz:.2f} MHZ;\n' for net, mhz in clocks.items()]
        (directory / constraints).write_text("".join(lines), encoding="utf-8")
        try:
            nextpnr(
                stage, "--json", netlist, "--lpf", constraints, "--no-pack", "--placer", "sa", "--router", "router2",
                "--textcfg", config, "--report", told, *more, what=f"{asked_mhz:.1f} MHz: ", **watch,
            )  # fmt: skip
        except tools.StopTool:
            return None
        return Routed.from_report(seed, placement.clock_mhz, read(told)), config

    if clock_mhz:
        low, high, asked = SLOWEST * clock_mhz, clock_mhz, [clock_mhz]
    else:
        low, high = SLOWEST * placement.clock_mhz, FASTEST * placement.clock_mhz
        asked = _between(board, low, high)
    for _ in range(ROUNDS):
        runs = [
            tool_runs.submit(route, mhz, f"route-{run}", "--tmg-ripup", watch=RouterWatch())
            for run, mhz in enumerate(asked, len(routed) + 1)
        ]
        routed |= {mhz: run.result() for mhz, run in zip(asked, runs, strict=True)}
        low = max((mhz for mhz, result in routed.items() if result), default=low)
        high = min((mhz for mhz, result in routed.items() if not result), default=high)
        best, config = max(filter(None, routed.values()), key=lambda result: result[0].fmax_mhz, default=(None, None))
        reached_mhz = best.fmax_mhz if best else 0
        asked = [mhz for mhz in _between(board, low, high) if mhz not in routed and mhz > reached_mhz]
    if not best:  # where nothing holds it to the clock any more
        best, config = tool_runs.submit(route, min(routed), f"route-{len(routed) + 1}").result()
    (directory / config).replace(directory / f"{name}.config")
    return best


def _between(board, low, high):
    """Clocks of the PLL, in MHz, at a third and two thirds of the way from ``low`` to ``high``, but for its slowest."""
    thirds = (max(low + n * (high - low) / 3, CORE_HZ[0] / 1e6) for n in (1, 2))
    return list(dict.fromkeys(achievable(board.clock_in_hz, mhz * 1e6).clock_mhz for mhz in thirds))
