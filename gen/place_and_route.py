"""nextpnr-ecp5: places a design, routes it, and routes it again for faster clocks.

What is on slow paths of a placement is moved (:mod:`gen.refine`), and the router finds ways for a clock that it can
surely reach. Then, clock by clock, it looks for other ways for those wires that are too slow, from the ways that it
has: what wires contend for settles better step by step than at once, each end is a design to fall back on, and only
when all wires have ways does nextpnr know how much each has to drive.
"""

import json
import math
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
from gen.placement import CORE_NET, Placement, clock_nets
from gen.refine import refine
from gen.steps import Steps

__all__ = ["CELLS", "TOOL_LIMIT_S", "Routed", "RouterWatch", "nextpnr_phase", "place_and_route", "readable"]

#: Longest that synthesis, or a run of nextpnr, may take.
TOOL_LIMIT_S = 2 * 3600

#: Iterations that the router gets to come nearer to an end. Asked for a clock that is out of reach, it would go on for
#: ever with a few wires.
PATIENCE = 50

#: What is asked for first, of the clock that the placement promises: of more, the router seldom finds an end at once.
#: What next, of the clock that was reached, or of what was asked for where none was reached yet; and how often.
FIRST_SHARE, FASTER, SLOWER, TRIES = 0.9, 1.05, 0.93, 3

#: Settings of nextpnr that no option sets. A net may go this many tiles beyond the box around its pins, half of the
#: 85F; with 3, as it would be, nets in a crowd cannot go round it. The way that is left to go counts 60 % of what
#: nextpnr predicts, which is twice what long wires take; with 125 %, as it would be, the first way found is taken.
#: Wires that another net has cost 9 times as much from the beginning; with 1.5 times, as it would be, it takes twice
#: the iterations. And where the placer has only to take places as they are, it need not anneal.
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
    """A design that nextpnr has written, for nextpnr to read and route with ``--no-pack --placer sa``.

    Inputs that nothing drives would get lost, and ports would be packed anew. Places become those that the placer has
    to take: of cells that have a place when they are read, nextpnr does not know yet which are carries and memory, and
    the router would swap their inputs. Clocks get their ways on global networks anew.
    """
    top = design["modules"]["top"]
    for cell in top["cells"].values():
        cell["attributes"]["BEL"] = cell["attributes"].pop("NEXTPNR_BEL")
        for port, bits in cell["connections"].items():
            if not bits:
                cell["connections"][port] = ["x"]
    for name in clock_nets(design):
        top["netnames"][name]["attributes"].pop("ROUTING", None)
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
        What is asked for, whatever the placement promises.
    steps : Steps
        Gets the step ``place_and_route``.

    Raises
    ------
    GenError
        If nextpnr fails with every seed.
    """
    title = "place and route" if seeds == 1 else f"place and route, {seeds} seeds"
    route = partial(_one_seed, board, directory, seeds, clock_mhz, placer)
    with steps.step("place_and_route", title) as say, ThreadPoolExecutor(min(seeds, os.cpu_count() or 1)) as pool:
        runs = [pool.submit(route, seed, say) for seed in range(1, seeds + 1)]
        failures = [error for run in runs if (error := run.exception()) is not None]
        for error in failures:
            if not isinstance(error, GenError):
                raise error
        if len(failures) == seeds:
            raise failures[0]
    return max((run.result() for run in runs if run.exception() is None), key=lambda routed: routed.fmax_mhz)


def _one_seed(board, directory, seeds, clock_mhz, placer, seed, say):
    """Place with one seed and route: for ``clock_mhz``, or for less than the placement promises, and again for more."""
    name, label = f"nextpnr-{seed}", f"seed {seed}: " if seeds > 1 else ""
    netlist, constraints, written, config, told = (
        f"{name}-{what}" for what in ("read.json", "read.lpf", "written.json", "written.config", "report.json")
    )

    def nextpnr(stage, *more, watch=lambda line: None):
        def on_line(line):
            if phase := nextpnr_phase(line):
                say(label + phase)
            watch(line)

        arguments = [*board.nextpnr_arguments, "--seed", str(seed), "--timing-allow-fail", *more]
        log = f"nextpnr-{stage}.log" if seeds == 1 else f"{name}-{stage}.log"
        tools.run("nextpnr-ecp5", arguments, directory=directory, log=log, on_line=on_line, timeout_s=TOOL_LIMIT_S)

    def read(file):
        return json.loads((directory / file).read_text(encoding="utf-8"))

    def keep(design):
        (directory / netlist).write_text(json.dumps(readable(design)), encoding="utf-8")

    nextpnr("place", "--json", "top.json", "--lpf", "top.lpf", *placer, "--no-route", "--write", written)
    placement = Placement(read(written))
    refine(placement, lambda text: say(label + text))
    keep(placement.design())

    def route(turn, asked_mhz, *more, **watch):
        last = turn >= TRIES
        more = more if last else (*more, "--write", written)
        clocks = {net: board.clock_in_hz / 1e6 for net in placement.clock_nets} | {CORE_NET: asked_mhz}
        lines = [f'FREQUENCY NET "{net}" {mhz:.2f} MHZ;\n' for net, mhz in clocks.items()]
        (directory / constraints).write_text("".join(lines), encoding="utf-8")
        nextpnr(
            f"route-{turn}", "--json", netlist, "--lpf", constraints, "--no-pack", "--placer", "sa",
            "--router", "router2", "--textcfg", config, "--report", told, *more, **watch,
        )  # fmt: skip
        routed = Routed.from_report(seed, placement.clock_mhz, read(told))
        if best is None or routed.fmax_mhz > best.fmax_mhz:
            if not last:
                keep(read(written))
            (directory / config).replace(directory / f"{name}.config")
            return routed
        return best

    best, beyond_mhz = None, math.inf
    asked_mhz = clock_mhz or _possible(board, FIRST_SHARE * placement.clock_mhz)
    for turn in range(1, TRIES + 1):
        try:
            better = route(turn, asked_mhz, "--tmg-ripup", watch=RouterWatch())
        except tools.StopTool:
            better = best
        if better is best:
            beyond_mhz = asked_mhz
        best = better
        if best is None:
            asked_mhz = _possible(board, SLOWER * beyond_mhz)
        elif clock_mhz and best.fmax_mhz >= clock_mhz:
            break
        else:
            halfway_mhz = _possible(board, (best.fmax_mhz + beyond_mhz) / 2)
            asked_mhz = min(clock_mhz or _possible(board, FASTER * best.fmax_mhz), halfway_mhz)
            if asked_mhz <= best.fmax_mhz:
                break
    return best or route(TRIES + 1, asked_mhz)  # where nothing holds it to the clock any more


def _possible(board, mhz):
    """The fastest clock of the PLL that is no faster, but for its slowest."""
    return achievable(board.clock_in_hz, max(mhz * 1e6, CORE_HZ[0])).clock_mhz
