"""The benchmark: what is built and what is kept, what rows and page say, and the list that comes with the project."""

import json
import os
import re
import shutil
import tomllib
from pathlib import Path
from unittest.mock import ANY

import pytest
import tomli_w
from click.testing import CliRunner

import gen.benchmark
import gen.cli
from gen import tools
from gen.benchmark import Benchmark
from gen.benchmark_list import KINDS, LIST, read_list
from gen.digits import model_path
from gen.errors import GenError
from gen.plan import Plan

ROOT = Path(__file__).parent.parent

#: More multipliers than any board here has.
TOO_LARGE = [32, 16]


@pytest.fixture
def built(monkeypatch):
    """Stands for the build and the core's Verilog; the folders that were built in, and what is to fail in them."""
    calls, failures = [], {}

    def build(plan, *, directory, clock_mhz):
        calls.append(directory.name)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").unlink(missing_ok=True)
        if error := failures.get(directory.name):
            raise error
        (directory / "core.v").write_text(plan.verilog())
        report = plan.report() | {
            "bit_exact": True,
            "cycles_measured": plan.cycles,
            "clock_mhz": 100.0,
            "fmax_mhz": 101.23,
            "latency_us": plan.cycles / 100,
            "fps": 1e8 / plan.cycles,
            "tools": {name: tools.version(name) for name in ("yosys", "nextpnr-ecp5", "ecppack", "verilator")},
            "seconds": {"simulate": 20.0, "place_and_route": 100.0},
        }
        report["resources_estimated"] = {"lut": 1050, "ff": 1900, "mult": 3000, "ebr": 4000}
        for number, counts in enumerate(report["resources"].values(), 1):
            counts["used"] = 1000 * number
        (directory / "report.json").write_text(json.dumps(report))
        return report

    monkeypatch.setattr(gen.benchmark, "build", build)
    monkeypatch.setattr(Plan, "verilog", lambda plan: f"// {plan.config}\n")
    return calls, failures


def row(network, **fields):
    return {"network": network, "task": f"task of {network}", "array": [2, 2]} | fields


def write_list(folder, *rows, **document):
    """A list as ``folder``/list.toml, and the digits network under the name of each of its networks."""
    for name in {fields["network"] for fields in rows}:
        shutil.copy(model_path(), folder / f"{name}.tflite")
    path = folder / "list.toml"
    path.write_text(tomli_w.dumps({"networks": rows, "source": "a table in a journal"} | document))
    return path


def run(folder, *arguments):
    """What ``benchmark`` does with the models in ``folder`` and the list there; builds are in ``folder``/out."""
    words = "benchmark", folder, "--list", folder / "list.toml", "-o", folder / "out", *arguments
    return CliRunner().invoke(gen.cli.main, [str(word) for word in words])


def lines(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def seconds_of(folder):
    return f"{sum(report_of(folder)['seconds'].values()):,.0f}"


def test_a_row_a_build_in_a_folder_of_its_own(built, tmp_path):
    calls, _ = built
    write_list(tmp_path, row("one"), row("one", folding=False), row("two", packing=True, array=[4, 4]))
    result = run(tmp_path)
    assert result.exit_code == 0, result.stderr
    folders = ["one-ulx3s-2x2", "one-ulx3s-unfolded-2x2", "two-ulx3s-packed-4x4"]
    assert calls == folders
    title, *rows, blank, totals = lines(result.stdout)
    assert title == "model build array cycles MHz routed ms use multipliers LUT4 flip-flops block RAMs seconds"
    first = report_of(tmp_path / "out" / folders[0])
    assert rows[0] == (
        f"one-2x2 made 2x2 {first['cycles']:,} 100.0 101.2 {first['cycles'] / 1e5:.3f} {first['utilisation']:.1%} "
        f"3,000 1,000 2,000 4,000 {seconds_of(tmp_path / 'out' / folders[0])}"
    )
    assert [told.split()[:3] for told in rows[1:]] == [
        ["one-unfolded-2x2", "made", "2x2"],
        ["two-packed-4x4", "made", "4x4"],
    ]
    assert (blank, totals) == ("", "3 builds: 3 made, 0 kept, 0 without room on the board, 0 failed")
    assert re.search(r"^one-unfolded-2x2: Plan: \d+\.\d s$", result.stderr, re.MULTILINE)
    assert first["seconds"].keys() == {"plan", "simulate", "place_and_route"}
    assert (first["board"], first["packing"], first["jobs"]) == ("ulx3s", False, 1)
    assert report_of(tmp_path / "out" / folders[2])["packing"] is True


def test_options_reach_the_plan(built, monkeypatch, tmp_path):
    asked = []

    def lower(network, *, folding):
        asked.append(folding)
        return real_lower(network, folding=folding)

    def plan(network, board, **options):
        asked.append((board.name, options))
        raise GenError("enough")

    real_lower = gen.benchmark.lower
    monkeypatch.setattr(gen.benchmark, "lower", lower)
    monkeypatch.setattr(gen.benchmark, "plan", plan)
    write_list(tmp_path, {"network": "one", "task": "x"}, row("two", folding=False, packing=True))
    run(tmp_path, "--board", "ulx3s-12f")
    assert asked == [
        *(True, ("ulx3s-12f", {"array": None, "packing": None})),
        *(False, ("ulx3s-12f", {"array": [2, 2], "packing": True})),
    ]


def test_a_clock_reaches_the_build(built, monkeypatch, tmp_path):
    asked = []

    def build(plan, *, directory, clock_mhz):
        asked.append((directory.name, clock_mhz))
        raise GenError("enough")

    monkeypatch.setattr(gen.benchmark, "build", build)
    write_list(tmp_path, row("one", clock=119), row("one"))
    run(tmp_path)
    assert asked == [("one-ulx3s-2x2-119mhz", 119), ("one-ulx3s-2x2", None)]


def test_builds_are_kept(built, tmp_path):
    calls, _ = built
    write_list(tmp_path, row("one"), row("two"))
    first = run(tmp_path)
    result = run(tmp_path)
    assert (result.exit_code, len(calls)) == (0, 2)
    assert f"one-2x2: kept: {tmp_path / 'out' / 'one-ulx3s-2x2'} holds this build\n" in result.stderr
    assert lines(result.stdout) == [
        *(line.replace(" made ", " kept ") for line in lines(first.stdout)[:-1]),
        "2 builds: 0 made, 2 kept, 0 without room on the board, 0 failed",
    ]
    write_list(tmp_path, row("two"), row("three"))
    assert run(tmp_path).exit_code == 0
    assert calls[2:] == ["three-ulx3s-2x2"]
    assert run(tmp_path, "--again").exit_code == 0
    assert calls[3:] == ["two-ulx3s-2x2", "three-ulx3s-2x2"]


def core_changes(folder, monkeypatch):
    monkeypatch.setattr(Plan, "verilog", lambda plan: f"// another\n// {plan.config}\n")


def core_is_missing(folder, monkeypatch):
    (folder / "core.v").unlink()


def tool_changes(folder, monkeypatch):
    version = tools.version
    monkeypatch.setattr(tools, "version", lambda tool: "9.9" if tool == "nextpnr-ecp5" else version(tool))


def report_is_broken(folder, monkeypatch):
    (folder / "report.json").write_text("{")


def was_not_simulated(folder, monkeypatch):
    report = report_of(folder)
    del report["bit_exact"]
    (folder / "report.json").write_text(json.dumps(report))


def was_only_simulated(folder, monkeypatch):
    report = report_of(folder)
    del report["fmax_mhz"]
    (folder / "report.json").write_text(json.dumps(report))


def is_of_another_board(folder, monkeypatch):
    (folder / "report.json").write_text(json.dumps(report_of(folder) | {"board": "ulx3s-85f"}))


@pytest.mark.parametrize(
    "change",
    [
        *(core_changes, core_is_missing, tool_changes, report_is_broken, was_not_simulated, was_only_simulated),
        is_of_another_board,
    ],
)
def test_what_is_another_build_is_made_anew(built, monkeypatch, tmp_path, change):
    calls, _ = built
    write_list(tmp_path, row("one"))
    run(tmp_path)
    change(tmp_path / "out" / "one-ulx3s-2x2", monkeypatch)
    result = run(tmp_path)
    assert (result.exit_code, len(calls)) == (0, 2)
    assert " made " in lines(result.stdout)[1]
    assert run(tmp_path).exit_code == 0
    assert len(calls) == 2


def test_another_array_is_another_build(built, tmp_path):
    """A plan that chooses another array finds another core in the same folder."""
    calls, _ = built
    write_list(tmp_path, {"network": "one", "task": "x"})
    run(tmp_path)
    folder = tmp_path / "out" / "one-ulx3s"
    chosen = report_of(folder)["array"]
    assert chosen["k"] > 2
    write_list(tmp_path, row("one"))
    run(tmp_path)
    (tmp_path / "out" / "one-ulx3s-2x2" / "core.v").rename(folder / "core.v")
    write_list(tmp_path, {"network": "one", "task": "x"})
    run(tmp_path)
    assert calls == ["one-ulx3s", "one-ulx3s-2x2", "one-ulx3s"]


def test_missing_models_are_told_before_anything_runs(built, tmp_path):
    calls, _ = built
    write_list(tmp_path, row("one"), row("two"), row("three"))
    for name in ("two", "three"):
        (tmp_path / f"{name}.tflite").unlink()
    result = run(tmp_path)
    assert (result.exit_code, calls) == (1, [])
    told = f"there is no {tmp_path / 'three.tflite'}, no {tmp_path / 'two.tflite'}; docs/models.md says where these "
    assert f"error: {told}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_a_row_and_no_failure(built, tmp_path):
    calls, _ = built
    write_list(tmp_path, row("large", array=TOO_LARGE), row("small"))
    result = run(tmp_path)
    assert (result.exit_code, calls) == (0, ["small-ulx3s-2x2"])
    missing = "MULT18X18D: needs about 256, 100 more than the 156 there are"
    assert re.match(rf"large-32x16 does not fit: LUT4: needs .*; {missing}$", lines(result.stdout)[1])
    assert lines(result.stdout)[-1] == "2 builds: 1 made, 0 kept, 1 without room on the board, 0 failed"
    page = (tmp_path / "out" / "benchmarks.md").read_text()
    assert re.search(rf"^\| large \| task of large \| on \| 32x16 \|  \| does not fit: .*; {missing} \|", page, re.M)


def test_what_fails_is_told_and_the_rest_is_built(built, tmp_path):
    calls, failures = built
    write_list(tmp_path, row("one"), row("two"), row("three"), row("four"))
    (tmp_path / "two.tflite").write_text("garbage")
    failures["one-ulx3s-2x2"] = GenError("the routed design reaches 20 MHz only\n  and so on")
    failures["three-ulx3s-2x2"] = ZeroDivisionError("by zero")
    result = run(tmp_path)
    assert (result.exit_code, calls) == (1, ["one-ulx3s-2x2", "three-ulx3s-2x2", "four-ulx3s-2x2"])
    assert result.stderr.endswith("error: 3 of 4 builds failed\n")
    _, *rows, _, totals, _, _, _, _, _, _, three = lines(result.stdout)
    assert [line.split()[:2] for line in rows[:3]] == [[f"{name}-2x2", "failed"] for name in ("one", "two", "three")]
    assert totals == "4 builds: 1 made, 0 kept, 0 without room on the board, 3 failed"
    assert "\n\none-2x2: the routed design reaches 20 MHz only\n  and so on\n\ntwo-2x2: " in result.stdout
    assert three == "three-2x2: ZeroDivisionError: by zero"
    page = (tmp_path / "out" / "benchmarks.md").read_text()
    assert "| one | task of one | on | 2x2 |  | failed: the routed design reaches 20 MHz only | " in page
    failures.clear()
    assert run(tmp_path).exit_code == 1
    assert calls[3:] == ["one-ulx3s-2x2", "three-ulx3s-2x2"]


def test_reports_as_json(built, tmp_path):
    write_list(tmp_path, row("one", folding=False), row("large", array=TOO_LARGE), row("bad"))
    (tmp_path / "bad.tflite").write_text("garbage")
    result = run(tmp_path, "--json")
    one, large, bad = json.loads(result.stdout)
    about = {"task": "task of one", "folding": False, "kept": False}
    assert one == report_of(tmp_path / "out" / "one-ulx3s-unfolded-2x2") | about
    assert large.keys() == {"model", "board", "task", "folding", "missing"}
    assert bad.keys() == {"model", "board", "task", "folding", "error"}
    assert result.exit_code == 1
    kept = json.loads(run(tmp_path, "--json").stdout)[0]
    # Estimates are those of the plan that was made now.
    assert kept == one | {"kept": True, "resources_estimated": {"lut": ANY, "ff": ANY, "mult": 10, "ebr": ANY}}


PUBLISHED = {
    "one": {
        "fastest": [{"device": "telephone", "ms": 0.25, "round": "v1.3"}],
        "fastest_fpga": [
            {"device": "large board", "ms": 0.5, "multipliers": 100, "round": "v1.1"},
            {"device": "odd board", "ms": 0.125, "note": "another network"},
        ],
        "microcontroller": [{"device": "chip", "ms": 12}],
    }
}


def test_the_page(built, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {*range(5)})
    write_list(tmp_path, row("one"), row("two", folding=False), published=PUBLISHED)
    result = run(tmp_path, "--write", tmp_path / "deep" / "page.md")
    assert result.stderr.endswith(f"wrote {tmp_path / 'deep' / 'page.md'}\n")
    assert not (tmp_path / "out" / "benchmarks.md").exists()
    page = (tmp_path / "deep" / "page.md").read_text()
    assert "\n    python -m gen benchmark MODELS --board ulx3s --list list.toml\n" in page
    assert str(tmp_path) not in page
    report = report_of(tmp_path / "out" / "one-ulx3s-2x2")
    for said in (
        *("LFE5U-85F of speed grade 6", "None of the bitstreams has run", "batch 1", "softmax", "input in the"),
        "simulation included; one at a time on 5 processors.",
        f"yosys {tools.version('yosys')}",
        "Source:\na table in a journal.",
    ):
        assert said in page, said
    ms, seconds = f"{report['cycles'] / 1e5:.3f}", round(sum(report["seconds"].values()))
    tables = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    assert tables[1] == (
        f"| one | task of one | on | 2x2 | off | {report['cycles']:,} | 100.0 | 101.2 | {ms} "
        f"| {report['utilisation']:.1%} | 3,000 | 1,000 | 2,000 | 4,000 | 2 min {seconds - 120} s |"
    )
    assert tables[2].startswith("| two | task of two | off | 2x2 | off | ")
    assert tables[3:5] == [
        "| network | folding | ms | fastest on any device | fastest FPGA | small FPGA | microcontroller |",
        f"| one | on | {ms} | 0.25, telephone, v1.3 | 0.5 [100], large board, v1.1; 0.125, odd board, another network |"
        "  | 12, chip |",
    ]
    assert tables[5:7] == [
        "| network | folding | here | fastest FPGA |",
        f"| one | on | {1e8 / report['cycles'] / 3000:.1f} | 20.0, large board |",
    ]
    assert tables[7] == (
        "| network | folding | busy | fill | depthwise | gather | requantiser | adder | memory | jobs |"
    )
    for told, folding in zip(tables[8:10], ("on", "off"), strict=True):
        network, switch, *cycles = [cell.strip() for cell in told.strip("|").split("|")]
        assert (network, switch) == ({"on": "one", "off": "two"}[folding], folding)
        assert sum(int(count.replace(",", "")) for count in cycles) == report["cycles"]
        assert cycles[0] == f"{sum(stage['busy'] for stage in report['stages']):,}"
    assert tables[10:12] == [
        "| network | folding | LUT4 | flip-flops | MULT18X18D | block RAMs |",
        "| one | on | 1,050, +5.0% [1,000] | 1,900, -5.0% [2,000] | 3,000, +0.0% [3,000] | 4,000, +0.0% [4,000] |",
    ]
    columns = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert columns == {16, 8, 5, 11, 7}


def test_a_page_of_nothing_built(built, tmp_path):
    """Published figures stand alone where the network did not fit; without any, there is no table of them."""
    write_list(tmp_path, row("one", array=TOO_LARGE), published=PUBLISHED)
    assert run(tmp_path).exit_code == 0
    page = (tmp_path / "out" / "benchmarks.md").read_text()
    assert "simulation included; nothing was built.\n- Tools: none ran.\n" in page
    assert "| one | on | none | 0.25, telephone, v1.3 | " in page
    assert "| one | on |  | 20.0, large board |" in page
    write_list(tmp_path, row("one", array=TOO_LARGE))
    assert run(tmp_path).exit_code == 0
    assert "published" not in (tmp_path / "out" / "benchmarks.md").read_text()


def test_several_at_a_time(monkeypatch, tmp_path):
    """Processes of their own, in which nothing is replaced, bring each report to its number."""
    entries = read_list(write_list(tmp_path, *(row(name, array=TOO_LARGE) for name in ("one", "two", "bad")))).entries
    (tmp_path / "bad.tflite").write_text("garbage")
    monkeypatch.setattr(gen.benchmark, "plan", None)
    reports = dict(Benchmark(tmp_path, "ulx3s", tmp_path / "out", jobs=2).reports(entries))
    assert [reports[number]["model"] for number in range(3)] == ["one", "two", "bad"]
    assert "MULT18X18D: needs about 256" in reports[0]["missing"][-1]
    assert reports[2]["error"].startswith("bad: not a TensorFlow Lite file")


def test_jobs_reach_processes_report_and_page(built, monkeypatch, tmp_path):
    asked = []

    def reports(report, items, jobs, name):
        asked.append(jobs)
        return enumerate(map(report, items))

    monkeypatch.setattr(gen.benchmark.batch, "reports", reports)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {7})
    write_list(tmp_path, row("one"))
    assert run(tmp_path, "--jobs", 3).exit_code == 0
    report = report_of(tmp_path / "out" / "one-ulx3s-2x2")
    assert (asked, report["jobs"]) == ([3], 3)
    page = (tmp_path / "out" / "benchmarks.md").read_text()
    assert "benchmark MODELS --board ulx3s --jobs 3 --list list.toml\n" in page
    assert "simulation included; 3 at a time, which shared 1 processor.\n" in page
    assert report["processors"] == 1
    # Builds that were made otherwise are told apart: the other with --jobs 1, and one by `build` itself.
    write_list(tmp_path, row("one"), row("two"), row("three"))
    assert run(tmp_path).exit_code == 0
    folder = tmp_path / "out" / "three-ulx3s-2x2"
    report = {name: value for name, value in report_of(folder).items() if name not in ("jobs", "processors")}
    (folder / "report.json").write_text(json.dumps(report))
    assert run(tmp_path).exit_code == 0
    told = "3 at a time, which shared 1 processor, or one at a time on 1 processor, or what else ran meanwhile was not"
    assert f"simulation included; {told} noted.\n" in (tmp_path / "out" / "benchmarks.md").read_text()


def test_a_board_without_bitstreams(tmp_path):
    write_list(tmp_path, row("one"))
    result = run(tmp_path, "--board", "sim")
    assert result.exit_code == 2
    assert "--board sim has no bitstream" in result.stderr


@pytest.mark.parametrize(
    "document, message",
    [
        ({}, "networks: must be a list of at least one row, not []"),
        ({"networks": [{"network": "x"}]}, "networks[0]: must say task"),
        ({"networks": [row("x", fold=True)]}, "must say only network, task, folding, packing, array, clock, not fold"),
        ({"networks": [row("x", folding="on")]}, "networks[0]: folding must be bool, not 'on'"),
        ({"networks": [row("x", array=[16])]}, "array must be two positive numbers as in [16, 8], not [16]"),
        ({"networks": [row("x", clock=12)]}, "clock must be in 25..200 MHz, not 12"),
        ({"networks": [row("y"), row("x"), row("x")]}, "networks: rows must differ, but there are several of x-2x2"),
        ({"networks": ["x"]}, "networks[0]: must be a table, not 'x'"),
        ({"networks": [row("x")], "published": {"x": {"slowest": []}}}, "published.x: must say only fastest, "),
        (
            {"networks": [row("x")], "published": {"x": {"fastest": [{"device": "d", "ms": 0}]}}},
            "published.x.fastest[0]: ms must be positive, not 0",
        ),
    ],
)
def test_what_a_list_may_not_say(tmp_path, document, message):
    path = tmp_path / "list.toml"
    path.write_text(tomli_w.dumps(document))
    with pytest.raises(GenError, match=re.escape(message)) as raised:
        read_list(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_lists_that_cannot_be_read(tmp_path):
    (tmp_path / "list.toml").write_text("networks = ")
    for name, message in (("list.toml", "is no TOML: "), ("nothing.toml", "cannot be read: No such file")):
        with pytest.raises(GenError, match=f"{name}: {message}"):
            read_list(tmp_path / name)


# The list that comes with the project


def test_the_list_of_the_project():
    listed = read_list()
    first = [(entry.network, entry.folding) for entry in listed.entries[:2]]
    assert first == [("vww_96_int8", True), ("vww_96_int8", False)]
    networks = {entry.network for entry in listed.entries}
    mlperf = {"vww_96_int8", "kws_ref_model", "pretrainedResnet_quant", "ad01_int8"}
    assert networks == mlperf | {"person_detect", "mobilenetv2_160_035"}
    documented = re.findall(r"^\| (\w[\w.]*) \| [0-9,]+ \|", (ROOT / "docs/models.md").read_text(), re.MULTILINE)
    assert networks <= set(documented)
    assert listed.published.keys() == mlperf
    figures = [(kind, figure) for kinds in listed.published.values() for kind, rows in kinds.items() for figure in rows]
    assert {kind for kind, _ in figures} == set(KINDS)
    for kind, figure in figures:
        assert 0 < figure.ms < 100
        assert figure.multipliers is None or figure.multipliers > 50
        assert figure.multipliers is None or kind in ("fastest_fpga", "small_fpga")
    small = listed.published["vww_96_int8"]["small_fpga"][0]
    assert (small.ms, small.multipliers) == (9.49, 189)
    assert small.per_multiplier == pytest.approx(0.5575, rel=1e-3)


def test_the_list_is_packaged():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert f"*{LIST.suffix}" in data
