"""Slow paths of a design of a few cells, as they are printed."""

import json

from placed_designs import cell, design

from gen.placement import Placement
from gen.slow_paths import main, slow_paths

CELLS = {
    "a1": cell("MULT18X18D", "X10/Y10/MULT18_0", P0=2, P1=8),
    "a2": cell("MULT18X18D", "X12/Y10/MULT18_1", P0=3),
    "sum_CCU2C_COUT_CIN": cell("TRELLIS_COMB", "X10/Y14/SLICEA.K0", A=2, B=3, F=4),
    "sum_LUT4_Z": cell("TRELLIS_COMB", "X10/Y14/SLICEA.K1", C=4, F=5),
    "sum_TRELLIS_FF_Q_4": cell("TRELLIS_FF", "X10/Y14/SLICEA.FF1", DI=5, Q=6),
    "far": cell("TRELLIS_FF", "X60/Y14/SLICEA.FF0", Q=9),
    "b2": cell("MULT18X18D", "X60/Y10/MULT18_4", A0=6, A1=8),
}


def test_paths():
    """Slowest first, each with something that those before it have not."""
    placement = Placement(design(**CELLS))
    told = list(slow_paths(placement))
    assert [round(delay, 2) for delay, _ in told] == sorted((round(delay, 2) for delay, _ in told), reverse=True)
    ends = [
        (placement.names[placement.arc_from[path[0]]], placement.names[placement.arc_cell[path[-1]]])
        for _, path in told
    ]
    assert ends == [
        ("sum_TRELLIS_FF_Q_4", "b2"),
        ("a1", "b2"),
        ("a2", "sum_TRELLIS_FF_Q_4"),
        ("a1", "sum_TRELLIS_FF_Q_4"),
    ]


def test_printed(tmp_path, capsys):
    """By kind of cell, without the endings of synthesis; after refinement, if wanted."""
    (tmp_path / "placed.json").write_text(json.dumps(design(**CELLS)))
    main([str(tmp_path / "placed.json")])
    assert capsys.readouterr().out == ("  6.13 ns  sum -> b2.A0\n  5.70 ns  a1 -> b2.A1\n  2.65 ns  a2 -> sum.DI\n")
    main([str(tmp_path / "placed.json"), "--refined", "--paths", "1"])
    assert capsys.readouterr().out == "  5.70 ns  a1 -> b2.A1\n"
