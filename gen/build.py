"""From a plan to a bitstream: core and top in Verilog, Yosys, nextpnr-ecp5, ecppack.

The PLL is set to the fastest clock that the routed design meets: its dividers are the only bits in which two clocks
differ (the serial port runs from the board's oscillator), so nothing has to be routed again.
"""

import json
import re
import shutil
import time
from pathlib import Path

from boards.pll import PLL, achievable
from boards.top import emit
from gen import tools
from gen.carry_chains import trim_carry_chains
from gen.errors import GenError
from gen.inputs import random_inputs
from gen.place_and_route import CELLS, TOOL_LIMIT_S, place_and_route
from gen.steps import Steps
from gen.waypoints import board_rows, place_waypoints
from hw.primitives import GATED_ADDER

__all__ = ["build", "count", "retune", "yosys_phase"]

#: What a run leaves in its folder; all of it is removed before the next.
_PRODUCTS = (
    *("top.bit", "top.v", "top.lpf", "top.json", "core.v", "gated_adder.v", "report.json"),
    *("yosys.log", "nextpnr*", "ecppack.log"),
)


def yosys_phase(line: str) -> str | None:
    """What Yosys starts to do at this line of its log, or None."""
    match = re.match(r"\d[\d.]*\. Executing (.+?)(?: pass| backend| frontend)?(?: \(.*)?\.?$", line.rstrip())
    return match[1] if match else None


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
        What nextpnr is asked for first, whatever the placement promises. Left out: what it promises, or somewhat less.

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
    best = place_and_route(board, directory, placer=placer, seeds=seeds, clock_mhz=clock_mhz, steps=steps)
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
    missing = [cell for cell in CELLS.values() if cell not in counts]
    if missing:
        raise GenError(f"nextpnr's log does not tell how many {', '.join(missing)} the design takes")
    return {
        name: {"used": int(counts[cell]), "available": int(available[cell])} for name, cell in CELLS.items()
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
        _write(netlist, json.dumps(design))


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
