"""The way to a bitstream: with small stand-ins for the tools, and (``synth``) with the real ones."""

import json
import re
import sys
from types import ModuleType

import pytest
from stand_ins import CONFIG, ECPPACK, YOSYS, make_plan, make_report, nextpnr

import boards
from boards.pll import achievable
from boards.top import emit
from gen import tools
from gen.build import build, count, retune, yosys_phase
from gen.errors import GenError

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
