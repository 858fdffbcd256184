"""cocotb bench of ports: plays a value a cycle into every input and keeps what the outputs show in that cycle.

What to play comes from the file that GEN_BENCH names, JSON with ``inputs`` (port name to values, unsigned) and
``outputs`` (port names); the outputs' values go to the file that GEN_BENCH_RESULT names, in the same form.
"""

import json
import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge


@cocotb.test()
async def play(dut):
    """Play all cycles."""
    script = json.loads(Path(os.environ["GEN_BENCH"]).read_text(encoding="utf-8"))
    inputs = [(getattr(dut, name), values) for name, values in script["inputs"].items()]
    outputs = [(getattr(dut, name), []) for name in script["outputs"]]
    rising, falling = RisingEdge(dut.clk), FallingEdge(dut.clk)
    for port, values in inputs:
        port.value = values[0]
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(4):
        await rising
    dut.rst.value = 0
    for cycle in range(max(len(values) for _, values in inputs)):
        for port, values in inputs:
            if 0 < cycle < len(values) and values[cycle] != values[cycle - 1]:
                port.value = values[cycle]
        await falling
        for port, values in outputs:
            values.append(int(port.value))
        await rising
    result = dict(zip(script["outputs"], (values for _, values in outputs), strict=True))
    Path(os.environ["GEN_BENCH_RESULT"]).write_text(json.dumps(result), encoding="utf-8")
