"""Survey: many networks planned and simulated, a row for each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boards
from gen import batch
from gen.errors import GenError
from gen.inputs import load_inputs, random_inputs
from gen.passes import lower
from gen.plan import plan
from gen.results import result_folder, write_report
from gen.simulate import simulate
from gen.source import resolve
from gen.steps import Steps

__all__ = ["COLUMNS", "Survey", "cells", "label", "models_of", "reason", "totals"]

#: Titles behind the model's, and the widths of their columns.
COLUMNS = (
    ("exact", 6), ("inputs", 6), ("cycles", 11), ("measured", 11), ("use", 6),
    ("feature bytes", 13), ("weight bytes", 12), ("seconds", 8),
)  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """What to do with each network.

    Parameters
    ----------
    board : str
        Where to plan it for, by name.
    folding : bool
        Whether constant channels fold away.
    packing : bool or None
        Whether two MACs share a multiplier; None: where the plan is the better for it.
    array : (int, int) or None
        Fixes the array.
    inputs : Path or None
        A folder of inputs, of which those named ``NETWORK__*.npy`` are the network's.
    count, seed : int, int
        How many inputs to draw at random besides; one if there are no others.
    directory : Path
        Takes a folder for each network.
    """

    board: str
    folding: bool
    packing: bool | None
    array: tuple[int, int] | None
    inputs: Path | None
    count: int
    seed: int
    directory: Path

    def reports(self, models: list[str | None], jobs: int = 1) -> Iterator[tuple[int, dict]]:
        """The number of each of ``models`` and its report, as they finish; ``jobs`` run at a time."""
        return batch.reports(self.report, models, jobs, label)

    def report(self, model: str | None) -> dict:
        """The report on ``model``; where there is none, its name and the ``error``."""
        name = label(model)
        with batch.prefixed(name):
            try:
                network = lower(resolve(model), folding=self.folding)
                name = network.name
                return self._simulated(network)
            except Exception as error:  # even a bug should not keep the others from being looked at
                return batch.failure(name, error)

    def _simulated(self, network):
        steps, board = Steps(), boards.get(self.board)
        with steps.step("plan", "Plan"):
            planned = plan(network, board, array=self.array, packing=self.packing)
        folder = result_folder(network, board, self.directory)
        report = simulate(planned, self._inputs_of(network), directory=folder)
        report["seconds"] = steps.seconds | report["seconds"]
        write_report(folder, report)
        return report

    def _inputs_of(self, network):
        files = sorted(self.inputs.glob("*.npy")) if self.inputs else []
        own = [path for path in files if path.name.startswith(f"{network.name}__")]
        inputs = load_inputs(network, own) if own else []
        return inputs + random_inputs(network, self.count or int(not inputs), self.seed)


def models_of(arguments: Iterable[str]) -> list[str]:
    """The models that ``arguments`` name: a folder stands for all .tflite files in it.

    Raises
    ------
    GenError
        If a folder has none.
    """
    models = []
    for argument in arguments:
        if not Path(argument).is_dir():
            models.append(argument)
            continue
        found = sorted(str(path) for path in Path(argument).iterdir() if path.suffix.lower() == ".tflite")
        if not found:
            raise GenError(f"{argument}: there is no .tflite file in this folder")
        models += found
    return models


def label(model: str | None) -> str:
    """What to call a MODEL that may never be read."""
    if model is None:
        return "digits"
    return Path(model).stem if Path(model).suffix.lower() in (".tflite", ".toml") else model


def reason(report: dict) -> str | None:
    """Why a network failed, or None."""
    for key in ("error", "difference"):
        if key in report:
            return report[key]
    if report["cycles"] != report["cycles_measured"]:
        return f"{report['cycles']:,} cycles planned, {report['cycles_measured']:,} measured"
    return None


def cells(report: dict) -> list[str]:
    """What a report's row says in each column."""
    return [
        "yes" if report["bit_exact"] else "NO",
        f"{report['inferences']:,}",
        f"{report['cycles']:,}",
        f"{report['cycles_measured']:,}",
        f"{report['utilisation']:.1%}",
        f"{report['feature_bytes']:,}",
        f"{report['weight_bytes']:,}",
        f"{_seconds(report):,.1f}",
    ]


def totals(reports: list[dict]) -> str:
    """All reports in a line."""
    run = [report for report in reports if "error" not in report]
    exact = sum(report["bit_exact"] for report in run)
    inferences = sum(report["inferences"] for report in run)
    seconds = sum(map(_seconds, run))
    return (
        f"{len(reports)} networks: {exact} bit-exact, {len(run) - exact} not, {len(reports) - len(run)} failed; "
        f"{inferences:,} inferences, {seconds:,.1f} s"
    )


def _seconds(report):
    return sum(report["seconds"].values())
