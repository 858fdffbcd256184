"""Placed designs, as nextpnr writes them, of a few cells."""

OUTPUTS = ("Q", "F", "FCO", "OFX", "DOA0", "P0", "P1")


def cell(kind, place, *, parameters=None, **ports):
    """A cell at a place, with the nets at its ports; None where a port has none."""
    if kind == "TRELLIS_FF":
        ports = {"CLK": 1, "LSR": None, **ports}
    return {
        "type": kind,
        "parameters": {"MODE": "LOGIC", **(parameters or {})},
        "attributes": {"NEXTPNR_BEL": place},
        "connections": {port: [] if net is None else [net] for port, net in ports.items()},
        "port_directions": {port: "output" if port in OUTPUTS else "input" for port in ports},
    }


def design(**cells):
    nets = {
        "$glbnet$core_clk": {"bits": [1], "attributes": {"ECP5_IS_GLOBAL": f"{1:032b}", "ROUTING": " "}},
        "core_clk": {"bits": [0], "attributes": {}},
    }
    ports = {"led": {"direction": "output", "bits": [7]}}
    return {"modules": {"top": {"settings": {"place": "1"}, "ports": ports, "cells": cells, "netnames": nets}}}
