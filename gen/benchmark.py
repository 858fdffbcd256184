"""Benchmark: every network of a list built, a row for each; builds that are there already are kept."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boards
from gen import batch, tools
from gen.benchmark_list import Entry
from gen.build import build
from gen.errors import FitError, GenError
from gen.passes import lower
from gen.plan import plan
from gen.results import result_folder, write_report
from gen.source import resolve
from gen.steps import Steps

__all__ = ["COLUMNS", "Benchmark", "cells", "kept_report", "reason", "totals"]

#: Titles behind the model's, and the widths of their columns.
COLUMNS = (
    ("build", 6), ("array", 6), ("cycles", 11), ("MHz", 6), ("routed", 6), ("ms", 9), ("use", 6),
    ("multipliers", 11), ("LUT4", 7), ("flip-flops", 10), ("block RAMs", 10), ("seconds", 8),
)  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """What to do with each entry of a list.

    Parameters
    ----------
    models : Path
        Folder of the networks, ``NAME.tflite``.
    board : str
        What to build for, by name.
    directory : Path
        Takes a folder for each entry.
    again : bool
        Whether to build also what is there already.
    jobs : int
        How many run at a time.
    """

    models: Path
    board: str
    directory: Path
    again: bool = False
    jobs: int = 1

    def reports(self, entries: list[Entry]) -> Iterator[tuple[int, dict]]:
        """The number of each of ``entries`` and its report, as they finish.

        Raises
        ------
        GenError
            Before anything runs, if the files of some networks are missing.
        """
        paths = sorted({self._path(entry) for entry in entries})
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise GenError(f"there is no {', no '.join(missing)}; docs/models.md says where these files come from")
        return batch.reports(self.report, entries, self.jobs, lambda entry: entry.name)

    def report(self, entry: Entry) -> dict:
        """The report of the build of ``entry``, which is also written beside it; ``kept`` tells whether it was there.

        Where there is none, its name and what is ``missing`` on the board, or the ``error``.
        """
        about = {"model": entry.network, "board": self.board, "task": entry.task, "folding": entry.folding}
        with batch.prefixed(entry.name):
            try:
                return about | self._built(entry)
            except FitError as error:
                return about | {"missing": error.problems}
            except Exception as error:  # even a bug should not keep the others from being built
                return about | batch.failure(entry.network, error)

    def _path(self, entry):
        return self.models / f"{entry.network}.tflite"

    def _built(self, entry):
        steps, board = Steps(), boards.get(self.board)
        with steps.step("plan", "Plan"):
            network = lower(resolve(str(self._path(entry))), folding=entry.folding)
            planned = plan(network, board, array=entry.array, packing=entry.packing)
        folder = result_folder(network, board, self.directory)
        folder = folder.with_name(folder.name + entry.options)
        if not self.again and (report := kept_report(planned, folder)):
            print(f"kept: {folder} holds this build", file=sys.stderr)
            return report | {"resources_estimated": planned.resources, "kept": True}
        report = build(planned, directory=folder, clock_mhz=entry.clock)
        seconds = steps.seconds | report["seconds"]
        report |= {"seconds": seconds, "jobs": self.jobs, "processors": len(os.sched_getaffinity(0))}
        write_report(folder, report)
        return report | {"kept": False}


def kept_report(planned, folder: Path) -> dict | None:
    """The report in ``folder``, if it is of a build of this plan, or None.

    It is if the core was simulated and routed, for the same board, with the tools that are installed now, and its
    Verilog is the plan's.
    """
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        core = (folder / "core.v").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if not report.keys() >= {"bit_exact", "fmax_mhz"} or report["board"] != planned.board.name:
        return None
    if any(tools.version(tool) != version for tool, version in report["tools"].items()):
        return None
    return report if core == planned.verilog() else None


def reason(report: dict) -> str | None:
    """Why a build failed, or None."""
    return report.get("error")


def cells(report: dict) -> list[str]:
    """What a report's row says in each column."""
    if "missing" in report:
        return [f"does not fit: {'; '.join(report['missing'])}"]
    array, used = report["array"], {resource: counts["used"] for resource, counts in report["resources"].items()}
    return [
        "kept" if report["kept"] else "made",
        f"{array['k']}x{array['n']}",
        f"{report['cycles_measured']:,}",
        f"{report['clock_mhz']:.1f}",
        f"{report['fmax_mhz']:.1f}",
        f"{report['latency_us'] / 1000:,.3f}",
        f"{report['utilisation']:.1%}",
        *(f"{used[resource]:,}" for resource in ("mult", "lut", "ff", "ebr")),
        f"{sum(report['seconds'].values()):,.0f}",
    ]


def totals(reports: list[dict]) -> str:
    """All reports in a line."""
    kept = sum(report.get("kept", False) for report in reports)
    missing, failed = (sum(key in report for report in reports) for key in ("missing", "error"))
    made = len(reports) - kept - missing - failed
    return f"{len(reports)} builds: {made} made, {kept} kept, {missing} without room on the board, {failed} failed"
