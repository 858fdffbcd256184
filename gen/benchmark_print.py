"""What ``benchmark`` found, for people: a page of Markdown."""

from collections.abc import Sequence

import boards
from gen.benchmark_list import KINDS, BenchmarkList
from gen.resources import RESOURCES
from gen.waits import WAITS

__all__ = ["markdown"]

_TITLES = (
    *("network", "task", "folding", "array", "packing", "cycles", "MHz", "routed MHz", "latency, ms", "use"),
    *("multipliers", "LUT4", "flip-flops", "block RAMs", "build"),
)


def markdown(listed: BenchmarkList, reports: list[dict], *, board: str, command: str) -> str:
    """The page: how ``reports``, one for each entry of ``listed``, came about, and tables of them.

    Parameters
    ----------
    listed : BenchmarkList
        The entries, and published figures to set beside them.
    reports : list of dict
        As :meth:`gen.benchmark.Benchmark.report` gives them.
    board : str
        What they were built for, by name.
    command : str
        What makes this page.
    """
    pairs = list(zip(listed.entries, reports, strict=True))
    parts = [f"# Benchmarks\n\n    {command}", _conditions(boards.get(board), reports)]
    parts.append(_table(_TITLES, 5, [_row(entry, report) for entry, report in pairs]))
    published = listed.published
    beside = [(entry, report, published[entry.network]) for entry, report in pairs if entry.network in published]
    if beside:
        parts += ["## Beside published figures", _SOURCE.format(source=listed.source)]
        titles = "network", "folding", "ms", *KINDS.values()
        parts.append(_table(titles, len(titles), [_beside(*known) for known in beside]))
        parts += ["### Inferences per second and multiplier", _PER_MULTIPLIER]
        kinds = [kind for kind in KINDS if any(_per_multiplier(figures, kind) for _, _, figures in beside)]
        titles = "network", "folding", "here", *(KINDS[kind] for kind in kinds)
        parts.append(_table(titles, len(titles), [_shares(*known, kinds) for known in beside]))
    built = [(entry, report) for entry, report in pairs if "resources_estimated" in report]
    if built:
        parts += ["## Where the cycles go", _CYCLES]
        parts.append(_table(("network", "folding", "busy", *WAITS), 2, [_cycles(*known) for known in built]))
        parts += ["## Estimates beside counts", _ESTIMATES]
        parts.append(_table(("network", "folding", *RESOURCES.values()), 2, [_estimates(*known) for known in built]))
    return "\n\n".join(parts) + "\n"


_CONDITIONS = """\
made this page; MODELS is a folder of the files that docs/models.md lists. Every build is the whole of
`python -m gen build`, for the board {board}, an {device} of speed grade {speed_grade}.

- **No silicon.** None of the bitstreams has run on a board yet.
- **cycles** are those of one inference, batch 1, as Verilator counted them; they are the plan's, and all layers are
  the golden model's, bit for bit.
- **MHz** is the clock that the PLL is set to: the fastest that it can make and that the routed design meets.
  **routed MHz** is what nextpnr's static timing analysis gives for that design.
- **latency** is cycles by MHz, from start to result, with the input in the accelerator's memory. What the host does is
  not counted: sending the input, reading the result, softmax, quantising and dequantising.
- **use** is the MACs a cycle, without those folded away, as a share of the array's K x N. Depthwise layers run beside
  the array, so it may pass 100 %.
- **multipliers** (MULT18X18D) and all to the right of them are nextpnr's counts of the whole design, the board's
  serial port included.
- **build** is the time from the model to the bitstream, simulation included; {sharing}.
- Tools: {tools}."""

_SOURCE = """\
Times of one inference in ms; of ours, the latency above. Others' were measured on the devices, and as they define it;
their multipliers, in brackets, are the DSP blocks that their designs take, where they are known. Source:
{source}."""

_PER_MULTIPLIER = """\
1000 / ms / multipliers. Only hardware multipliers count; any design, this one too, may multiply with LUTs besides."""

_CYCLES = """\
Cycles in which the array sums, and those in which it waits, by what it waits for: docs/design.md. `python -m gen check`
tells the same for each stage of a network."""

_ESTIMATES = """\
What the plan expected before any tool ran, how far off that was, and in brackets what nextpnr counted."""


def _conditions(board, reports):
    """How the figures came about."""
    built = [report for report in reports if "tools" in report]
    sharing = dict.fromkeys(_sharing(report.get("jobs"), report.get("processors")) for report in built)
    versions = {f"{tool} {version}" for report in built for tool, version in report["tools"].items()}
    return _CONDITIONS.format(
        board=board.name,
        device=board.device,
        speed_grade=board.speed_grade,
        sharing=", or ".join(sharing) or "nothing was built",
        tools=", ".join(sorted(versions)) or "none ran",
    )


def _sharing(jobs, processors):
    """How many builds had how many processors."""
    if jobs is None:
        return "what else ran meanwhile was not noted"
    count = f"{processors} processor{'s' if processors > 1 else ''}"
    return f"one at a time on {count}" if jobs == 1 else f"{jobs} at a time, which shared {count}"


def _row(entry, report):
    name = entry.network, entry.task, _switch(entry.folding)
    array = "x".join(map(str, entry.array)) if entry.array else ""
    if "missing" in report:
        return *name, array, _switch(entry.packing), f"does not fit: {'; '.join(report['missing'])}"
    if "error" in report:
        return *name, array, _switch(entry.packing), f"failed: {report['error'].splitlines()[0]}"
    used = {resource: counts["used"] for resource, counts in report["resources"].items()}
    seconds = round(sum(report["seconds"].values()))
    return (
        *name,
        f"{report['array']['k']}x{report['array']['n']}",
        _switch(report["packing"]),
        f"{report['cycles_measured']:,}",
        f"{report['clock_mhz']:.1f}",
        f"{report['fmax_mhz']:.1f}",
        _ms(report),
        f"{report['utilisation']:.1%}",
        *(f"{used[resource]:,}" for resource in ("mult", "lut", "ff", "ebr")),
        f"{seconds // 60} min {seconds % 60} s",
    )


def _beside(entry, report, figures):
    cells = ("; ".join(map(_figure, figures.get(kind, []))) for kind in KINDS)
    return entry.network, _switch(entry.folding), _ms(report), *cells


def _figure(figure):
    """A published figure in a few words."""
    told = [figure.device, figure.round, figure.note]
    multipliers = f" [{figure.multipliers}]" if figure.multipliers else ""
    return f"{figure.ms:g}{multipliers}, {', '.join(filter(None, told))}"


def _shares(entry, report, figures, kinds):
    here = ""
    if "fps" in report and (used := report["resources"]["mult"]["used"]):
        here = f"{report['fps'] / used:.1f}"
    return entry.network, _switch(entry.folding), here, *(_per_multiplier(figures, kind) for kind in kinds)


def _per_multiplier(figures, kind):
    known = [figure for figure in figures.get(kind, []) if figure.multipliers]
    return "; ".join(f"{figure.per_multiplier:.1f}, {figure.device}" for figure in known)


def _cycles(entry, report):
    sums = (sum(stage[kind] for stage in report["stages"]) for kind in ("busy", *WAITS))
    return entry.network, _switch(entry.folding), *(f"{cycles:,}" for cycles in sums)


def _estimates(entry, report):
    cells = []
    for resource in RESOURCES:
        estimate, counted = report["resources_estimated"][resource], report["resources"][resource]["used"]
        cells.append(f"{estimate:,}, {estimate / counted - 1:+.1%} [{counted:,}]" if counted else f"{estimate:,} [0]")
    return entry.network, _switch(entry.folding), *cells


def _ms(report):
    return f"{report['latency_us'] / 1000:,.3f}" if "latency_us" in report else "none"


def _switch(on):
    return {True: "on", False: "off", None: ""}[on]


def _table(titles: Sequence[str], left: int, rows: Sequence[Sequence[str]]) -> str:
    """A table whose first ``left`` columns begin at the left; rows may be short."""
    rule = f"|{'---|' * left}{'---:|' * (len(titles) - left)}"
    padded = ([*row, *[""] * (len(titles) - len(row))] for row in rows)
    head, *body = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in [titles, *padded])
    return "\n".join([head, rule, *body])
