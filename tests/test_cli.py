"""The command line: what it calls, what it prints where, and how it ends."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import click
import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner

import boards
import gen.cli
from gen.builders import mobilenet_v1
from gen.digits import held_out, model_path
from gen.errors import GenError
from gen.importer import load_tflite
from gen.inputs import load_inputs, random_inputs
from gen.passes import lower
from gen.plan import plan
from gen.source import resolve
from gen.table import Layer, Quantization, Table, TensorType
from gen.table_file import load, save
from gen.table_print import describe
from gen.whereabouts import whereabouts
from sim import golden

SMALL = "mobilenet_v1:alpha=0.25,resolution=32,classes=4"


def run(*arguments):
    """What ``python -m gen ARGUMENTS`` does, run in this process."""
    return CliRunner().invoke(gen.cli.main, [str(argument) for argument in arguments])


def described(network):
    """All that ``table`` says of a network."""
    return describe(whereabouts(network, lower(network, folding=True)))


class FakePlan:
    """Stands for gen.plan.Plan where a test is about the command line alone."""

    def __init__(self, table, board, array, packing):
        self.table, self.board, self.array, self.packing = table, board, array, packing
        self.fits = board.name != "ulx3s-12f"

    def report(self):
        return {"model": self.table.name, "board": self.board.name, "array": self.array, "cycles": 12345}

    def explain(self):
        return f"{self.table.name} on {self.board.name}: 12345 cycles"


@pytest.fixture
def fakes(monkeypatch):
    """Puts fakes in the place of plan, simulate and build; gives the calls that reach them."""
    calls = types.SimpleNamespace(simulate=None, build=None, bit_exact=True)

    def simulate(plan, inputs, *, directory, rtl=None):
        calls.simulate = types.SimpleNamespace(plan=plan, inputs=inputs, directory=directory, rtl=rtl)
        directory.mkdir(parents=True, exist_ok=True)
        scores = np.zeros((len(inputs), 10), np.int8)
        np.save(directory / "output.npy", scores)
        difference = {} if calls.bit_exact else {"difference": "conv0: row 1, column 2, channel 3: 4, not 5"}
        return {**plan.report(), "bit_exact": calls.bit_exact, "fps": 1234.5, "seconds": {"verilate": 2.5}} | difference

    def build(plan, *, directory, verify, seeds, clock_mhz):
        calls.build = types.SimpleNamespace(
            plan=plan, directory=directory, verify=verify, seeds=seeds, clock_mhz=clock_mhz
        )
        return {**plan.report(), "resources": {"lut": {"used": 10, "available": 40}}, "timing_met": True}

    def plan(table, board, *, array=None, packing=None):
        return FakePlan(table, board, array, packing)

    for name, function in (("plan", plan), ("simulate", simulate), ("build", build)):
        module = types.ModuleType(f"gen.{name}")
        setattr(module, name, function)
        monkeypatch.setitem(sys.modules, f"gen.{name}", module)
    return calls


def program(*arguments):
    """Run ``python -m gen ARGUMENTS``."""
    words = [sys.executable, "-m", "gen", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


#: What report.json says of a plan, and what a simulation adds.
PLANNED = {
    "model", "board", "device", "macs", "live_macs", "array", "cycles", "clock_mhz", "latency_us", "fps", "utilisation",
    "resources", "weight_bytes", "feature_bytes",
}  # fmt: skip
SIMULATED = {"cycles_measured", "bit_exact", "host_load_us", "tools", "seconds"}


def test_check_as_a_program(tmp_path):
    result = program("check", "--json", "-o", tmp_path)
    report = json.loads(result.stdout)
    assert result.returncode == 0
    assert re.fullmatch(r"digits: \d+ layers, 0.\d\d million MACs\n", result.stderr)
    assert report.keys() >= PLANNED
    assert report.keys().isdisjoint(SIMULATED)
    assert report["array"].keys() == {"k", "n", "macs_per_cycle", "depthwise_lanes", "requantiser_lanes"}
    assert report["resources"].keys() == {"lut", "ff", "mult", "ebr"}
    assert all(counts["used"] <= counts["available"] for counts in report["resources"].values())
    assert json.loads((tmp_path / "report.json").read_text()) == report
    shown = run("check")
    assert shown.exit_code == 0
    assert f"{report['cycles']} cycles" in shown.stdout


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["check", "--array", "7x2"], 1, "error: array 7x2: K must be a multiple of N and at most 128, N must be "),
        (["simulate", "--array", "32x16", "--board", "ulx3s"], 1, "does not fit ulx3s (LFE5U-85F); closest with array"),
        (["check", "mobilenet_v1:resolution=2000"], 1, "resolution must be in 1..1024"),
        (["simulate", "--rtl", "nothing.v"], 1, "error: nothing.v: there is no such file\n"),
        (["check", "--board", "nothing"], 2, "board must be one of"),
    ],
)
def test_failures_as_a_program(arguments, status, message):
    result = program(*arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.cocotb
def test_simulate_digits_as_a_program(tmp_path):
    """The built-in network, whole, on a hundred scans that it has not seen."""
    result = program("simulate", "--board", "ulx3s", "--json", "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report.keys() >= PLANNED | SIMULATED | {"accuracy"}
    assert report["bit_exact"] is True
    assert report["cycles_measured"] == report["cycles"]
    assert report["tools"].keys() >= {"verilator", "yosys"}
    assert all(seconds >= 0 for seconds in report["seconds"].values())
    scans, labels = held_out()
    table = resolve(None)
    ((name, _),) = table.inputs.items()
    expected = np.stack([golden.run(table, {name: scan})[table.outputs[0]] for scan in scans[:100]])
    assert np.array_equal(np.load(tmp_path / "output.npy"), expected)
    assert report["accuracy"] == np.mean(expected.argmax(axis=-1) == labels[:100])
    assert report["accuracy"] > 0.9
    assert "\nmodule core(" in (tmp_path / "core.v").read_text()


@pytest.mark.cocotb
def test_simulate_other_rtl_as_a_program(tmp_path):
    """A layer table of one's own, and its core with one adder that subtracts."""
    rows = [{"name": "first", "operator": "conv2d", "channels": 3, "kernel": 3, "scale": 0.1, "zero_point": 0}]
    inputs = {"x": {"shape": [5, 4, 2], "scale": 0.02, "zero_point": 1}}
    document = {"name": "one", "inputs": inputs, "layers": rows, "weights": {"seed": 1}}
    (tmp_path / "one.toml").write_text(tomli_w.dumps(document))
    core = plan(lower(load(tmp_path / "one.toml")), boards.get("sim"), array=(2, 2)).verilog()
    head, begin, text = core.partition("\nmodule \\core.array.column_0 ")
    (tmp_path / "bad.v").write_text(head + begin + text.replace("$signed(base_0_0) + ", "$signed(base_0_0) - ", 1))
    options = "--board", "sim", "--array", "2x2", "--random", 2, "--seed", 3, "--json", "-o", tmp_path / "out"
    result = program("simulate", tmp_path / "one.toml", *options, "--rtl", tmp_path / "bad.v")
    report = json.loads(result.stdout)
    assert (result.returncode, report["bit_exact"]) == (1, False)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    told = r"\nerror: input 0, first: row \d+, column \d+, channel [02]: expected -?\d+, got -?\d+ "
    assert re.search(told, result.stderr)
    assert "Traceback" not in result.stderr
    # The core just generated is there all the same, and so is what the other made.
    assert (tmp_path / "out" / "core.v").read_text() == core
    assert np.load(tmp_path / "out" / "output.npy").shape[0] == 2


def test_as_a_program():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}  # a terminal that has no arrows
    result = subprocess.run(
        [sys.executable, "-m", "gen", "table", SMALL], capture_output=True, text=True, env=environment, check=False
    )
    assert (result.returncode, result.stderr) == (0, "mobilenet_v1_0.25_32_4: 30 layers, 0.83 million MACs\n")
    assert "conv_pw_13" in result.stdout


@pytest.mark.parametrize("verb", ("build", "simulate", "check", "table", "resources"))
def test_help(verb):
    result = run(verb, "--help")
    assert result.exit_code == 0
    for option in ("[MODEL]", "--board NAME", "-o DIR", "--json", "-v"):
        assert option in result.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tabel"], "No such command 'tabel'"),
        (["table", "--bord", "sim"], "No such option"),
        (["table", "--board", "ulx4"], "board must be one of ulx3s, ulx3s-12f"),
        (["check", "--array", "16"], "must be two positive numbers as in 16x18, not '16'"),
        (["check", "--array", "0x18"], "must be two positive numbers as in 16x18, not '0x18'"),
        (["build", "--seeds", "0"], "0 is not in the range x>=1"),
        (["build", "--clock", "12"], "12.0 is not in the range 25<=x<=200"),
        (["build", "--board", "sim"], "--board sim has no bitstream; it is for simulate, check and table."),
        (["simulate", "--random", "0"], "0 is not in the range x>=1"),
        (["simulate", "--random", "1", "--input", "x.npy"], "--input and --random exclude each other."),
    ],
)
def test_wrong_usage(fakes, arguments, message):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_table():
    result = run("table", SMALL)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert "mobilenet_v1_0.25_32_4: 30 layers, 833,152 MACs, 211,364 parameters" in result.stdout
    assert "conv1 conv2d 32x32x3 → 16x16x8 3x3 2x2 0 1 0 1 relu6 55,296 224 2,048 accelerator 1" in lines
    assert "softmax softmax 4 → 4 4 host" in lines
    assert "total 833,152 211,364 25,992" in lines


def test_table_shows_names_as_they_are(tmp_path):
    save(one_layer(TensorType((2, 2, 1), "int8", Quantization(0.5, 0)), name="a[red]b"), tmp_path / "x.toml")
    assert "a[red]b" in run("table", tmp_path / "x.toml").stdout


def test_table_as_json():
    result = run("table", SMALL, "--json")
    report = json.loads(result.stdout)
    table = mobilenet_v1(0.25, 32, classes=4)
    assert report == described(table) | {"packing": True}
    assert (report["model"], report["macs"], report["parameters"]) == (table.name, table.macs, table.parameters)
    assert report["largest_activation_bytes"] == 16 * 16 * 16
    assert report["layers"][-1]["on_host"]
    assert not report["layers"][0]["on_host"]


def test_table_into_a_folder(tmp_path):
    result = run("table", SMALL, "-o", tmp_path / "deep")
    path = tmp_path / "deep" / "mobilenet_v1_0.25_32_4.toml"
    assert result.stderr.endswith(f"wrote {path}\n")
    assert described(load(path)) == described(mobilenet_v1(0.25, 32, classes=4))
    assert run("table", path).stdout == result.stdout


def test_check(fakes, tmp_path):
    result = run("check", SMALL, "--array", "16x18", "--board", "ulx3s-45f")
    assert (result.exit_code, result.stdout) == (0, "mobilenet_v1_0.25_32_4 on ulx3s-45f: 12345 cycles\n")
    result = run("check", SMALL, "--array", "16x18", "--json", "-o", tmp_path / "out")
    report = json.loads(result.stdout)
    assert (report["board"], report["array"]) == ("ulx3s", [16, 18])
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report


@pytest.mark.parametrize("option, packing", [([], None), (["--packing", "on"], True), (["--packing", "off"], False)])
def test_packing_reaches_the_plan(fakes, monkeypatch, tmp_path, option, packing):
    for verb in ("simulate", "build"):
        assert run(verb, SMALL, *option, "-o", tmp_path).exit_code == 0
        assert getattr(fakes, verb).plan.packing is packing
    asked = []
    monkeypatch.setattr(sys.modules["gen.plan"], "plan", lambda table, board, **options: asked.append(options))
    run("check", SMALL, *option)
    assert asked == [{"array": None, "packing": packing}]


def test_packing_as_a_program():
    """16 x 16 is more than the board's multipliers, unless two MACs share one."""
    result = program("check", "--board", "ulx3s", "--array", "16x16", "--packing", "on", "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["packing"]) == (0, True)
    assert (report["array"]["k"], report["array"]["n"], report["array"]["macs_per_cycle"]) == (16, 16, 256)
    assert 128 <= report["resources"]["mult"]["used"] <= 156
    assert program("check", "--board", "ulx3s", "--array", "16x16").returncode == 0
    result = program("check", "--board", "ulx3s", "--array", "16x16", "--packing", "off")
    assert result.returncode == 1
    assert "MULT18X18D: needs about 256, 100 more than the 156 there are" in result.stderr
    assert run("check", "--packing", "maybe").exit_code == 2


def test_table_tells_of_packing():
    def told(*options):
        return re.search(r"^multipliers: (.*?) *$", run("table", SMALL, *options).stdout, re.MULTILINE)[1]

    assert told() == told("--packing", "on") == "two MACs each, unless with --packing off"
    assert told("--packing", "off") == "one MAC each, for --packing off"
    assert told("--packing", "on", "--array", "6x3") == "one MAC each, for N is odd, 3"
    for options, packing in (([], True), (["--packing", "off"], False), (["--packing", "on", "--array", "6x3"], False)):
        assert json.loads(run("table", SMALL, "--json", *options).stdout)["packing"] is packing


@pytest.mark.parametrize("form", ([], ["--json"]))
def test_check_of_what_does_not_fit(fakes, form):
    result = run("check", SMALL, "--board", "ulx3s-12f", *form)
    assert result.exit_code == 1
    assert "12345" in result.stdout
    assert result.stderr.endswith("error: mobilenet_v1_0.25_32_4 does not fit ulx3s-12f\n")


def test_simulate_draws_inputs(fakes, tmp_path):
    rtl = tmp_path / "core.v"
    rtl.write_text("")
    result = run("simulate", SMALL, "--random", 3, "--seed", 5, "-o", tmp_path / "out", "--rtl", rtl)
    assert result.exit_code == 0, result.stderr
    assert (fakes.simulate.directory, fakes.simulate.rtl) == (tmp_path / "out", rtl)
    expected = random_inputs(fakes.simulate.plan.table, 3, 5)
    assert len(fakes.simulate.inputs) == 3
    for given, wanted in zip(fakes.simulate.inputs, expected, strict=True):
        assert np.array_equal(given["image"], wanted["image"])
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["cycles", "12,345"] in lines
    assert ["bit", "exact", "yes"] in lines
    assert ["seconds", "verilate", "2.5"] in lines


def test_simulate_without_inputs_draws_one(fakes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("simulate", SMALL, "--board", "sim", "--json")
    assert json.loads(result.stdout)["bit_exact"]
    assert len(fakes.simulate.inputs) == 1
    assert fakes.simulate.directory == Path("build/mobilenet_v1_0.25_32_4-sim")


def test_simulate_without_model_reads_digits(fakes, tmp_path):
    scans, labels = held_out()
    result = run("simulate", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert len(fakes.simulate.inputs) >= 100
    for given, scan in zip(fakes.simulate.inputs, scans, strict=False):
        (array,) = given.values()
        assert np.array_equal(array, scan)
    accuracy = np.mean(labels[:100] == 0)  # the fake's ten scores are equal, which reads as 0
    assert json.loads((tmp_path / "report.json").read_text())["accuracy"] == accuracy
    assert ["accuracy", f"{accuracy:.4g}"] in [line.split() for line in result.stdout.splitlines()]
    assert "█" in result.stdout
    assert json.loads(run("simulate", "-o", tmp_path, "--json").stdout)["accuracy"] == accuracy


def test_simulate_names_the_difference(fakes, tmp_path):
    fakes.bit_exact = False
    result = run("simulate", SMALL, "-o", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.endswith("error: conv0: row 1, column 2, channel 3: 4, not 5\n")


def test_build(fakes, tmp_path):
    result = run("build", SMALL, "--seeds", 4, "--clock", 112.5, "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert (fakes.build.verify, fakes.build.seeds, fakes.build.directory) == (True, 4, tmp_path)
    assert fakes.build.clock_mhz == 112.5
    assert ["resources", "lut", "10", "of", "40", "(25%)"] in [line.split() for line in result.stdout.splitlines()]
    result = run("build", SMALL, "--no-verify", "--json")
    assert (fakes.build.verify, fakes.build.seeds, fakes.build.clock_mhz) == (False, 1, None)
    assert json.loads(result.stdout)["timing_met"]


def test_resources(fakes, monkeypatch, tmp_path):
    """Counts beside estimates, and how far these are off; nothing where there is nothing to compare with."""
    asked = []

    def count(plan, *, directory):
        asked.append(directory)
        counts = {"lut": (1100, 1000, 83640), "ff": (95, 100, 200), "mult": (0, 0, 156)}
        resources = {name: {"used": used, "available": there} for name, (_, used, there) in counts.items()}
        estimated = {name: estimate for name, (estimate, _, _) in counts.items()}
        return {**plan.report(), "resources": resources, "resources_estimated": estimated}

    monkeypatch.setattr(sys.modules["gen.build"], "count", count, raising=False)
    monkeypatch.chdir(tmp_path)
    result = run("resources", SMALL)
    assert result.exit_code == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines() if "," in line or "%" in line] == [
        ["lut", "1,100", "1,000", "+10.0%", "83,640"], ["ff", "95", "100", "-5.0%", "200"],
    ]  # fmt: skip
    assert ["mult", "0", "0", "156"] in [line.split() for line in result.stdout.splitlines()]
    assert json.loads(run("resources", SMALL, "--json", "-o", tmp_path).stdout)["resources_estimated"]["ff"] == 95
    assert asked == [Path("build/mobilenet_v1_0.25_32_4-ulx3s/synthesis"), tmp_path]
    result = run("resources", "--board", "sim")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--board sim has no bitstream" in result.stderr


@pytest.mark.parametrize(
    "model, message",
    [
        ("nothing.tflite", "nothing.tflite: there is no such file"),
        ("nothing.toml", "nothing.toml: cannot be read: No such file or directory"),
        ("nothing", "nothing: MODEL must be a .tflite file, a layer table (.toml) or a builder (mobilenet_v1, "),
        ("mobilenet_v1:alpha=9", "mobilenet_v1:alpha=9: alpha must be in 0.03125..4, not 9.0"),
    ],
)
def test_bad_models(model, message):
    result = run("table", model)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {message}" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("table", model, "-v").stderr


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("table", SMALL, "-o", tmp_path / "file" / "deeper")
    assert result.exit_code == 1
    assert "cannot be written: " in result.stderr


def raising(error):
    def lower(table, folding):
        raise error

    return lower


def test_bugs_say_so(monkeypatch):
    monkeypatch.setattr("gen.passes.lower", raising(ZeroDivisionError("by zero")))
    result = run("table", SMALL)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: ZeroDivisionError: by zero\nThis is a bug; run again with -v for the traceback.\n"
    assert "in lower" in run("table", SMALL, "-v").stderr


def test_interrupts_are_quiet(monkeypatch):
    monkeypatch.setattr("gen.passes.lower", raising(KeyboardInterrupt()))
    result = run("table", SMALL)
    assert (result.exit_code, result.output) == (130, "")


def test_usage_errors_inside_a_verb_stay_usage_errors(monkeypatch):
    monkeypatch.setattr("gen.passes.lower", raising(click.UsageError("wrong")))
    assert run("table", SMALL).exit_code == 2


def test_resolve(tmp_path):
    assert described(resolve(None)) == described(load_tflite(model_path()))
    assert resolve(str(model_path())).name == "digits"
    save(mobilenet_v1(0.25, 32, classes=4), tmp_path / "Net.toml")
    assert resolve(str(tmp_path / "Net.toml")).macs == resolve(SMALL).macs


def one_layer(tensor, *, name="q"):
    """A network that quantises an input of type ``tensor``."""
    output = TensorType(tensor.shape, "int8", Quantization(0.25, -28))
    return Table("one", {"x": tensor}, (Layer(name, "quantize", ("x",), output),), (name,))


def test_random_inputs():
    table = one_layer(TensorType((40, 50), "uint8", Quantization(1, 128)))
    first, second = random_inputs(table, 2, seed=3)
    assert (first["x"].shape, first["x"].dtype, first["x"].min(), first["x"].max()) == ((40, 50), np.uint8, 0, 255)
    assert not np.array_equal(first["x"], second["x"])
    assert np.array_equal(random_inputs(table, 1, seed=3)[0]["x"], first["x"])
    (real,) = random_inputs(one_layer(TensorType((40, 50), "float32")), 1)
    assert real["x"].dtype == np.float32
    assert -25 <= real["x"].min() < -24.5
    assert 38 < real["x"].max() <= 38.75


@pytest.mark.parametrize("shape, count", [((4, 5), 1), ((1, 4, 5), 1), ((3, 4, 5), 3)])
def test_load_inputs(tmp_path, shape, count):
    table = one_layer(TensorType((4, 5), "uint8", Quantization(1, 0)))
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    np.save(tmp_path / "x.npy", array)
    inputs = load_inputs(table, [tmp_path / "x.npy"] * 2)
    assert len(inputs) == 2 * count
    assert np.array_equal(np.stack([given["x"] for given in inputs[:count]]), array.reshape(count, 4, 5))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((4, 5), np.int8), "element type must be uint8 for one, not int8"),
        (np.zeros((4, 5), ">f4"), "element type must be uint8 for one, not >f4"),
        (np.zeros((5, 4), np.uint8), r"shape must be \(4, 5\) or \(n, 4, 5\) for one, not \(5, 4\)"),
        (np.zeros((0, 4, 5), np.uint8), r"shape must be \(4, 5\) or \(n, 4, 5\) for one, not \(0, 4, 5\)"),
        (np.zeros((2, 1, 4, 5), np.uint8), r"shape must be .*, not \(2, 1, 4, 5\)"),
        (np.array(3, np.uint8), r"shape must be .*, not \(\)"),
        (np.array([None]), "is no .npy array of numbers: Object arrays cannot be loaded"),
    ],
)
def test_load_inputs_refuses_arrays(tmp_path, array, message):
    table = one_layer(TensorType((4, 5), "uint8", Quantization(1, 0)))
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(GenError, match=f"x.npy: {message}"):
        load_inputs(table, [tmp_path / "x.npy"])


@pytest.mark.parametrize("cut", (0, 3, 40, -1))
def test_load_inputs_refuses_broken_files(tmp_path, cut):
    table = one_layer(TensorType((4, 5), "uint8", Quantization(1, 0)))
    np.save(tmp_path / "x.npy", np.zeros((4, 5), np.uint8))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:cut])
    with pytest.raises(GenError, match="x.npy: is no .npy array of numbers: "):
        load_inputs(table, [tmp_path / "x.npy"])


def test_load_inputs_refuses_what_is_not_there(tmp_path):
    table = one_layer(TensorType((4, 5), "uint8", Quantization(1, 0)))
    with pytest.raises(GenError, match="x.npy: cannot be read: No such file"):
        load_inputs(table, [tmp_path / "x.npy"])
    with pytest.raises(GenError, match="cannot be read: Is a directory"):
        load_inputs(table, [tmp_path])


def test_load_inputs_needs_one_input(tmp_path):
    tensor = TensorType((4,), "int8", Quantization(1, 0))
    one = one_layer(tensor)
    table = Table("two", {"x": tensor, "y": tensor}, one.layers, one.outputs)
    with pytest.raises(GenError, match=r"two: has 2 inputs \(x, y\); files can be given to a network with one input"):
        load_inputs(table, [])


def test_load_published_inputs(inputs_dir, models_dir):
    for model in ("person_detect", "vww_96_int8", "kws_ref_model", "ad01_int8"):
        paths = sorted(inputs_dir.glob(f"{model}__*.npy"))
        assert paths
        assert len(load_inputs(load_tflite(models_dir / f"{model}.tflite"), paths)) == len(paths)
