"""Timing of placed designs of a few cells, worked out by hand; and of a real one, which nextpnr works out too."""

import json
import re
from collections import defaultdict

import numpy as np
import pytest
from placed_designs import cell, design

import boards
from boards.pll import achievable
from boards.top import emit
from gen import tools
from gen.place_and_route import SETTINGS, readable
from gen.placement import Placement, wire_ns


def wire(across, down):
    return 0.08 * (6 + across + min(across, 5) + down + min(down, 5))


def slowest(placement):
    """Nanoseconds, cells and last port of the slowest path."""
    arc = int(np.argmax(placement.delays))
    path = placement.path(arc)
    cells = [placement.names[placement.arc_from[path[0]]], *(placement.names[placement.arc_cell[n]] for n in path)]
    return placement.delays[arc], cells, placement.arc_port[path[-1]]


@pytest.mark.parametrize("across, down", [(0, 0), (3, 0), (5, 6), (40, 12)])
def test_a_wire(across, down):
    assert wire_ns(across, down) == pytest.approx(wire(across, down))
    placement = Placement(
        design(
            a=cell("TRELLIS_FF", "X50/Y20/SLICEA.FF0", Q=2),
            b=cell("TRELLIS_FF", f"X{50 - across}/Y{20 + down}/SLICEB.FF1", M=2, Q=3),
        )
    )
    assert slowest(placement) == (pytest.approx(0.525 + wire(across, down)), ["a", "b"], "M")
    assert placement.clock_mhz == pytest.approx(1000 / (0.525 + wire(across, down)))


def test_the_later_of_two_ways_through_a_carry_chain():
    """Into the chain, along it and out of it; a register behind it costs no wire. Nothing comes from the clock."""
    cells = {
        "a1": cell("TRELLIS_FF", "X10/Y10/SLICEA.FF0", Q=2),
        "ram1": cell("DP16KD", "X20/Y10/EBR0", CLKA=1, DOA0=3),
        "carry1": cell("TRELLIS_COMB", "X10/Y14/SLICEA.K0", parameters={"MODE": "CCU2"}, A=2, B=3, FCO=4),
        "carry2": cell("TRELLIS_COMB", "X10/Y14/SLICEA.K1", parameters={"MODE": "CCU2"}, FCI=4, FCO=5),
        "carry3": cell("TRELLIS_COMB", "X10/Y14/SLICEB.K0", parameters={"MODE": "CCU2"}, FCI=5, F=6),
        "b1": cell("TRELLIS_FF", "X10/Y14/SLICEB.FF0", DI=6, Q=7),
        "$PACKER_VCC": cell("TRELLIS_COMB", "X0/Y0/SLICEA.K0", F=1),
    }
    delay = 0.973 + wire(10, 4) + 0.447 + 0.071 + 0.443
    assert slowest(Placement(design(**cells))) == (
        pytest.approx(delay), ["ram1", "carry1", "carry2", "carry3", "b1"], "DI"
    )  # fmt: skip
    cells["a1"]["attributes"]["NEXTPNR_BEL"] = "X60/Y10/SLICEA.FF0"
    assert slowest(Placement(design(**cells)))[1][0] == "a1"


@pytest.mark.parametrize(
    "begin, end, takes",
    [
        ("X9/Y9/SLICEB.FF0", "X9/Y9/SLICEB.K0", 0),  # a register and the LUT beside it
        ("X9/Y9/SLICEB.FF0", "X9/Y9/SLICEB.K1", wire(0, 0)),
        ("X9/Y9/SLICEB.FF0", "X9/Y8/SLICEB.K0", wire(0, 1)),
    ],
)
def test_a_register_and_the_lut_beside_it(begin, end, takes):
    placement = Placement(
        design(
            a=cell("TRELLIS_FF", begin, Q=2),
            lut=cell("TRELLIS_COMB", end, C=2, F=3),
            b=cell("TRELLIS_FF", "X29/Y9/SLICEA.FF0", LSR=3, Q=4),
        )
    )
    down = abs(int(end.split("/")[1][1:]) - 9)
    delay = 0.525 + takes + 0.236 + wire(20, down) + 0.424
    assert slowest(placement) == (pytest.approx(delay), ["a", "lut", "b"], "LSR")


@pytest.mark.parametrize("slot, takes", [("SLICEA.K0", 0), ("SLICEA.K1", wire(0, 0)), ("SLICED.K0", wire(0, 0))])
def test_luts_of_a_tile_reach_one_another(slot, takes):
    placement = Placement(
        design(
            a=cell("TRELLIS_FF", "X5/Y9/SLICEA.FF0", Q=2),
            lut1=cell("TRELLIS_COMB", f"X9/Y9/{slot}", A=2, F=3),
            lut2=cell("TRELLIS_COMB", "X9/Y9/SLICEC.K1", D=3, F=4),
            b=cell("TRELLIS_FF", "X9/Y9/SLICEC.FF1", DI=4, Q=5),
        )
    )
    assert slowest(placement)[0] == pytest.approx(0.525 + wire(4, 0) + 0.236 + takes + 0.236)


def test_multiplexers_behind_luts():
    """LUT5 of two LUT4s, by F1 and the select; LUT6 of two LUT5s, which only FXA and FXB reach."""
    placement = Placement(
        design(
            a=cell("TRELLIS_FF", "X5/Y9/SLICEA.FF0", Q=2),
            upper=cell("TRELLIS_COMB", "X9/Y9/SLICEA.K1", A=2, F=3),
            lower=cell("TRELLIS_COMB", "X9/Y9/SLICEA.K0", F1=3, M=None, OFX=4),
            six=cell("TRELLIS_COMB", "X9/Y9/SLICEB.K1", FXA=4, OFX=5),
            b=cell("TRELLIS_FF", "X12/Y9/SLICEA.FF1", M=5, Q=6),
        )
    )
    delay = 0.525 + wire(4, 0) + 0.236 + wire(0, 0) + 0.165 + 0 + 0.239 + wire(3, 0)
    assert slowest(placement) == (pytest.approx(delay), ["a", "upper", "lower", "six", "b"], "M")


@pytest.mark.parametrize("register, launch", [("OUTREG", 0.973), ("NOREG", 5.83)])
def test_a_block_ram_with_and_without_its_register(register, launch):
    ram = cell("DP16KD", "X9/Y10/EBR0", parameters={"REGMODE_A": register}, CLKA=1, DOA0=3)
    placement = Placement(design(ram=ram, b=cell("TRELLIS_FF", "X9/Y9/SLICEA.FF0", M=3, Q=4)))
    assert slowest(placement)[0] == pytest.approx(launch + wire(0, 1))


def test_other_clocks_do_not_count():
    """Neither from nor to registers of another clock than the core's."""
    cells = {f"r{n}": cell("TRELLIS_FF", f"X9/Y9/SLICEA.FF{n}", M=20 + n - 1, Q=20 + n) for n in range(2)}
    cells["other"] = cell("TRELLIS_FF", "X90/Y9/SLICEA.FF0", CLK=9, M=20, Q=30)
    cells["r2"] = cell("TRELLIS_FF", "X9/Y9/SLICEB.FF0", M=30, Q=31)
    assert slowest(Placement(design(**cells)))[:2] == (pytest.approx(0.525 + wire(0, 0)), ["r0", "r1"])


def test_moving_and_writing():
    """Cells stand where they were moved; ports without a net say so; nothing is packed at ports again."""
    placement = Placement(
        design(
            a=cell("TRELLIS_FF", "X10/Y10/SLICEA.FF0", Q=2),
            lut=cell("TRELLIS_COMB", "X10/Y12/SLICEA.K0", A=2, B=None, F=3),
            b=cell("MULT18X18D", "X40/Y10/MULT18_0", A0=3, P0=4),
        )
    )
    assert placement.clock_nets == ["$glbnet$core_clk"]
    before, places = placement.clock_mhz, placement.places
    x, y, slot = placement.places
    x[:2], y[1], slot[1] = (20, 30), 14, 5
    placement.move(x, y, slot)
    assert placement.clock_mhz != before
    assert placement.delays.max() == pytest.approx(0.525 + wire(10, 4) + 0.236 + wire(10, 4) + 0.084)
    written = readable(placement.design())["modules"]["top"]
    attributes = {name: data["attributes"] for name, data in written["cells"].items()}
    bels = {"a": "X20/Y10/SLICEA.FF0", "lut": "X30/Y14/SLICEC.K1", "b": "X40/Y10/MULT18_0"}
    assert attributes == {name: {"BEL": bel} for name, bel in bels.items()}
    assert written["cells"]["lut"]["connections"] == {"A": [2], "B": ["x"], "F": [3]}
    assert (written["ports"], written["settings"]) == ({}, SETTINGS)
    placement.move(*places)
    assert placement.clock_mhz == pytest.approx(before)


# Beside nextpnr

#: Sums and products of a word that comes in bit by bit, with everything that a tile of logic has in it.
CORE = """
module core(
  input clk, input [7:0] i__payload, input i__valid, output i__ready,
  output reg [7:0] o__payload, output reg o__valid, input o__ready
);
  reg [23:0] word, sum, held;
  reg [7:0] small [0:15];
  reg [8:0] large [0:1023], read;
  wire [35:0] product;
  assign i__ready = 1;
  MULT18X18D #(
    .REG_INPUTA_CLK("CLK0"), .REG_INPUTB_CLK("CLK0"), .REG_PIPELINE_CLK("CLK0"), .REG_OUTPUT_CLK("CLK0")
  ) multiplier (
    .CLK0(clk), .CE0(1'b1), .RST0(1'b0), .A0(word[0]), .A1(word[1]), .A2(word[2]), .A3(word[3]), .B0(word[4]),
    .B1(word[5]), .B2(word[6]), .P0(product[0]), .P1(product[1]), .P2(product[2]), .P3(product[3])
  );
  always @(posedge clk) begin
    if (i__valid) begin word <= {word[15:0], i__payload}; small[word[3:0]] <= i__payload; end
    sum <= word[23] ? sum + word : sum ^ {word[7:0], word[23:8]};
    read <= large[sum[9:0]];
    if (word[0]) large[held[9:0]] <= sum[8:0] + product[3:0];
    case (word[2:0])
      0: held <= sum; 1: held <= word; 2: held <= {sum[7:0], word[15:0]}; 3: held <= held + 1;
      4: held <= ~sum; 5: held <= {held[22:0], ^held}; 6: held <= held ^ word; default: held <= {held[0], sum[23:1]};
    endcase
    o__valid <= i__valid | o__valid & ~o__ready;
    o__payload <= read[7:0] ^ small[sum[3:0]] ^ held[7:0] ^ {7'b0, read[8]};
  end
endmodule
"""


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    """A folder with a netlist, its placement, and the clock that nextpnr tells of it."""
    folder = tmp_path_factory.mktemp("placed")
    board = boards.get("ulx3s-12f")
    files = emit(board, achievable(board.clock_in_hz, 100e6))
    (folder / "core.v").write_text(CORE)
    (folder / "top.v").write_text(tools.rtlil_to_verilog(files.rtlil))
    (folder / "top.lpf").write_text(files.lpf)
    script = "read_verilog core.v top.v; synth_ecp5 -top top -json top.json"
    tools.run("yosys", ["-p", script], directory=folder, log="yosys.log")
    run(folder, "top.json", "top.lpf", "--no-route", "--write", "placed.json")
    log = (folder / "nextpnr.log").read_text()
    return folder, float(re.findall(r"Max frequency for clock\s+'\$glbnet\$core_clk': ([\d.]+) MHz", log)[-1])


def run(folder, netlist, constraints, *more):
    arguments = [*boards.get("ulx3s-12f").nextpnr_arguments, "--json", netlist, "--lpf", constraints, "--seed", "1"]
    arguments += ["--router", "router2", "--timing-allow-fail", *more]
    tools.run("nextpnr-ecp5", arguments, directory=folder, log="nextpnr.log")


def test_the_clock_is_the_one_that_nextpnr_tells(placed):
    """But that the upper halves of carry chains count like the lower ones; with their own delays it is the same."""
    folder, told_mhz = placed
    placement = Placement(json.loads((folder / "placed.json").read_text()))
    assert 0.93 * told_mhz < placement.clock_mhz < 1.0001 * told_mhz
    upper = {"FCO": {"FCI": 0.0}, "F": {"FCI": 0.403}}
    for pin, ways in placement.ways.items():
        cell_number = placement.pin_cell[pin]
        if placement.cells[cell_number]["parameters"].get("MODE") == "CCU2" and placement.slot[cell_number] % 2:
            own = upper.get(placement.pin_port[pin], {})
            placement.ways[pin] = [(arc, own.get(placement.arc_port[arc], ns)) for arc, ns in ways]
    placement.sort_ways()
    placement.update()
    assert placement.clock_mhz == pytest.approx(told_mhz, abs=0.02)


def test_a_design_that_is_read_back_is_the_same(placed):
    """Its configuration is, but for the routes, and what follows from them: which input of a LUT a wire takes."""
    folder, _ = placed
    run(folder, "top.json", "top.lpf", "--textcfg", "one.config")
    placement = Placement(json.loads((folder / "placed.json").read_text()))
    (folder / "routable.json").write_text(json.dumps(readable(placement.design())))
    clocks = [f'FREQUENCY NET "{net}" 25 MHZ;\n' for net in placement.clock_nets]
    assert len(clocks) == 2
    (folder / "clocks.lpf").write_text("".join(clocks))
    run(
        folder, "routable.json", "clocks.lpf", "--no-pack", "--placer", "sa",
        "--textcfg", "two.config", "--write", "routed.json",
    )  # fmt: skip
    one, two = (configuration((folder / f"{name}.config").read_text()) for name in ("one", "two"))
    assert len(one) > 100 and one == two
    # The router may have a LUT's inputs change places, and its table with them: not those of memory, whose addresses
    # others share, nor those of a carry chain's halves, of which only one makes the carry.
    swaps = swapped_inputs(json.loads((folder / "routed.json").read_text()))
    assert len(swaps.pop("LOGIC")) == 6 and swaps.pop("CCU2") <= {"AB", "CD"} and not swaps


def swapped_inputs(routed):
    """By what kind of LUT, which of its inputs have changed places."""
    top = routed["modules"]["top"]
    place = re.compile(r"X(\d+)/Y(\d+)/SLICE([A-D])\.K([01])")
    modes = {}
    for data in top["cells"].values():
        if data["type"] == "TRELLIS_COMB":
            x, y, piece, half = place.match(data["attributes"]["NEXTPNR_BEL"]).groups()
            modes[x, y, str(2 * "ABCD".index(piece) + int(half))] = data["parameters"].get("MODE", "LOGIC")
    swaps = defaultdict(set)
    for net in top["netnames"].values():
        for pip in net["attributes"].get("ROUTING", "").split(";")[1::3]:
            way = re.fullmatch(r"X(\d+)/Y(\d+)/\d_\d_([A-D])(\d)->\d_\d_([A-D])\d_SLICE", pip)
            if way and way[3] != way[5]:
                swaps[modes[way[1], way[2], way[4]]].add("".join(sorted(way[3] + way[5])))
    return swaps


def configuration(text):
    """What a configuration sets, tile by tile, besides routes."""
    found, tile = {}, None
    for line in text.splitlines():
        if line.startswith("."):
            tile = line
        elif line and not re.match(r"arc: |word: SLICE.\.K.\.INIT |enum: SLICE.\.[ABCD].MUX |enum: LSR[01]\.", line):
            found.setdefault(tile, set()).add(line)
    return found
