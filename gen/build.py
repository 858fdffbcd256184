"""From a plan to a bitstream: core and top in Verilog, Yosys, nextpnr-ecp5, ecppack.

The design is placed (with each seed), what is on slow paths is moved, and it is routed for the clock that it then
promises. The PLL is set to the fastest clock that the routed design meets, up or down: its dividers are the only bits
in which two clocks differ (the serial port runs from the board's oscillator), so nothing has to be routed again.
"""

import contextlib
import json
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from boards import Board
from boards.pll import PLL, achievable
from boards.top import CORE_CLOCK_NET, emit
from gen import tools
from gen.carry_chains import trim_carry_chains
from gen.errors import GenError
from gen.inputs import random_inputs
from gen.placement import CORE_NET, Placement
from gen.refine import refine
from gen.steps import Steps
from gen.waypoints import board_rows, place_waypoints
from hw.primitives import GATED_ADDER

__all__ = ["Routed", "RouterWatch", "build", "count", "nextpnr_phase", "retune", "yosys_phase"]

#: Longest that synthesis, or place and route of one seed, may take.
TOOL_LIMIT_S = 2 * 3600

#: Iterations that the router gets. Asked for a clock that is out of reach, it would go on for ever with a few wires;
#: designs that came out needed up to 166.
MOST_ITERATIONS = 180

#: From which iteration on, how many wires may be too slow: designs that came out had 320 at most, others 920 and more.
LATE_ITERATION, MOST_TOO_SLOW = 50, 600

#: How many more wires than at the best may be wrong, overused or too slow: beyond that they only become more.
MORE_WRONG = 1000

#: How much of the clock that a placement promises is asked for, and how much at most: of more, the router spoils what
#: it could have, and of less it leaves the rest.
PROMISED_SHARE, MOST_ASKED_MHZ = 0.97, 125.0

#: What is asked for next where the router could not do it, of the clock that was asked for; and how often.
NEXT_SHARE, TRIES = 0.94, 4

#: Settings of nextpnr that no option sets. A net may go this many tiles beyond the box around its pins, half of the
#: 85F; with 3, as it would be, nets in a crowd cannot go round it. The way that is left to go counts 60 % of what
#: nextpnr predicts, which is twice what long wires take; with 125 %, as it would be, the first way found is taken. And
#: where the placer has only to take places as they are, it need not anneal.
_SETTINGS = {
    "router2/bbMargin/x": 64,
    "router2/bbMargin/y": 32,
    "router2/estimateWeight": "0.6",
    "placer1/startTemp": "0.00000001",
}

#: What a run leaves in its folder; all of it is removed before the next.
_PRODUCTS = (
    *("top.bit", "top.v", "top.lpf", "top.json", "core.v", "gated_adder.v", "report.json"),
    *("yosys.log", "nextpnr*", "ecppack.log"),
)

#: nextpnr's names of what report.json counts.
_CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "mult": "MULT18X18D", "ebr": "DP16KD"}


def yosys_phase(line: str) -> str | None:
    """What Yosys starts to do at this line of its log, or None."""
    match = re.match(r"\d[\d.]*\. Executing (.+?)(?: pass| backend| frontend)?(?: \(.*)?\.?$", line.rstrip())
    return match[1] if match else None


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
        self._fewest = None

    def __call__(self, line: str):
        wrong = re.match(r"Info:\s+iter=(\d+) wires=\d+ overused=(\d+) .*tmgfail=(\d+)", line)
        if wrong:
            iteration, overused, too_slow = map(int, wrong.groups())
            count = overused + too_slow
            self._fewest = count if self._fewest is None else min(self._fewest, count)
            endless = iteration >= MOST_ITERATIONS and count
            hopeless = iteration >= LATE_ITERATION and too_slow > MOST_TOO_SLOW
            if endless or hopeless or count > self._fewest + MORE_WRONG:
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
                for name, cell in _CELLS.items()
            },
            critical_path={
                "from": f"{begin['cell']}.{begin['port']}",
                "to": f"{end['cell']}.{end['port']}",
                "delay_ns": round(sum(delay.values()), 3),
                "logic_ns": round(delay["logic"], 3),
                "routing_ns": round(delay["routing"], 3),
            },
        )


def retune(config: str, pll: PLL) -> str:
    """nextpnr's textual configuration with the dividers of its one PLL set to ``pll``.

    Trellis writes a divider as one less than its value, a phase as it is.

    Raises
    ------
    ValueError
        If a word of the PLL is not there exactly once.
    """
    for name, value in pll.parameters.items():
        word = value - 1 if name.endswith("_DIV") else value
        config, count = re.subn(rf"(?m)^(word: {name} )[01]{{7}}$", rf"\g<1>{word:07b}", config)
        if count != 1:
            raise ValueError(f"configuration must hold one PLL, but has {name} {count} times")
    return config


def build(plan, *, directory: Path, verify: bool = True, seeds: int = 1, clock_mhz: float | None = None) -> dict:
    """Make the bitstream of ``plan`` in ``directory``; returns the report, which is written there too.

    Leaves ``top.bit``, ``top.v``, ``core.v``, ``top.lpf``, the tools' logs and ``report.json``. Whatever an earlier run
    left is removed first, so that a failure leaves no ``top.bit``.

    Parameters
    ----------
    plan : Plan
        Network and board, and the core's Verilog.
    directory : Path
        Made if need be.
    verify : bool
        Whether to simulate the core's Verilog on one random input first.
    seeds : int
        Number of nextpnr seeds to try, as many side by side as there are processors; the fastest design is kept.
    clock_mhz : float, optional
        What nextpnr is asked for, whatever the placement promises. Left out: nearly what it promises.

    Raises
    ------
    GenError
        If the board exists only for simulation, the simulated core's outputs are not the golden model's or its
        cycles not the plan's, or a tool fails.
    """
    board = plan.board
    if seeds < 1:
        raise GenError(f"seeds must be at least 1, not {seeds}")
    _begin(board, directory)
    versions = {tool: tools.version(tool) for tool in ("yosys", "nextpnr-ecp5", "ecppack")}

    steps = Steps()
    with steps.step("emit", "core's Verilog"):
        _write(directory / "core.v", plan.verilog())
    verified = {}
    if verify:
        versions["verilator"] = tools.version("verilator")
        verified = _verify(plan, directory / "simulation", steps)
    _synthesise(plan, directory, steps)
    # The placer for designs whose multipliers and block RAMs have fixed places (docs/place_and_route.md).
    placer = ("--placer", "static") if plan.places_on_die.columns else ()
    best = _place_and_route(partial(_route, board, directory, seeds, clock_mhz, placer), seeds, steps)
    pll = _fastest(board, best)
    with steps.step("pack", "bitstream"):
        config = directory / f"nextpnr-{best.seed}.config"
        _write(config, retune(config.read_text(encoding="utf-8"), pll))
        _write_top(directory, board, pll)
        _pack(directory, config.name)

    planned = plan.report()
    latency_us = plan.cycles / pll.clock_mhz
    report = {
        **planned,
        **verified,
        "clock_mhz": pll.clock_mhz,
        "clock_mhz_asked": best.asked_mhz,
        "clock_mhz_promised": best.promised_mhz,
        "fmax_mhz": best.fmax_mhz,
        "timing_met": pll.clock_mhz <= best.fmax_mhz,
        "latency_us": latency_us,
        "fps": 1e6 / latency_us,
        "resources": best.resources,
        "resources_estimated": _estimated(planned),
        "critical_path": best.critical_path,
        "seed": best.seed,
        "tools": planned.get("tools", {}) | versions,
        "seconds": planned.get("seconds", {}) | steps.seconds,
    }
    _write(directory / "report.json", json.dumps(report, indent=2) + "\n")
    for pattern in ("top.json", "nextpnr-*.config", "nextpnr-*.json", "nextpnr-*.lpf"):
        for path in directory.glob(pattern):
            path.unlink()
    return report


def count(plan, *, directory: Path) -> dict:
    """What the design of ``plan`` takes, beside what was estimated: synthesised and packed, but not placed.

    Leaves ``core.v``, ``top.v``, ``top.lpf``, ``top.json`` (for nextpnr), the tools' logs and ``report.json``, whose
    ``resources`` are nextpnr's counts. Parameters are those of :func:`build`.

    Raises
    ------
    GenError
        If the board exists only for simulation, or a tool fails.
    """
    board, steps = plan.board, Steps()
    _begin(board, directory)
    versions = {tool: tools.version(tool) for tool in ("yosys", "nextpnr-ecp5")}
    with steps.step("emit", "core's Verilog"):
        _write(directory / "core.v", plan.verilog())
    _synthesise(plan, directory, steps)
    with steps.step("pack", "packing"):
        arguments = [*board.nextpnr_arguments, "--json", "top.json", "--lpf", "top.lpf", "--pack-only"]
        tools.run("nextpnr-ecp5", arguments, directory=directory, log="nextpnr.log", timeout_s=TOOL_LIMIT_S)
    planned = plan.report()
    report = {
        **planned,
        "resources": _packed((directory / "nextpnr.log").read_text(encoding="utf-8")),
        "resources_estimated": _estimated(planned),
        "tools": versions,
        "seconds": steps.seconds,
    }
    _write(directory / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def _begin(board, directory):
    """Make the folder, without what an earlier run left."""
    if board.simulation_only:
        raise GenError(f"board {board.name!r} exists only for simulation and cannot be built; use simulate or check")
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in _PRODUCTS:
        for path in directory.glob(pattern):
            path.unlink()


def _estimated(planned):
    """What a planned report's resources were estimated at, by name."""
    return {name: counts["used"] for name, counts in planned["resources"].items()}


def _packed(log):
    """Resources used and available, of nextpnr's log."""
    counts = dict(re.findall(r"(?m)^Info:\s+(\w+):\s+(\d+)/\s*\d+", log))
    available = dict(re.findall(r"(?m)^Info:\s+(\w+):\s+\d+/\s*(\d+)", log))
    missing = [cell for cell in _CELLS.values() if cell not in counts]
    if missing:
        raise GenError(f"nextpnr's log does not tell how many {', '.join(missing)} the design takes")
    return {
        name: {"used": int(counts[cell]), "available": int(available[cell])} for name, cell in _CELLS.items()
    }  # fmt: skip


def _write(path, text):
    path.write_text(text, encoding="utf-8")


def _write_top(directory, board, pll):
    files = emit(board, pll)
    _write(directory / "top.v", tools.rtlil_to_verilog(files.rtlil))
    _write(directory / "top.lpf", files.lpf)


def _verify(plan, directory, steps):
    """Simulate the core on one input; what the report says of it, or GenError when anything differs."""
    from gen.simulate import simulate  # which itself imports this module

    begin = time.monotonic()
    outcome = simulate(plan, random_inputs(plan.table, 1), directory=directory)
    steps.seconds["simulate"] = round(time.monotonic() - begin, 2)
    if not outcome["bit_exact"]:
        difference = outcome["difference"]
        raise GenError(f"{plan.table.name}: the simulated core differs from the golden model: {difference}")
    if (measured := outcome["cycles_measured"]) != plan.cycles:
        raise GenError(f"{plan.table.name}: the simulated core took {measured} cycles, not {plan.cycles} as planned")
    return {name: outcome[name] for name in ("bit_exact", "cycles_measured", "host_load_us")}


def _synthesise(plan, directory, steps):
    """top.json of core.v and the board's top, with the clock that the plan expects."""
    with steps.step("top", "board's Verilog"):
        _write_top(directory, plan.board, achievable(plan.board.clock_in_hz, plan.clock_mhz_estimate * 1e6))
    with steps.step("synthesis", "synthesis") as say:

        def on_line(line):
            if phase := yosys_phase(line):
                say(phase)

        shutil.copy(GATED_ADDER, directory)
        # Cells read before the vendor's library carry a mark that makes the last check rebuild the flattened top.
        # Registers that are copies (hw.delay.copies) would be merged.
        script = (
            f"read_verilog core.v top.v {GATED_ADDER.name}; synth_ecp5 -top top -run begin:coarse; "
            "setattr -unset reprocess_after c:*; proc; setattr -set keep 1 a:copy %ci1:+[Q]; "
            "synth_ecp5 -top top -run coarse: -json top.json"
        )
        tools.run(
            "yosys", ["-p", script], directory=directory, log="yosys.log", on_line=on_line, timeout_s=TOOL_LIMIT_S
        )
        netlist = directory / "top.json"
        design = json.loads(netlist.read_text(encoding="utf-8"))
        top = design["modules"]["top"]
        trim_carry_chains(top)
        place_waypoints(top, board_rows(plan.board))
        top["settings"] = _SETTINGS
        _write(netlist, json.dumps(design))


def _place_and_route(route, seeds, steps):
    """``route`` with seeds 1 to ``seeds``; the fastest design, of equals the first."""
    title = "place and route" if seeds == 1 else f"place and route, {seeds} seeds"
    with steps.step("place_and_route", title) as say, ThreadPoolExecutor(min(seeds, os.cpu_count() or 1)) as pool:
        runs = [pool.submit(route, seed, say) for seed in range(1, seeds + 1)]
        failures = [error for run in runs if (error := run.exception()) is not None]
        for error in failures:
            if not isinstance(error, GenError):
                raise error
        if len(failures) == seeds:
            raise failures[0]
    return max((run.result() for run in runs if run.exception() is None), key=lambda routed: routed.fmax_mhz)


def _route(board: Board, directory, seeds, clock_mhz, placer, seed, say):
    """Place with one seed, and route, for ``clock_mhz`` or what the placement promises."""
    name = f"nextpnr-{seed}"
    label = f"seed {seed}: " if seeds > 1 else ""

    def nextpnr(stage, netlist, constraints, *more, watch=lambda line: None):
        def on_line(line):
            if phase := nextpnr_phase(line):
                say(label + phase)
            watch(line)

        arguments = [*board.nextpnr_arguments, "--json", netlist, "--lpf", constraints, "--seed", str(seed)]
        log = f"nextpnr-{stage}.log" if seeds == 1 else f"{name}-{stage}.log"
        tools.run(
            "nextpnr-ecp5",
            [*arguments, "--timing-allow-fail", *more],
            directory=directory, log=log, on_line=on_line, timeout_s=TOOL_LIMIT_S,
        )  # fmt: skip

    netlist, constraints = f"{name}-placed.json", f"{name}.lpf"
    nextpnr("place", "top.json", "top.lpf", *placer, "--no-route", "--write", netlist)
    placement = Placement(json.loads((directory / netlist).read_text(encoding="utf-8")))
    refine(placement, lambda text: say(label + text))
    design = placement.routable(_SETTINGS)
    _write(directory / netlist, json.dumps(design))
    others = [net for net in placement.clock_nets if net != CORE_NET]

    def route(asked_mhz, *more, **watch):
        clocks = {CORE_NET: asked_mhz, **dict.fromkeys(others, board.clock_in_hz / 1e6)}
        lines = [f'FREQUENCY NET "{net}" {mhz:.2f} MHZ;\n' for net, mhz in clocks.items()]
        _write(directory / constraints, "".join(lines))
        more = ("--textcfg", f"{name}.config", "--report", f"{name}.json", *more)
        arguments = ("--no-pack", "--placer", "sa", "--router", "router2", *more)
        nextpnr("route", netlist, constraints, *arguments, **watch)

    promised_mhz = min(PROMISED_SHARE * placement.clock_mhz, MOST_ASKED_MHZ)
    asked_mhz = clock_mhz or achievable(board.clock_in_hz, promised_mhz * 1e6).clock_mhz
    for _ in range(TRIES):
        with contextlib.suppress(tools.StopTool):
            route(asked_mhz, "--tmg-ripup", watch=RouterWatch())
            break
        asked_mhz = achievable(board.clock_in_hz, NEXT_SHARE * asked_mhz * 1e6).clock_mhz
    else:  # nothing holds it to the clock any more
        route(asked_mhz)
    report = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    return Routed.from_report(seed, placement.clock_mhz, report)


def _fastest(board, routed):
    """The PLL's fastest setting that the routed design meets."""
    try:
        return achievable(board.clock_in_hz, routed.fmax_mhz * 1e6)
    except ValueError as error:
        path = routed.critical_path
        raise GenError(
            f"the routed design reaches {routed.fmax_mhz:.2f} MHz only, too slow for a bitstream ({error}); its "
            f"slowest path is {path['from']} to {path['to']}, {path['delay_ns']} ns"
        ) from error


def _pack(directory, config):
    """Write top.bit, whole or not at all."""
    unfinished = directory / "top.bit.part"
    try:
        arguments = ["--compress", "--input", config, "--bit", unfinished.name]
        tools.run("ecppack", arguments, directory=directory, log="ecppack.log", timeout_s=TOOL_LIMIT_S)
        unfinished.replace(directory / "top.bit")
    finally:
        unfinished.unlink(missing_ok=True)
