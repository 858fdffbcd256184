"""Tools and the way to a bitstream: with small stand-ins for the tools, and (``synth``) with the real ones."""

import json
import re
import stat
import sys
import textwrap
from types import ModuleType, SimpleNamespace

import pytest
from placed_designs import cell, design

import boards
from boards.pll import achievable
from boards.top import emit
from gen import tools
from gen.build import build, count, retune, yosys_phase
from gen.errors import GenError
from gen.place_and_route import PATIENCE, Routed, RouterWatch, nextpnr_phase
from gen.placement import Placement
from gen.table import Layer, Quantization, Table, TensorType
from hw.places import CORE_ANYWHERE

#: Echoes bytes, each times one in a hard multiplier, through a block RAM.
CORE = """
module core(
  input clk,
  input [7:0] i__payload, input i__valid, output i__ready,
  output reg [7:0] o__payload, output reg o__valid, input o__ready,
  output reg [31:0] trace_bytes
);
  reg [7:0] memory [0:1023];
  reg [9:0] write, read;
  reg [10:0] used;
  reg [2:0] arriving;
  wire [7:0] product;
  wire accept = i__valid & i__ready;
  wire fetch = used != 0 & (~o__valid | o__ready);
  assign i__ready = used < 1000;
  initial begin write = 0; read = 0; used = 0; arriving = 0; o__valid = 0; trace_bytes = 0; end

  (* BEL = "@BEL@" *)
  MULT18X18D #(
    .REG_INPUTA_CLK("CLK0"), .REG_INPUTB_CLK("CLK0"), .REG_PIPELINE_CLK("CLK0"), .REG_OUTPUT_CLK("CLK0")
  ) multiplier (
    .CLK0(clk), .CE0(1'b1), .RST0(1'b0), .B0(1'b1), .A0(i__payload[0]), .A1(i__payload[1]), .A2(i__payload[2]),
    .A3(i__payload[3]), .A4(i__payload[4]), .A5(i__payload[5]), .A6(i__payload[6]), .A7(i__payload[7]),
    .P0(product[0]), .P1(product[1]), .P2(product[2]), .P3(product[3]), .P4(product[4]), .P5(product[5]),
    .P6(product[6]), .P7(product[7])
  );

  always @(posedge clk) begin
    arriving <= {arriving[1:0], accept};
    if (arriving[2]) begin memory[write] <= product; write <= write + 1; end
    used <= used + arriving[2] - fetch;
    if (fetch) begin o__payload <= memory[read]; read <= read + 1; o__valid <= 1; end
    else if (o__ready) o__valid <= 0;
    if (accept) trace_bytes <= trace_bytes + 1;
  end
endmodule
"""


def make_plan(board="ulx3s", *, clock_mhz=110.0, core="module core; endmodule\n"):
    """What :func:`build` needs of a plan."""
    tensor = TensorType((4,), quantization=Quantization(0.5, 0))
    table = Table("echo", {"x": tensor}, (Layer("y", "reshape", ("x",), tensor),), ("y",))
    return SimpleNamespace(
        places_on_die=CORE_ANYWHERE,
        table=table,
        board=boards.get(board),
        verilog=lambda: core,
        report=lambda: {"model": "echo", "cycles": 1000, "resources": {"lut": {"used": 1, "available": 2}}},
        clock_mhz_estimate=clock_mhz,
        cycles=1000,
    )


# Stand-ins for the tools


CONFIG = """\
.device LFE5U-85F

.tile_group MIB_R4C0:PLL0_UL MIB_R5C0:PLL1_UL
word: CLKI_DIV 0000000
word: CLKFB_DIV 0000000
word: CLKOP_DIV 0010101
word: CLKOP_CPHASE 0010101
word: CLKOS_DIV 0000100
word: CLKOS_CPHASE 0000100
word: CLKOS2_DIV 0000111
word: CLKOS2_CPHASE 0000000
"""


def make_report(fmax_mhz=123.4, *, serial_mhz=150.0, core_net="$glbnet$core_clk"):
    """A report as nextpnr writes it, of one core path with two arcs of logic and one of routing."""
    place = [
        {"type": "clk-to-q", "delay": 0.525, "from": {"cell": "core.a", "port": "Q"}, "to": {"cell": "core.a"}},
        {"type": "routing", "delay": 7.3, "from": {"cell": "core.a", "port": "Q"}, "to": {"cell": "core.b"}},
        {"type": "setup", "delay": 0.25, "from": {"cell": "core.b"}, "to": {"cell": "core.b", "port": "DI"}},
    ]
    cells = {"TRELLIS_COMB": 83640, "TRELLIS_FF": 83640, "MULT18X18D": 156, "DP16KD": 208, "DCCA": 56}
    clocks = {"$glbnet$i": (serial_mhz, 25), core_net: (fmax_mhz, 110)}
    return {
        "fmax": {net: {"achieved": achieved, "constraint": asked} for net, (achieved, asked) in clocks.items()},
        "critical_paths": [
            {"from": "posedge $glbnet$i", "to": "posedge $glbnet$i", "path": []},
            {"from": f"posedge {core_net}", "to": "<async>", "path": []},
            {"from": f"posedge {core_net}", "to": f"posedge {core_net}", "path": place},
        ],
        "utilization": {cell: {"used": n, "available": count} for n, (cell, count) in enumerate(cells.items(), 7)},
    }


@pytest.fixture
def fake_tools(tmp_path, monkeypatch):
    """A function that puts a Python program in the place of a tool; working stand-ins are there already."""
    folder = tmp_path / "tools"
    folder.mkdir()

    def put(tool, program):
        path = folder / tool
        path.write_text(f"#!{sys.executable}\nimport json, os, pathlib, sys, time\nargs = sys.argv[1:]\n" + program)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv(tools.variable(tool), str(path))

    put("yosys", YOSYS)
    put("nextpnr-ecp5", nextpnr(f"report = {make_report()!r}"))
    put("ecppack", ECPPACK)
    return put


YOSYS = """
if args == ["-V"]:
    print("Yosys 0.99+12 (git sha1 0123456, clang 1.2.3)")
elif "write_verilog" in args[-1]:
    pathlib.Path("design.v").write_text("// from " + pathlib.Path("design.il").read_text())
else:
    assert pathlib.Path("core.v").exists() and pathlib.Path("top.v").exists()
    print("3.1. Executing SYNTH pass.")
    pathlib.Path("top.json").write_text(json.dumps({"modules": {"top": {"cells": {}, "ports": {}}}}))
"""

ECPPACK = """
if args == ["--version"]:
    print("Project Trellis ecppack Version 9.8-7-g654")
else:
    config = pathlib.Path(args[args.index("--input") + 1]).read_text()
    pathlib.Path(args[args.index("--bit") + 1]).write_text("bits of " + config)
"""


def placed(tiles):
    """A placed design of two multipliers so many tiles apart."""
    return design(
        a=cell("MULT18X18D", "X2/Y10/MULT18_0", P0=2), b=cell("MULT18X18D", f"X{2 + tiles}/Y10/MULT18_1", A0=2),
        c=cell("TRELLIS_FF", "X9/Y9/SLICEA.FF0", Q=3),
    )  # fmt: skip


def nextpnr(body, *, tiles=84):
    """A nextpnr whose ``body``, which routes, sets ``report``, and may look at ``seed`` and ``args``.

    Its placement is that of two multipliers so many tiles apart.
    """
    program = f"""
        if args == ["--version"]:
            print('"nextpnr-ecp5" -- Next Generation Place and Route (Version nextpnr-7.6.5)', file=sys.stderr)
            sys.exit()
        seed = int(args[args.index("--seed") + 1])
        if "--no-route" in args:
            pathlib.Path(args[args.index("--write") + 1]).write_text(json.dumps({placed(tiles)!r}))
            sys.exit()
        assert "--no-pack" in args and args[args.index("--placer") + 1] == "sa"
        design = json.loads(pathlib.Path(args[args.index("--json") + 1]).read_text())
        @BODY@
        pathlib.Path(args[args.index("--textcfg") + 1]).write_text({CONFIG!r})
        pathlib.Path(args[args.index("--report") + 1]).write_text(json.dumps(report))
    """
    return textwrap.dedent(program).replace("@BODY@", body)


# Reading logs, reports and configurations


@pytest.mark.parametrize(
    ("line", "phase"),
    (
        ("3.21. Executing ABC9 pass (technology mapping using ABC9).\n", "ABC9"),
        ("1. Executing Verilog-2005 frontend: core.v\n", "Verilog-2005 frontend: core.v"),
        ("4.53. Executing JSON backend.\n", "JSON"),
        ("Creating module `\\top'.\n", None),
        ("Number of cells: 3. Executing\n", None),
    ),
)
def test_yosys_phase(line, phase):
    assert yosys_phase(line) == phase


@pytest.mark.parametrize(
    ("line", "phase"),
    (
        ("Info: Packing carries...\n", "packing carries"),
        ("Info:     at iteration #7, type ALL: wirelen solved = 1, spread = 2\n", "placing, iteration 7"),
        ("Info:   at iteration #5: temp = 0.000000, timing cost = 65\n", "refining the placement, iteration 5"),
        ("Info:     iter=12 wires=99 overused=3 overuse=4 tmgfail=0\n", "routing, iteration 12, 3 wires overused"),
        ("Info: Running router1 to check that route is legal...\n", "checking the routes"),
        ("Warning: something else\n", None),
    ),
)
def test_nextpnr_phase(line, phase):
    assert nextpnr_phase(line) == phase


def router_line(iteration, overused, failed):
    return f"Info:     iter={iteration} wires=4000 overused={overused} overuse=9 tmgfail={failed} archfail=NA\n"


def test_router_watch_ends_what_comes_no_nearer():
    """It counts wires of both kinds, from the iteration with the fewest on."""
    watch = RouterWatch()
    for iteration, (overused, failed) in enumerate(((5000, 0), (40, 10), (49, 0), (48, 1), (900, 900))):
        watch(router_line(iteration, overused, failed))
    watch("Info: something else\n")
    for iteration in range(5, 2 + PATIENCE):
        watch(router_line(iteration, iteration % 7, 49))
    watch(router_line(2 + PATIENCE, 0, 48))
    watch(router_line(1 + 2 * PATIENCE, 48, 0))
    with pytest.raises(tools.StopTool):
        watch(router_line(2 + 2 * PATIENCE, 48, 0))


def test_router_watch_begins_anew_at_an_end():
    """Where ways cannot be bound, the router goes on from more."""
    watch = RouterWatch()
    for iteration, overused in enumerate((9, 0, 120)):
        watch(router_line(iteration, overused, 0))
    for iteration in range(3, 2 + PATIENCE):
        watch(router_line(iteration, 120, 0))
    with pytest.raises(tools.StopTool):
        watch(router_line(2 + PATIENCE, 120, 0))


def test_router_watch_lets_go_on_what_only_looks_for_ways():
    watch = RouterWatch()
    for iteration in range(3 * PATIENCE):
        watch(f"Info:     iter={iteration} wires=4000 overused=7 overuse=9 archfail=NA\n")


def test_routed_reads_the_cores_clock_path_and_cells():
    routed = Routed.from_report(3, 130.5, make_report(123.4))
    assert (routed.seed, routed.promised_mhz, routed.asked_mhz, routed.fmax_mhz) == (3, 130.5, 110, 123.4)
    assert routed.resources == {
        "lut": {"used": 7, "available": 83640},
        "ff": {"used": 8, "available": 83640},
        "mult": {"used": 9, "available": 156},
        "ebr": {"used": 10, "available": 208},
    }
    assert routed.critical_path == {
        "from": "core.a.Q",
        "to": "core.b.DI",
        "delay_ns": 8.075,
        "logic_ns": 0.775,
        "routing_ns": 7.3,
    }


def test_routed_refuses_a_slow_serial_port_and_a_missing_clock():
    with pytest.raises(GenError, match=r"^clock \$glbnet\$i reaches 24.90 MHz of 25.00 MHz$"):
        Routed.from_report(1, 110, make_report(serial_mhz=24.9))
    with pytest.raises(GenError, match="^nextpnr reports no clock 'core_clk'"):
        Routed.from_report(1, 110, make_report(core_net="other_clk"))


def test_retune_changes_the_five_words_of_the_pll():
    pll = achievable(25_000_000, 123.4e6)
    words = dict(re.findall(r"word: (\w+) ([01]+)", retune(CONFIG, pll)))
    assert int(words["CLKI_DIV"], 2) + 1 == pll.input_divider
    assert int(words["CLKOP_DIV"], 2) + 1 == int(words["CLKOP_CPHASE"], 2) + 1 == pll.feedback_divider
    assert int(words["CLKOS_DIV"], 2) + 1 == int(words["CLKOS_CPHASE"], 2) + 1 == pll.output_divider
    assert (words["CLKFB_DIV"], words["CLKOS2_DIV"]) == ("0000000", "0000111")
    assert retune(CONFIG, achievable(25_000_000, 110e6)) == CONFIG


def test_retune_wants_one_pll():
    pll = achievable(25_000_000, 110e6)
    with pytest.raises(ValueError, match="^configuration must hold one PLL, but has CLKI_DIV 0 times$"):
        retune(".device LFE5U-85F\n", pll)
    with pytest.raises(ValueError, match="CLKI_DIV 2 times"):
        retune(CONFIG + CONFIG, pll)


# Build, with stand-ins


@pytest.mark.parametrize(("fmax_mhz", "clock_mhz", "runs"), ((123.4, 122.9166, 2), (88.0, 87.5, 4)))
def test_the_clock_is_the_fastest_that_the_routed_design_meets(fake_tools, tmp_path, fmax_mhz, clock_mhz, runs):
    fake_tools("nextpnr-ecp5", nextpnr(f"report = {make_report(fmax_mhz)!r}"))
    directory = tmp_path / "out"
    report = build(make_plan(), directory=directory, verify=False)
    assert report["clock_mhz"] == pytest.approx(clock_mhz, abs=1e-3)
    assert (report["fmax_mhz"], report["timing_met"]) == (fmax_mhz, True)
    assert report["clock_mhz_asked"] == 110.0
    assert report["latency_us"] == pytest.approx(1000 / clock_mhz, rel=1e-5)
    assert report["fps"] == pytest.approx(1e6 / report["latency_us"])
    assert report["resources"]["mult"] == {"used": 9, "available": 156}
    assert report["resources_estimated"] == {"lut": 1}
    assert (report["model"], report["cycles"], report["seed"]) == ("echo", 1000, 1)
    assert report["tools"] == {"yosys": "0.99+12", "nextpnr-ecp5": "7.6.5", "ecppack": "9.8-7-g654"}
    assert set(report["seconds"]) == {"emit", "top", "synthesis", "place_and_route", "pack"}
    assert "bit_exact" not in report
    assert json.loads((directory / "report.json").read_text()) == report
    pll = achievable(25_000_000, fmax_mhz * 1e6)
    assert (directory / "top.bit").read_text() == "bits of " + retune(CONFIG, pll)
    assert (directory / "top.v").read_text() == "// from " + emit(boards.get("ulx3s"), pll).rtlil
    left = {path.name for path in directory.iterdir()}
    assert left == {
        *("core.v", "gated_adder.v", "top.v", "top.lpf", "top.bit", "report.json"),
        *("yosys.log", "nextpnr-place.log", *(f"nextpnr-route-{n}.log" for n in range(1, runs + 1)), "ecppack.log"),
    }


def test_settings_without_an_option(fake_tools, tmp_path):
    """The placed netlist carries them: nets go round a crowd, by the best way, and nothing is annealed."""
    settings = {
        "router2/bbMargin/x": 64, "router2/bbMargin/y": 32, "router2/estimateWeight": "0.6",
        "router2/initCurrCongWeight": "8", "placer1/startTemp": "0.00000001",
    }  # fmt: skip
    body = f"""
report = {make_report()!r}
design = json.loads(pathlib.Path(args[args.index("--json") + 1]).read_text())
if design["modules"]["top"]["settings"] != {settings!r}:
    sys.exit("ERROR: other settings")
"""
    fake_tools("nextpnr-ecp5", nextpnr(body))
    assert build(make_plan(), directory=tmp_path, verify=False)["timing_met"]


PACK_ONLY = """
report = {}
assert args[-1] == "--pack-only" and "--textcfg" not in args
print("Info: Device utilisation:")
print("Info: \\t          TRELLIS_IO:      12/    365     3%")
for number, cell in enumerate(("DP16KD", "MULT18X18D", "TRELLIS_FF", "TRELLIS_COMB")):
    print(f"Info: \\t{cell:>20}: {7846 + number:7}/{83640 + number:7}     9%")
sys.exit()
"""


def test_counting_without_placing(fake_tools, tmp_path):
    fake_tools("nextpnr-ecp5", nextpnr("pass").replace('seed = int(args[args.index("--seed") + 1])', PACK_ONLY))
    (tmp_path / "top.bit").write_text("of an earlier run")
    report = count(make_plan(), directory=tmp_path)
    assert report["resources"] == {
        "ebr": {"used": 7846, "available": 83640}, "mult": {"used": 7847, "available": 83641},
        "ff": {"used": 7848, "available": 83642}, "lut": {"used": 7849, "available": 83643},
    }  # fmt: skip
    assert (report["resources_estimated"], report["model"]) == ({"lut": 1}, "echo")
    assert report["tools"] == {"yosys": "0.99+12", "nextpnr-ecp5": "7.6.5"}
    assert set(report["seconds"]) == {"emit", "top", "synthesis", "pack"}
    assert json.loads((tmp_path / "report.json").read_text()) == report
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {
        *("core.v", "gated_adder.v", "top.v", "top.lpf", "top.json", "report.json"),
        *("yosys.log", "nextpnr.log"),
    }


def test_a_count_that_is_not_told(fake_tools, tmp_path):
    fake_tools("nextpnr-ecp5", "print('Info:  TRELLIS_FF: 7/ 9 0%')\n")
    with pytest.raises(GenError) as caught:
        count(make_plan(), directory=tmp_path)
    assert str(caught.value) == (
        "nextpnr's log does not tell how many TRELLIS_COMB, MULT18X18D, DP16KD the design takes"
    )  # fmt: skip
    with pytest.raises(GenError, match="board 'sim' exists only for simulation and cannot be built"):
        count(make_plan("sim"), directory=tmp_path)


def test_the_best_of_several_seeds_is_kept(fake_tools, tmp_path):
    reports = {seed: make_report(fmax) for seed, fmax in ((1, 101.0), (2, 131.0), (4, 131.0))}
    fake_tools("nextpnr-ecp5", nextpnr(f"report = {reports!r}.get(seed) or sys.exit('ERROR: seed 3 does not route')"))
    report = build(make_plan(), directory=tmp_path, verify=False, seeds=4)
    assert (report["seed"], report["fmax_mhz"]) == (2, 131.0)
    assert "seed 3 does not route" in (tmp_path / "nextpnr-3-route-1.log").read_text()


@pytest.mark.parametrize(
    ("routable", "asked", "reached"),
    (
        # Of 80 to 101 % of what the placement promises, 118.8 MHz, a third and two thirds: the PLL's next clocks.
        (130, ["103.12", "110.71", "112.5", "116.67"], 117),
        (108, ["103.12", "105.36", "107.5", "110.71 stopped"], 108),
        (106, ["103.12", "105.36", "107.5 stopped", "110.71 stopped"], 106),
        (102, ["100.0", "103.12 stopped", "110.71 stopped", "97.5"], 101),
        (60, ["100.0 stopped", "103.12 stopped", "110.71 stopped", "97.5 at most", "97.5 stopped"], 60),
    ),
)
def test_what_is_asked_for_follows_placement_and_router(fake_tools, tmp_path, routable, asked, reached):
    asking(fake_tools, 84, routable)
    report = build(make_plan(), directory=tmp_path, verify=False)
    assert sorted((tmp_path / "asked").read_text().splitlines()) == asked
    assert report["fmax_mhz"] == reached
    assert report["clock_mhz_promised"] == pytest.approx(Placement(placed(84)).clock_mhz)


@pytest.mark.parametrize(
    ("routable", "asked"),
    (
        (130, ["119.0"]),
        (118, ["103.12", "110.71", "119.0 stopped"]),
    ),
)
def test_a_clock_to_insist_on(fake_tools, tmp_path, routable, asked):
    """Whatever the placement promises; but the router may not do it."""
    asking(fake_tools, 100, routable)
    build(make_plan(), directory=tmp_path, verify=False, clock_mhz=119)
    assert sorted((tmp_path / "asked").read_text().splitlines()) == asked


def test_the_router_may_find_less_than_it_was_asked_for(fake_tools, tmp_path):
    """Then it is asked for what the PLL has in between, and the fastest is kept."""
    asking(fake_tools, 84, 130, "118.5 if asked == 119 else 118.9")
    report = build(make_plan(), directory=tmp_path, verify=False, clock_mhz=119)
    assert sorted((tmp_path / "asked").read_text().splitlines()) == ["118.75", "119.0"]
    assert report["fmax_mhz"] == 118.9
    assert report["clock_mhz_asked"] == 118.75


def asking(fake_tools, tiles, routable, reached="int(asked) + 1"):
    """A nextpnr that routes up to a clock, and leaves in ``asked`` what it was asked for and what became of it."""
    body = f"""
ripup = "--tmg-ripup" in args
lines = open(args[args.index("--lpf") + 1]).read().splitlines()
asked, = (float(line.split()[3]) for line in lines if line.startswith('FREQUENCY NET "$glbnet$core_clk" '))
stopped = ripup and asked > {routable}
report = {make_report(97.0)!r}
report["fmax"]["$glbnet$core_clk"] = {{"achieved": min({routable}, {reached}), "constraint": asked}}
told = [str(asked), *["stopped"] * stopped, *["at most"] * (not ripup)]
open("asked", "a").write(" ".join(told) + chr(10))
iteration = 0
while stopped:
    iteration += 1
    print(f"Info:     iter={{iteration}} wires=1 overused=0 overuse=0 tmgfail=1", flush=True)
"""
    fake_tools("nextpnr-ecp5", nextpnr(body, tiles=tiles))


@pytest.mark.parametrize(
    ("tool", "program", "message"),
    (
        (
            "yosys",
            YOSYS.replace('print("3.1. E', 'sys.exit("core.v:7: ERROR: syntax error") #'),
            r"^yosys failed with exit status 1; its log is .*/yosys.log\n  core.v:7: ERROR: syntax error$",
        ),
        (
            "nextpnr-ecp5",
            "print('ERROR: no room'); sys.exit(3)",
            r"^nextpnr-ecp5 failed with exit status 3; its log is .*/nextpnr-place.log\n  ERROR: no room$",
        ),
        (
            "nextpnr-ecp5",
            nextpnr(f"report = {make_report(24.0)!r}"),
            r"^the routed design reaches 24.00 MHz only, too slow .* path is core.a.Q to core.b.DI, 8.075 ns$",
        ),
        (
            "ecppack",
            ECPPACK + "    print('out of disk'); sys.exit(2)",
            r"^ecppack failed with exit status 2; its log is .*/ecppack.log\n  out of disk$",
        ),
    ),
)
def test_a_failure_leaves_no_bitstream(fake_tools, tmp_path, tool, program, message):
    for name in ("top.bit", "report.json"):
        (tmp_path / name).write_text("of an earlier run")
    fake_tools(tool, program)
    with pytest.raises(GenError, match=message):
        build(make_plan(), directory=tmp_path, verify=False)
    assert not list(tmp_path.glob("top.bit*")) and not (tmp_path / "report.json").exists()


def test_other_files_in_the_folder_stay(fake_tools, tmp_path):
    for name in ("notes.log", "top.txt", "model.tflite"):
        (tmp_path / name).write_text("mine")
    build(make_plan(), directory=tmp_path, verify=False)
    assert all((tmp_path / name).read_text() == "mine" for name in ("notes.log", "top.txt", "model.tflite"))


@pytest.mark.parametrize(
    "bit_exact, cycles, problem",
    [
        (True, 1000, None),
        (False, 1000, "^echo: the simulated core differs from the golden model: y row 3$"),
        (True, 1001, "^echo: the simulated core took 1001 cycles, not 1000 as planned$"),
    ],
)
def test_the_core_is_simulated_first(fake_tools, tmp_path, monkeypatch, bit_exact, cycles, problem):
    simulated = []

    def simulate(plan, inputs, *, directory):
        simulated.append((plan.table.name, [sorted(arrays) for arrays in inputs], directory))
        assert not (tmp_path / "yosys.log").exists()
        return {"bit_exact": bit_exact, "difference": "y row 3", "cycles_measured": cycles, "host_load_us": 2.5}

    module = ModuleType("gen.simulate")
    module.simulate = simulate
    monkeypatch.setitem(sys.modules, "gen.simulate", module)
    if problem is None:
        report = build(make_plan(), directory=tmp_path)
        assert (report["bit_exact"], report["cycles_measured"], report["host_load_us"]) == (True, 1000, 2.5)
        assert "simulate" in report["seconds"] and "verilator" in report["tools"]
    else:
        with pytest.raises(GenError, match=problem):
            build(make_plan(), directory=tmp_path)
        assert not (tmp_path / "yosys.log").exists()
    assert simulated == [("echo", [["x"]], tmp_path / "simulation")]


def test_what_cannot_be_built_is_refused(tmp_path):
    with pytest.raises(GenError, match="^board 'sim' exists only for simulation and cannot be built; use simulate or"):
        build(make_plan("sim"), directory=tmp_path / "out")
    with pytest.raises(GenError, match="^seeds must be at least 1, not 0$"):
        build(make_plan(), directory=tmp_path / "out", seeds=0)
    assert not (tmp_path / "out").exists()


# Tools


def test_a_users_tool_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("NEXTPNR_ECP5", str(tmp_path / "nowhere"))
    with pytest.raises(GenError, match="^NEXTPNR_ECP5 must name a program, not '.*/nowhere': there is none"):
        build(make_plan(), directory=tmp_path / "out", verify=False)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.delenv("YOSYS", raising=False)
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GenError, match="^yosys is not installed: install the package pyosys with pip, or name"):
        tools.command("yosys")


def test_a_tool_that_is_no_program_is_named(monkeypatch, tmp_path):
    (tmp_path / "ecppack").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "ecppack").chmod(0o755)
    monkeypatch.setenv("ECPPACK", str(tmp_path / "ecppack"))
    for call in (lambda: tools.version("ecppack"), lambda: tools.run("ecppack", [], directory=tmp_path, log="x.log")):
        with pytest.raises(GenError, match="^ecppack cannot be run: .*/ecppack: Exec format error$"):
            call()


def test_a_tool_that_takes_too_long_is_stopped(fake_tools, tmp_path):
    fake_tools("yosys", "print('working', flush=True)\ntime.sleep(60)")
    with pytest.raises(GenError, match=r"^yosys ran for more than 0.5 s and was stopped; its log is .*/y.log$"):
        tools.run("yosys", [], directory=tmp_path, log="y.log", timeout_s=0.5)


def test_a_failure_shows_the_last_lines_where_none_tells_of_an_error(fake_tools, tmp_path):
    fake_tools("yosys", "print('\\n'.join(map(str, range(50))))\nsys.exit(9)")
    with pytest.raises(GenError) as caught:
        tools.run("yosys", [], directory=tmp_path, log="y.log")
    assert str(caught.value).splitlines()[1:] == [f"  {n}" for n in range(44, 50)]
    assert (tmp_path / "y.log").read_text().split() == [str(n) for n in range(50)]


def test_verilator_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GenError, match=r"^Verilator needs g\+\+, make, perl; not found: g\+\+, make, perl \(Debian"):
        tools.verilator_environment()


def test_verilators_environment(monkeypatch, tmp_path):
    for name in ("g++", "make", "perl", "verilator"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VERILATOR", raising=False)
    environment = tools.verilator_environment()
    assert environment["PATH"] == f"{environment['VERILATOR_ROOT']}/bin:{tmp_path}"
    assert tools.command("verilator") == [f"{environment['VERILATOR_ROOT']}/bin/verilator"]
    monkeypatch.setenv("VERILATOR", "verilator")
    monkeypatch.setenv("VERILATOR_ROOT", "/elsewhere")
    environment = tools.verilator_environment()
    assert environment["PATH"] == f"{tmp_path}:{tmp_path}" and "VERILATOR_ROOT" not in environment


# With the real tools


@pytest.mark.synth
@pytest.mark.parametrize(("name", "bel"), (("ulx3s", "X4/Y10/MULT18_0"), ("ulx3s-12f", None)))
def test_bitstream(tmp_path, name, bel):
    board = boards.get(name)
    core = CORE.replace("@BEL@", bel) if bel else CORE.replace('(* BEL = "@BEL@" *)', "")
    report = build(make_plan(name, clock_mhz=100, core=core), directory=tmp_path, verify=False)
    assert report["timing_met"] and 90 < report["clock_mhz"] <= report["fmax_mhz"]
    assert {kind: count["available"] for kind, count in report["resources"].items()} == board.resources
    # the core's trace outputs, and what only they need, are gone: the rest is the serial port
    assert report["resources"]["mult"]["used"] == report["resources"]["ebr"]["used"] == 1
    assert report["resources"]["ff"]["used"] < 400
    bitstream = (tmp_path / "top.bit").read_bytes()
    assert f"Part: {board.device}-6CABGA381".encode() in bitstream
    assert b"\xe2\0\0\0" + board.idcode.to_bytes(4, "big") in bitstream
    log = (tmp_path / "nextpnr-place.log").read_text()
    assert f"'pll' is constrained to {board.clock_in_hz / 1e6:.1f} MHz" in log


@pytest.mark.synth
def test_retuned_words_are_those_that_nextpnr_writes(tmp_path):
    board = boards.get("ulx3s-25f")
    settings = [achievable(board.clock_in_hz, hz) for hz in (47e6, 93.8e6)]
    configs = []
    for pll in settings:
        files = emit(board, pll)
        (tmp_path / "core.v").write_text(CORE.replace('(* BEL = "@BEL@" *)', ""))
        (tmp_path / "top.v").write_text(tools.rtlil_to_verilog(files.rtlil))
        (tmp_path / "top.lpf").write_text(files.lpf)
        script = "read_verilog core.v top.v; synth_ecp5 -top top -json top.json"
        tools.run("yosys", ["-p", script], directory=tmp_path, log="yosys.log")
        arguments = [*board.nextpnr_arguments, "--json", "top.json", "--lpf", "top.lpf", "--textcfg", "top.config"]
        tools.run("nextpnr-ecp5", [*arguments, "--router", "router2"], directory=tmp_path, log="nextpnr.log")
        assert f"{pll.clock_mhz:.1f} MHz for net core_clk" in (tmp_path / "nextpnr.log").read_text()
        configs.append((tmp_path / "top.config").read_text())
    own, retuned, other = (_pll_lines(config) for config in (configs[0], retune(configs[0], settings[1]), configs[1]))
    assert own != retuned == other


def _pll_lines(config):
    """What a configuration says of the PLL's outputs."""
    return re.findall(r"(?m)^(?:word|enum): CLK.*$", config)
