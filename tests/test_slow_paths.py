"""Slow paths of a design of six cells, worked out by hand."""

import json

import pytest

from gen.slow_paths import main, slow_paths

DIRECTIONS = {"Q": "output", "F": "output", "FCO": "output", "DOA0": "output"}


def cell(kind, place, **ports):
    return {
        "type": kind,
        "attributes": {"NEXTPNR_BEL": f"X{place[0]}/Y{place[1]}/SLICEA"},
        "connections": {port: [bit] for port, bit in ports.items()},
        "port_directions": {port: DIRECTIONS.get(port, "input") for port in ports},
    }


DESIGN = {
    "modules": {
        "top": {
            "cells": {
                "a1": cell("TRELLIS_FF", (10, 10), CLK=1, Q=2),
                "ram1": cell("DP16KD", (20, 10), CLKA=1, DOA0=3),
                "carry1": cell("TRELLIS_COMB", (10, 14), A=2, B=3, FCO=4),
                "carry2": cell("TRELLIS_COMB", (10, 14), FCI=4, F=5),
                "b1": cell("TRELLIS_FF", (10, 14), CLK=1, DI=5, Q=6),
                "b2": cell("TRELLIS_FF", (40, 14), CLK=1, M=6, Q=7),
                "$PACKER_VCC": cell("TRELLIS_COMB", (0, 0), F=1),
            }
        }
    }
}


def test_paths():
    """Through a carry chain from the later of two registers; a wire alone; nothing from the clock, nor from ties."""
    first, second = slow_paths(DESIGN)
    assert first.cells == ("b1", "b2") and first.port == "M"
    assert first.delay_ns == pytest.approx(0.52 + 0.13 * (30 + 5))
    # Out of the block RAM; 14 tiles, 9 of them near; into the chain and out of it; no wire within a cell.
    assert second.cells == ("ram1", "carry1", "carry2", "b1") and second.port == "DI"
    assert second.delay_ns == pytest.approx(0.96 + 0.13 * (14 + 9) + 0.45 + 0.45)


def test_printed(tmp_path, capsys):
    names = {"carry1": "sum_CCU2C_COUT_CIN", "carry2": "sum$CCU2_COMB1", "b1": "sum_TRELLIS_FF_Q_4"}
    text = json.dumps(DESIGN)
    for name, synthesised in names.items():
        text = text.replace(f'"{name}"', f'"{synthesised}"')
    (tmp_path / "placed.json").write_text(text)
    main([str(tmp_path / "placed.json")])
    assert capsys.readouterr().out == "  5.07 ns  sum -> b2.M\n  4.85 ns  ram1 -> sum.DI\n"
