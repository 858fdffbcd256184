"""Carry chains without the cells that place and route would add: proven equal to what was written, by Yosys."""

import copy
import json
import shutil

import pytest

from gen import tools
from gen.carry_chains import trim_carry_chains
from gen.errors import GenError
from hw.primitives import GATED_ADDER

#: Chains of odd and even lengths that begin with 0 and with 1; nobody reads the top bit of one of them, and of two
#: something else takes a carry.
DESIGN = """
module design(input [8:0] a, b, input x, y, output [8:0] sum, output [7:0] difference, output [4:0] part,
              output [6:0] gated, output [5:0] without, output less, output [3:0] taken);
  assign sum = a + b;
  assign difference = a[7:0] - b[7:0];
  wire [5:0] whole = a[5:0] + b[8:3];
  assign part = whole[4:0];
  assign less = a < b;
  GATED_ADDER #(.WIDTH(7), .SUBTRACT(0)) adder(.A(a[6:0]), .X(x), .B(b[6:0]), .Y(y), .S(gated));
  GATED_ADDER #(.WIDTH(6), .SUBTRACT(1)) subtractor(.A(a[8:3]), .X(x), .B(b[5:0]), .Y(y), .S(without));
  wire middle;
  CCU2C #(.INIT0(16'h7888), .INIT1(16'h7888), .INJECT1_0("NO"), .INJECT1_1("NO")) low(
    .CIN(1'b1), .COUT(middle), .A0(a[0]), .B0(x), .C0(b[0]), .D0(y), .S0(taken[0]),
    .A1(a[1]), .B1(x), .C1(b[1]), .D1(y), .S1(taken[1]));
  assign taken[2] = middle;
  CCU2C #(.INIT0(16'h7888), .INIT1(16'h7888), .INJECT1_0("NO"), .INJECT1_1("NO")) high(
    .CIN(middle), .A0(a[2]), .B0(x), .C0(b[2]), .D0(y), .S0(taken[3]),
    .A1(1'b0), .B1(1'b0), .C1(1'b0), .D1(1'b0));
endmodule
"""

#: Proves that a netlist computes the same as the design, for all inputs.
PROOF = f"""
    read_verilog -nooverwrite +/ecp5/cells_sim.v; read_verilog {GATED_ADDER.name} design.v;
    hierarchy -top design; proc; flatten; opt_clean; rename design gold; write_rtlil gold.il; design -reset;
    read_verilog -nooverwrite +/ecp5/cells_sim.v; read_json netlist.json;
    hierarchy -top design; proc; flatten; opt_clean; rename design gate; write_rtlil gate.il; design -reset;
    read_rtlil gold.il; read_rtlil gate.il; miter -equiv -flatten gold gate both; sat -verify -prove trigger 0 both
"""


def run(directory, script):
    tools.run("yosys", ["-q", "-p", " ".join(script.split())], directory=directory, log="yosys.log")


@pytest.fixture(scope="module")
def synthesised(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synthesis")
    (directory / "design.v").write_text(DESIGN)
    shutil.copy(GATED_ADDER, directory)
    run(directory, f"read_verilog {GATED_ADDER.name} design.v; synth_ecp5 -top design -json netlist.json")
    return json.loads((directory / "netlist.json").read_text())["modules"]["design"]


@pytest.fixture
def module(synthesised):
    return copy.deepcopy(synthesised)


def chains(module):
    return [cell for cell in module["cells"].values() if cell["type"] == "CCU2C"]


def prove(directory, module):
    """That a netlist computes DESIGN, whatever comes in at carries that it leaves open."""
    free = 1 + max(bit for net in module["netnames"].values() for bit in net["bits"])
    for cell in chains(module):
        if cell["connections"]["CIN"] == ["x"]:
            cell["connections"]["CIN"] = [free]
        cell["connections"] = {port: bits for port, bits in cell["connections"].items() if bits != ["x"]}
    module["ports"]["free"] = {"direction": "input", "bits": [free]}
    (directory / "netlist.json").write_text(json.dumps({"modules": {"design": module}}))
    (directory / "design.v").write_text(DESIGN.replace("input x, y,", "input x, y, free,"))
    shutil.copy(GATED_ADDER, directory)
    run(directory, PROOF)


def test_computes_the_same(tmp_path, module):
    trim_carry_chains(module)
    prove(tmp_path, module)


def test_nothing_is_left_to_add(module):
    """Only chains of which a carry leaves, in the middle or as the answer, keep a constant before them."""
    before = len(chains(module))
    trim_carry_chains(module)
    begins = [cell["connections"]["CIN"][0] for cell in chains(module)]
    assert begins.count("1") == 2 and begins.count("0") == 0 and begins.count("x") == 4
    assert len(chains(module)) == before + 1  # six bits take three cells, with the constant four
    taken = {
        bit
        for cell in module["cells"].values()
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "input"
        for bit in bits
    }
    assert {cell["connections"]["COUT"][0] for cell in chains(module)} <= taken | {"x"}


def test_the_proof_can_fail(tmp_path, module):
    """A chain that begins with the other constant."""
    trim_carry_chains(module)
    first = next(cell for cell in chains(module) if cell["connections"]["CIN"] == ["x"])
    first["parameters"]["INIT0"] = f"{int(first['parameters']['INIT0'], 2) ^ 0xF:016b}"
    with pytest.raises(GenError, match="proof did fail"):
        prove(tmp_path, module)
