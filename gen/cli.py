"""The command line: ``python -m gen build|simulate|check|table|resources [MODEL]``, ``survey MODEL...``, and
``benchmark MODELS``.

Results go to stdout, progress and errors to stderr. Exit status 0 for success, 1 for failure, 2 for wrong usage. What a
verb needs is imported when it runs, so that ``--help`` and ``table`` answer at once.
"""

import functools
import inspect
import json
import re
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

import boards
from boards.pll import CORE_HZ
from gen.errors import GenError, is_bug, message_of
from gen.results import file_name, result_folder, write_report

__all__ = ["main"]

#: Digits that ``simulate`` runs without a model, and how many of them it draws.
DIGITS = 100
DIGITS_DRAWN = 4

MODEL_HELP = """MODEL is a .tflite file, a layer table (NAME.toml) or a builder such as
mobilenet_v1:alpha=0.25,resolution=96,classes=2; left out, the built-in digits network."""


class ArraySize(click.ParamType):
    """``KxN`` as a tuple of two positive integers."""

    name = "KxN"

    def convert(self, value, param, ctx):
        match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", value)
        if match is None:
            self.fail(f"must be two positive numbers as in 16x18, not {value!r}", param, ctx)
        return int(match[1]), int(match[2])


class BoardName(click.ParamType):
    """A board by its name."""

    name = "NAME"

    def convert(self, value, param, ctx):
        if isinstance(value, boards.Board):
            return value
        try:
            return boards.get(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


#: What an option that is a switch is to Python.
_SWITCH = {"on": True, "off": False, "auto": None}


def _switch(name, positions, text):
    """An option that is at one of ``positions``, the first unless it is said."""
    return click.option(
        name,
        type=click.Choice(positions),
        callback=lambda ctx, param, value: _SWITCH[value],
        default=positions[0],
        show_default=True,
        help=text,
    )


_SWITCHES = (
    _switch("--folding", ("on", "off"), "Whether channels that cannot change fold away."),
    _switch("--packing", ("auto", "on", "off"), "Whether two MACs share a multiplier; auto: where it is faster."),
)
#: What a verb takes: a ``model``, many ``models``, or a folder of a list's ``models``.
MODEL = click.argument("model", required=False), *_SWITCHES
MODELS = click.argument("models", nargs=-1), *_SWITCHES
FOLDER = (click.argument("models", type=click.Path(exists=True, file_okay=False, path_type=Path)),)


def verb(*options, takes=MODEL):
    """Make a function a verb of :func:`main`: what it ``takes``, what all verbs share, ``options``, tidy failures."""

    def decorate(function):
        @functools.wraps(function)
        def run(*, verbose, **arguments):
            try:
                return function(**arguments)
            except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise
            except KeyboardInterrupt:
                sys.exit(130)
            except Exception as error:
                message = message_of(error)
                if is_bug(error) and not verbose:
                    message += "\nThis is a bug; run again with -v for the traceback."
                if verbose:
                    traceback.print_exc()
                click.echo(f"error: {message}", err=True)
                sys.exit(1)

        shared = (
            click.option("--board", type=BoardName(), default="ulx3s", show_default=True, help="Board to plan for."),
            click.option(
                "-o", "directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help=OUTPUT_HELP
            ),
            click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
            *takes,
            *options,
            click.option("-v", "verbose", is_flag=True, help="Show the traceback of a failure."),
        )
        for option in reversed(shared):
            run = option(run)
        about_model = "" if takes is FOLDER else f"\n\n{MODEL_HELP}"
        return main.command(help=f"{inspect.cleandoc(function.__doc__)}{about_model}")(run)

    return decorate


OUTPUT_HELP = """Folder for the results; build and simulate default to build/MODEL-BOARD, resources to synthesis/ in it,
survey makes a MODEL-BOARD for each model in DIR or else in build, benchmark one for each build in DIR or else in
build/benchmark, the others write nothing."""
ARRAY = click.option("--array", type=ArraySize(), help="Fix the MAC array: K inputs by N outputs.")
RANDOM = click.option(
    "--random", "count", type=click.IntRange(1), metavar="N", help="Draw N inputs at random.  [default: 1]"
)
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of --random.")
JOBS = click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Networks to run at a time.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main():
    """Turn a quantised MobileNet-class network into an FPGA accelerator.

    Bit for bit equal to TensorFlow Lite's reference kernels, on open tools.
    """


@verb(ARRAY)
def table(model, board, directory, as_json, folding, packing, array):
    """Print the layer table, where each layer runs, and the feature memory that it takes, with 8 lanes or N of --array.

    With -o also write it as DIR/MODEL.toml and its weights beside it.
    """
    from gen.table_file import save
    from gen.table_print import describe, render
    from gen.whereabouts import LANES, whereabouts

    network, lowered = _lowered(model, folding)
    if directory is not None:
        path = directory / f"{file_name(network.name)}.toml"
        save(lowered, path)
        click.echo(f"wrote {path}", err=True)
    k, n = array or (LANES, LANES)
    where = whereabouts(network, lowered, n, max(1, k // n))
    if packing is False:
        where = replace(where, unshared="--packing off")
    if as_json:
        _print_json(describe(where))
    else:
        _stdout().print(render(where))


@verb(ARRAY)
def check(model, board, directory, as_json, folding, packing, array):
    """Plan only: print whether the network fits the board, its cycles and its resources.

    Exit status 1 if it does not fit. With -o also write DIR/report.json.
    """
    network, planned = _plan(model, board, folding, packing, array)
    report = planned.report()
    if directory is not None:
        write_report(directory, report)
    if as_json:
        _print_json(report)
    else:
        _stdout().print(planned.explain())
    if not planned.fits:
        raise GenError(f"{network.name} does not fit {board.name}")


@verb(
    ARRAY,
    click.option(
        "--input",
        "paths",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="X.npy",
        help="Input of the model's own shape and type, or a batch of them; may be repeated.",
    ),
    RANDOM,
    SEED,
    click.option("--rtl", type=click.Path(path_type=Path), metavar="FILE", help="Simulate FILE in place of the core."),
)
def simulate(model, board, directory, as_json, folding, packing, array, paths, count, seed, rtl):
    """Run the network in Verilator and compare every layer with the golden model.

    Leaves core.v, output.npy and report.json in DIR. Without MODEL and inputs it reads held-out digits.
    """
    from gen.inputs import load_inputs, random_inputs
    from gen.simulate import simulate as run

    if paths and count:
        raise click.UsageError("--input and --random exclude each other.")
    if rtl is not None and not rtl.is_file():
        raise GenError(f"{rtl}: there is no such file")
    network, planned = _plan(model, board, folding, packing, array)
    labels = None
    if paths:
        inputs = load_inputs(network, paths)
    elif model is None and count is None:
        scans, labels = _digits()
        inputs = [{name: scan for name in network.inputs} for scan in scans]
    else:
        inputs = random_inputs(network, count or 1, seed)
    directory = directory or result_folder(network, board)
    report = run(planned, inputs, directory=directory, rtl=rtl)
    if labels is not None:
        outputs = np.load(directory / "output.npy")
        report["accuracy"] = float(np.mean(outputs.argmax(axis=-1) == labels))
        if not as_json:
            _draw_digits(scans, outputs)
    write_report(directory, report)
    _print_report(report, as_json)
    if not report["bit_exact"]:
        raise GenError(report["difference"])


@verb(
    ARRAY,
    click.option(
        "--inputs",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        help="Folder of inputs; those of a model are named MODEL__*.npy.",
    ),
    RANDOM,
    SEED,
    JOBS,
    takes=MODELS,
)
def survey(models, board, directory, as_json, folding, packing, array, inputs, count, seed, jobs):
    """Simulate each MODEL on all its inputs in a folder, on random ones, or both, and print a row as it finishes.

    A folder as MODEL stands for all .tflite files in it. Exit status 1 if anything differs or fails.
    """
    from gen import survey as kind

    models = kind.models_of(models) or [None]
    task = kind.Survey(board.name, folding, packing, array, inputs, count or 0, seed, directory or Path("build"))
    names = list(map(kind.label, models))
    if failed := _print_rows(kind, names, task.reports(models, jobs), as_json)[1]:
        raise GenError(f"{failed} of {len(names)} networks differ or fail")


@verb(
    ARRAY,
    click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Placements to try."),
    click.option(
        "--clock",
        "clock_mhz",
        type=click.FloatRange(*(hz // 1_000_000 for hz in CORE_HZ)),
        metavar="MHZ",
        help="Ask nextpnr for this core clock.",
    ),
    click.option("--no-verify", is_flag=True, help="Do not simulate the core first."),
)
def build(model, board, directory, as_json, folding, packing, array, seeds, clock_mhz, no_verify):
    """Build the bitstream, once a simulation of the core has shown no difference.

    Leaves top.bit, top.v, core.v, the tools' logs and report.json in DIR.
    """
    from gen.build import build as run

    _refuse_simulated(board)
    network, planned = _plan(model, board, folding, packing, array)
    directory = directory or result_folder(network, board)
    report = run(planned, directory=directory, verify=not no_verify, seeds=seeds, clock_mhz=clock_mhz)
    _print_report(report, as_json)


@verb(
    JOBS,
    click.option("--again", is_flag=True, help="Build also what DIR already holds."),
    click.option(
        "--list", "path", type=click.Path(path_type=Path), metavar="FILE", help="Another list than gen/benchmarks.toml."
    ),
    click.option(
        "--write",
        "page",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The page.  [default: DIR/benchmarks.md]",
    ),
    takes=FOLDER,
)
def benchmark(models, board, directory, as_json, jobs, again, path, page):
    """Build a list of published networks, print a row as each finishes, and write a page of Markdown about them.

    MODELS is a folder of the files that docs/models.md lists. Builds that DIR holds are kept, unless the core's Verilog
    or the tools have changed. What does not fit the board is told; exit status 1 if a build fails.
    """
    from gen import benchmark as kind
    from gen.benchmark_list import LIST, read_list
    from gen.benchmark_print import markdown

    _refuse_simulated(board)
    listed = read_list(path or LIST)
    directory = directory or Path("build/benchmark")
    task = kind.Benchmark(models, board.name, directory, again, jobs)
    names = [entry.name for entry in listed.entries]
    reports, failed = _print_rows(kind, names, task.reports(listed.entries), as_json)
    words = ["python -m gen benchmark MODELS --board", board.name, *(["--jobs", str(jobs)] if jobs > 1 else [])]
    command = " ".join([*words, *(["--list", path.name] if path else [])])
    page = page or directory / "benchmarks.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(markdown(listed, reports, board=board.name, command=command), encoding="utf-8")
    click.echo(f"wrote {page}", err=True)
    if failed:
        raise GenError(f"{failed} of {len(reports)} builds failed")


@verb(ARRAY)
def resources(model, board, directory, as_json, folding, packing, array):
    """Synthesise the design and count what it takes, beside what the plan estimates; places and routes nothing.

    Leaves core.v, top.v, top.json, the tools' logs and report.json in DIR.
    """
    from gen.build import count

    _refuse_simulated(board)
    network, planned = _plan(model, board, folding, packing, array)
    report = count(planned, directory=directory or result_folder(network, board) / "synthesis")
    if as_json:
        _print_json(report)
        return
    grid = Grid(box=SIMPLE)
    for number, title in enumerate(("resource", "estimated", "counted", "off by", "available")):
        grid.add_column(title, justify="right" if number else "left")
    for name, counts in report["resources"].items():
        estimated, used = report["resources_estimated"][name], counts["used"]
        off = f"{(estimated - used) / used:+.1%}" if used else ""
        grid.add_row(name, f"{estimated:,}", f"{used:,}", off, f"{counts['available']:,}")
    _stdout().print(grid)


def _refuse_simulated(board):
    if board.simulation_only:
        raise click.UsageError(f"--board {board.name} has no bitstream; it is for simulate, check and table.")


def _lowered(model, folding):
    """The table of ``model``, and the same as the hardware runs it."""
    from gen.passes import lower
    from gen.source import resolve

    network = resolve(model)
    lowered = lower(network, folding=folding)
    click.echo(f"{network.name}: {len(network.layers)} layers, {network.macs / 1e6:.2f} million MACs", err=True)
    return network, lowered


def _plan(model, board, folding, packing, array):
    """The table of ``model`` as the hardware runs it, and its plan."""
    from gen.plan import plan

    _, network = _lowered(model, folding)
    return network, plan(network, board, array=array, packing=packing)


def _digits():
    """Held-out scans and what they show."""
    from gen.digits import held_out

    scans, labels = held_out()
    return scans[:DIGITS], labels[:DIGITS]


def _draw_digits(scans, outputs):
    from gen.digits import draw

    for scan, scores in zip(scans[:DIGITS_DRAWN], outputs, strict=False):
        _stdout().print(draw(scan, scores), end="\n\n")


def _stdout():
    """A console on stdout; where that is no terminal, wide enough for every table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=240)


def _print_rows(kind, names, numbered, as_json):
    """Print a row for each report as it comes, then their totals and why some failed; or all of them as JSON.

    Parameters
    ----------
    kind : module
        Has ``COLUMNS``, ``cells``, ``totals`` and ``reason`` for such reports.
    names : list of str
        What the rows are called.
    numbered : iterable of (int, dict)
        A number in ``names``, and a report.
    as_json : bool
        Whether to print JSON and nothing else.

    Returns
    -------
    list of dict, int
        The reports in the order of ``names``, and how many failed.
    """
    from gen import batch

    width = max(map(len, ["model", *names]))
    say = (lambda text: None) if as_json else click.echo
    say(batch.header(kind, width))
    reports = [None] * len(names)
    for number, report in numbered:
        reports[number] = report
        say(batch.row(kind, names[number], report, width))
    say(f"\n{kind.totals(reports)}")
    failed = [(name, reason) for name, report in zip(names, reports, strict=True) if (reason := kind.reason(report))]
    for name, reason in failed:
        say(f"\n{name}: {reason}")
    if as_json:
        _print_json(reports)
    return reports, len(failed)


def _print_json(report):
    click.echo(json.dumps(report, indent=2))


def _print_report(report, as_json):
    """``report`` as JSON, or as one line an entry, lists apart."""
    if as_json:
        _print_json(report)
        return
    grid = Grid.grid(padding=(0, 2))
    for key, value in report.items():
        if isinstance(value, list):  # what ``check`` prints as tables
            continue
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for name, entry in entries:
            grid.add_row(Text(f"{key} {name}".strip().replace("_", " ")), Text(_show(entry)))
    _stdout().print(grid)


def _show(value):
    """A value of a report in a few characters."""
    match value:
        case {"used": used, "available": available}:
            return f"{used:,} of {available:,} ({used / available:.0%})" if available else f"{used:,}"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
