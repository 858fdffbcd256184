"""A plan for people: why this array, where its cycles go, what it takes."""

from rich import box
from rich.console import Group
from rich.table import Table as Rows

from gen.layout import patches_of
from gen.packing import prevented
from gen.resources import RESOURCES, share
from gen.waits import WAITS

__all__ = ["render"]


def render(plan) -> Group:
    """A :class:`gen.plan.Plan` for a rich console: the arrays it was chosen from, its stages, its resources."""
    config = plan.config
    why = prevented(plan.table, plan.stages, config) if config.outputs == 1 else None
    return Group(
        f"{plan.table.name} on {plan.board.name} ({plan.board.device}): array {config.array_rows}x{config.lanes}, "
        f"{('one MAC', 'two MACs')[config.outputs - 1]} a multiplier, "
        f"{('one pixel', 'up to two pixels')[config.pixels - 1]} at a time, "
        f"{config.depthwise_lanes} depthwise lane{'s' * (config.depthwise_lanes != 1)}, "
        f"{config.requantisers} requantisers",
        *([f"multipliers cannot be shared: {why}"] if why else []),
        *([_candidates(plan)] if len(plan.candidates) > 1 else []),
        *([f"chosen: {plan.reason}"] if plan.reason else []),
        _stages(plan),
        f"{plan.cycles} cycles, exactly; about {plan.latency_us:.1f} us at {plan.clock_mhz_estimate:.1f} MHz",
        _resources(plan),
        *(f"does not fit: {problem}" for problem in plan.problems),
    )


def _candidates(plan):
    """A row for each array that was looked at, the fastest first."""
    rows = _grid(
        "array", "MACs a multiplier", "pixels", "cycles", "about us", "LUT4", "multipliers", "binds", "share", ""
    )
    for candidate in sorted(plan.candidates, key=lambda candidate: candidate.cycles):
        used, available = candidate.resources[candidate.binding], plan.board.resources[candidate.binding]
        rows.add_row(
            f"{candidate.k}x{candidate.n}",
            str(1 + candidate.packing),
            str(candidate.pixels),
            f"{candidate.cycles:,}",
            f"{candidate.latency_us:,.1f}",
            f"{candidate.resources['lut']:,}",
            str(candidate.resources["mult"]),
            RESOURCES[candidate.binding],
            f"{share(used, available):.0%}",
            "chosen" if candidate.chosen else "" if candidate.fits else "does not fit",
            style="" if candidate.fits else "dim",
        )
    return rows


def _stages(plan):
    """A row for each stage: where its cycles go; and their sums, which are the inference's."""
    waits = [cause for cause in WAITS if any(cycles.waits.get(cause) for cycles in plan.stage_cycles)]
    rows = _grid("stage", "patches", "output", "begins", "cycles", "array busy", *waits)
    for stage, cycles in zip(plan.stages, plan.stage_cycles, strict=True):
        patches = patches_of(stage, plan.config)
        pixels = "" if patches.pixels == 1 else f" / {patches.pixels}"
        rows.add_row(
            stage.name,
            f"{patches.words} x {plan.config.array_rows}{pixels}",
            "x".join(map(str, stage.output_shape)),
            str(cycles.begin),
            str(cycles.cycles),
            f"{cycles.busy} {cycles.busy / cycles.cycles:4.0%}",
            *(str(cycles.waits.get(cause, "")) for cause in waits),
        )
    busy = sum(cycles.busy for cycles in plan.stage_cycles)
    totals = (sum(cycles.waits.get(cause, 0) for cycles in plan.stage_cycles) for cause in waits)
    rows.add_section()
    rows.add_row("total", "", "", "", str(plan.cycles), f"{busy} {busy / plan.cycles:4.0%}", *map(str, totals))
    return rows


def _resources(plan):
    rows = _grid("resource", "needs about", "available")
    for name, available in plan.board.resources.items():
        rows.add_row(RESOURCES[name], str(plan.resources[name]), str(available))
    return rows


def _grid(*titles):
    """An empty table, its first column to the left."""
    rows = Rows(box=box.SIMPLE)
    for number, title in enumerate(titles):
        rows.add_column(title, justify="right" if number else "left")
    return rows
