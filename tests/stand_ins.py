"""Small programs in the place of Yosys, nextpnr and ecppack, and what they are given."""

import textwrap
from types import SimpleNamespace

from placed_designs import cell, design

import boards
from gen.table import Layer, Quantization, Table, TensorType
from hw.places import CORE_ANYWHERE


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
