"""The survey of many networks: what runs, what the rows say, and how it ends."""

import json
import re

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner

import gen.cli
import gen.survey
from gen import batch
from gen.errors import GenError
from gen.survey import Survey, models_of, reason, totals

#: What a simulation reports of a network that is right.
REPORT = {
    "model": "net",
    "bit_exact": True,
    "inferences": 3,
    "cycles": 12345,
    "cycles_measured": 12345,
    "utilisation": 0.256,
    "feature_bytes": 1152,
    "weight_bytes": 70000,
    "seconds": {"plan": 0.25, "verilator": 2.5},
}


def run(*arguments):
    return CliRunner().invoke(gen.cli.main, ["survey", *map(str, arguments)])


def write(folder, name, operator="conv2d", **fields):
    """A network of one layer as ``folder``/NAME.toml."""
    first = {"name": "first", "operator": operator, **fields}
    if operator == "conv2d":
        first |= {"channels": 3, "kernel": 3, "scale": 0.1, "zero_point": 0}
    inputs = {"x": {"shape": [5, 4, 2], "scale": 0.02, "zero_point": 1}}
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps({"name": name, "inputs": inputs, "layers": [first], "weights": {"seed": 1}}))
    return path


@pytest.fixture
def simulated(monkeypatch):
    """Stands for the simulation; the plans and inputs that reach it, by network, and what it is to report of each."""
    calls, changes = {}, {}

    def simulate(plan, inputs, *, directory):
        name = plan.table.name
        calls[name] = plan, inputs, directory
        if isinstance(changes.get(name), Exception):
            raise changes[name]
        return REPORT | {"model": name, "inferences": len(inputs)} | changes.get(name, {})

    monkeypatch.setattr(gen.survey, "simulate", simulate)
    return calls, changes


def lines(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_row_a_network_and_totals(simulated, tmp_path):
    calls, _ = simulated
    models = write(tmp_path, "one"), write(tmp_path, "two")
    result = run(*models, "--board", "sim", "--array", "2x2", "--random", 3, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert lines(result.stdout) == [
        "model exact inputs cycles measured use feature bytes weight bytes seconds",
        f"one yes 3 12,345 12,345 25.6% 1,152 70,000 {seconds_of(tmp_path / 'out' / 'one-sim')}",
        f"two yes 3 12,345 12,345 25.6% 1,152 70,000 {seconds_of(tmp_path / 'out' / 'two-sim')}",
        "",
        lines(result.stdout)[4],
    ]
    assert lines(result.stdout)[4].startswith("2 networks: 2 bit-exact, 0 not, 0 failed; 6 inferences, ")
    assert re.search(r"^one: Plan: \d+\.\d s$", result.stderr, re.MULTILINE)
    plan, inputs, directory = calls["one"]
    assert (plan.board.name, plan.config.lanes, plan.config.words) == ("sim", 2, 1)
    assert (len(inputs), directory) == (3, tmp_path / "out" / "one-sim")


@pytest.mark.parametrize("option, outputs", [("on", 2), ("off", 1)])
def test_packing_reaches_the_plan(simulated, tmp_path, option, outputs):
    calls, _ = simulated
    arguments = "--board", "sim", "--array", "2x2", "--packing", option, "-o", tmp_path / "out"
    assert run(write(tmp_path, "one"), *arguments).exit_code == 0
    assert calls["one"][0].config.outputs == outputs


def seconds_of(folder):
    return f"{sum(json.loads((folder / 'report.json').read_text())['seconds'].values()):.1f}"


def test_inputs_of_a_folder_and_random_ones(simulated, tmp_path):
    calls, _ = simulated
    models = write(tmp_path, "one"), write(tmp_path, "one_more")
    for name, count in (("one__a", 1), ("one__b", 2), ("one_more__a", 1), ("other__a", 1)):
        np.save(tmp_path / f"{name}.npy", np.full((count, 5, 4, 2), count, np.int8))
    assert run(*models, "--board", "sim", "--inputs", tmp_path, "-o", tmp_path).exit_code == 0
    assert [int(given["x"].max()) for given in calls["one"][1]] == [1, 2, 2]
    assert [int(given["x"].max()) for given in calls["one_more"][1]] == [1]
    assert run(*models, "--board", "sim", "--inputs", tmp_path, "--random", 2, "-o", tmp_path).exit_code == 0
    assert len(calls["one"][1]) == 5
    assert run(*models, "--board", "sim", "-o", tmp_path).exit_code == 0
    assert [len(calls[name][1]) for name in ("one", "one_more")] == [1, 1]


def test_what_differs_or_fails_is_told_and_the_rest_runs(simulated, tmp_path):
    _, changes = simulated
    names = "exact", "differs", "late", "raises", "fourth"
    models = [write(tmp_path, name) for name in names]
    models.insert(1, write(tmp_path, "refused", operator="softmax"))
    models.insert(0, tmp_path / "nothing.tflite")
    changes["differs"] = {"bit_exact": False, "difference": "input 0, first: row 1, column 2, channel 0: 4, not 5"}
    changes["late"] = {"cycles_measured": 12346}
    changes["raises"] = ZeroDivisionError("by zero")
    result = run(*models, "--board", "sim", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.endswith("error: 5 of 7 networks differ or fail\n")
    _, *rows, blank, sums, reasons = result.stdout.split("\n", 10)
    assert [line.split()[:2] for line in rows] == [
        ["nothing", "failed"], ["exact", "yes"], ["refused", "failed"], ["differs", "NO"], ["late", "yes"],
        ["raises", "failed"], ["fourth", "yes"],
    ]  # fmt: skip
    assert sums.startswith("7 networks: 3 bit-exact, 1 not, 3 failed; 4 inferences, ")
    told = reasons.strip().split("\n\n")
    assert [entry.partition(":")[0] for entry in told] == ["nothing", "refused", "differs", "late", "raises"]
    assert told[0].endswith("nothing.tflite: there is no such file")
    assert told[1].endswith("the accelerator has nothing to do: no layer runs on it")
    assert told[2:] == [
        "differs: input 0, first: row 1, column 2, channel 0: 4, not 5",
        "late: 12,345 cycles planned, 12,346 measured",
        "raises: ZeroDivisionError: by zero",
    ]
    assert blank == ""


def test_reports_as_json(simulated, tmp_path):
    _, changes = simulated
    changes["two"] = {"bit_exact": False, "difference": "two differs"}
    models = write(tmp_path, "one"), write(tmp_path, "two"), tmp_path / "nothing.toml"
    result = run(*models, "--board", "sim", "-o", tmp_path / "out", "--json")
    first, second, third = json.loads(result.stdout)
    assert (result.exit_code, first["model"], second["difference"]) == (1, "one", "two differs")
    assert third.keys() == {"model", "error"}
    assert json.loads((tmp_path / "out" / "one-sim" / "report.json").read_text()) == first


def test_a_folder_stands_for_its_models(tmp_path):
    for name in ("b.tflite", "a.tflite", "c.toml", "d.TFLITE"):
        (tmp_path / name).write_text("")
    names = [str(tmp_path / name) for name in ("a.tflite", "b.tflite", "d.TFLITE")]
    assert models_of(["x.toml", str(tmp_path), "mobilenet_v1"]) == ["x.toml", *names, "mobilenet_v1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenError, match="empty: there is no .tflite file in this folder"):
        models_of([str(tmp_path / "empty")])


def test_no_model_is_the_digits_network(simulated, tmp_path):
    result = run("--board", "sim", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert lines(result.stdout)[1].startswith("digits yes 1 ")


def test_rows_and_reasons():
    assert reason(REPORT) is None
    assert reason({"model": "x", "error": "is none"}) == "is none"
    assert batch.row(gen.survey, "a", {"model": "x", "error": "is none"}, 3) == "a    failed"
    assert totals([]) == "0 networks: 0 bit-exact, 0 not, 0 failed; 0 inferences, 0.0 s"


def task(folder, **changes):
    arguments = dict(board="sim", folding=True, packing=None, array=(2, 2), inputs=None, count=2, seed=0)
    arguments["directory"] = folder
    return Survey(**arguments | changes)


def test_several_at_a_time(tmp_path):
    """Processes of their own bring each network's report to its number, whichever ends first."""
    models = [str(tmp_path / f"none_{number}.tflite") for number in range(4)]
    reports = dict(task(tmp_path).reports(models, jobs=2))
    assert [reports[number]["model"] for number in range(4)] == [f"none_{number}" for number in range(4)]
    assert all(report["error"].endswith("there is no such file") for report in reports.values())


@pytest.mark.cocotb
def test_survey_in_verilator(tmp_path, capfd):
    """Two networks at a time, from the text that people write to the simulated core."""
    models = [str(write(tmp_path, name, operator)) for name, operator in (("one", "conv2d"), ("peak", "max_pool2d"))]
    reports = dict(task(tmp_path).reports(models, jobs=2))
    told = capfd.readouterr().err
    for number, name in enumerate(("one", "peak")):
        assert f"{name}: Verilator, 2 inferences: " in told
        assert reason(reports[number]) is None
        assert (reports[number]["model"], reports[number]["inferences"]) == (name, 2)
        assert (tmp_path / f"{name}-sim" / "core.v").exists()
