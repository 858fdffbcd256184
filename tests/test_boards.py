# amaranth: UnusedElaboratable=no

"""Boards, PLL settings, and the board top: in Amaranth's simulator, and as emitted Verilog in Verilator."""

import random
import re
from fractions import Fraction
from pathlib import Path

import amaranth_boards.ulx3s
import cocotb
import pytest
from amaranth.sim import Simulator
from cocotb.triggers import First, RisingEdge, Timer
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

import boards
from boards import pll
from boards.top import SerialBridge, emit
from gen import tools

BAUD = 3_000_000
BIT_NS = 1e9 / BAUD


def line_bits(byte):
    """What one byte looks like on the line."""
    return [0, *((byte >> n) & 1 for n in range(8)), 1]


# Boards


def test_ulx3s_is_the_85f_and_sim_its_twin():
    ulx3s, sim = boards.get("ulx3s"), boards.get("sim")
    assert ulx3s.device == boards.get("ulx3s-85f").device == sim.device == "LFE5U-85F"
    assert ulx3s.resources == sim.resources == {"lut": 83640, "ff": 83640, "mult": 156, "ebr": 208}
    assert (ulx3s.simulation_only, sim.simulation_only) == (False, True)


@pytest.mark.parametrize("name", boards.names())
def test_board_agrees_with_amaranth_boards(name):
    board = boards.get(name)
    assert board.name == name
    platform = getattr(amaranth_boards.ulx3s, board.platform)(toolchain="Trellis")
    assert platform.device == board.device
    assert platform.speed == board.speed_grade
    assert platform.default_clk_frequency == board.clock_in_hz
    assert platform._nextpnr_device_options[platform.device] == board.nextpnr_device
    assert platform._nextpnr_package_options[platform.package].upper() == board.package
    assert board.nextpnr_arguments == [board.nextpnr_device, "--package", "CABGA381", "--speed", "6"]


def test_unknown_board_is_refused_with_a_list():
    with pytest.raises(ValueError, match=r"^board must be one of ulx3s, ulx3s-12f, .*, sim, not 'icebreaker'$"):
        boards.get("icebreaker")


# PLL


@pytest.mark.parametrize("clock_in_hz", (12_000_000, 25_000_000, 48_000_000, 100_000_000))
def test_every_clock_keeps_the_data_sheets_limits(clock_in_hz):
    settings = pll.clocks(clock_in_hz)
    for setting in settings:
        parameters = setting.parameters
        pfd = clock_in_hz / parameters["CLKI_DIV"]
        vco = pfd * parameters["CLKOP_DIV"]
        assert 10e6 <= pfd <= 400e6
        assert 400e6 <= vco <= 800e6
        assert float(setting.clock_hz) == pytest.approx(vco / parameters["CLKOS_DIV"])
        assert setting.clock_mhz * 1e6 == pytest.approx(float(setting.clock_hz))
        assert parameters["CLKOP_CPHASE"] == parameters["CLKOP_DIV"] - 1 <= 127
        assert parameters["CLKOS_CPHASE"] == parameters["CLKOS_DIV"] - 1 <= 127
    rates = [setting.clock_hz for setting in settings]
    assert rates == sorted(set(rates))


def test_clocks_are_at_most_2_percent_apart():
    rates = [setting.clock_hz for setting in pll.clocks(25_000_000)]
    assert (rates[0], rates[-1]) == (25_000_000, 200_000_000)
    assert max(b / a for a, b in zip(rates, rates[1:], strict=False)) <= 1.02


def test_achievable_is_the_best_there_is():
    random.seed(3)
    for _ in range(8):
        at_most = random.uniform(25e6, 210e6)
        best = max(
            vco / m
            for n in (1, 2)
            for vco in (Fraction(25_000_000 * k, n) for k in range(1, 129))
            if 400e6 <= vco <= 800e6
            for m in range(1, 129)
            if vco / m <= min(at_most, 200e6)
        )
        assert pll.achievable(25_000_000, at_most).clock_hz == best


def test_achievable_worked_example():
    assert pll.achievable(25_000_000, 108.4e6) == pll.PLL(25_000_000, 1, 26, 6)
    assert pll.achievable(25_000_000, 108.4e6).clock_mhz == pytest.approx(108.3333, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ((25_000_000, 0, 26, 6), "input_divider must be in 1..128, not 0"),
        ((25_000_000, 1, 26, 129), "output_divider must be in 1..128, not 129"),
        ((25_000_000, 3, 60, 6), "PLL phase detector must run at 10 to 400 MHz, not 8.33333 MHz"),
        ((25_000_000, 1, 33, 6), "PLL oscillator must run at 400 to 800 MHz, not 825 MHz"),
        ((25_000_000, 1, 32, 1), "PLL output must run at 3.125 to 400 MHz, not 800 MHz"),
        ((1_000_000, 1, 128, 6), "PLL input must run at 8 to 400 MHz, not 1 MHz"),
    ),
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pll.PLL(*arguments)


def test_unreachable_clock_is_refused():
    with pytest.raises(ValueError, match="^core clock must be at least 25 MHz, not 24.9 MHz$"):
        pll.achievable(25_000_000, 24.9e6)
    with pytest.raises(ValueError, match="^PLL input must run at 8 to 400 MHz, not 1 MHz$"):
        pll.clocks(1_000_000)


# Serial bridge, in Amaranth's simulator


def bridge_run(line, *, core_hz, stall=lambda clock: False, bits_more=12):
    """Send ``line`` (levels, a bit time each) through a bridge whose core echoes; levels of ``tx``, LEDs seen.

    ``stall(clock)`` says in which clocks the core takes no byte. ``tx`` is sampled eight times a bit.
    """
    dut = SerialBridge(uart_clk_hz=25_000_000, baud=BAUD, heartbeat_bits=6, activity_bits=4)
    levels, leds = [], []

    async def host(ctx):
        ctx.set(dut.rx, 1)
        await ctx.delay(1e-6)
        for bit in line:
            ctx.set(dut.rx, bit)
            await ctx.delay(1 / BAUD)
        ctx.set(dut.rx, 1)
        await ctx.delay(bits_more / BAUD)

    async def core(ctx):
        clock = 0
        while True:
            clock += 1
            take = not stall(clock)
            ctx.set(dut.to_core.ready, take)
            _, _, valid, payload = await ctx.tick().sample(dut.to_core.valid, dut.to_core.payload)
            if valid and take:
                ctx.set(dut.to_core.ready, 0)
                ctx.set(dut.from_core.payload, payload)
                ctx.set(dut.from_core.valid, 1)
                await ctx.tick().until(dut.from_core.ready)
                ctx.set(dut.from_core.valid, 0)

    async def monitor(ctx):
        while True:
            await ctx.delay(1 / BAUD / 8)
            levels.append(ctx.get(dut.tx))
            leds.append(ctx.get(dut.leds))

    sim = Simulator(dut)
    sim.add_clock(1 / 25e6, domain="uart")
    sim.add_clock(1 / core_hz, domain="sync")
    sim.add_testbench(host)
    sim.add_testbench(core, background=True)
    sim.add_testbench(monitor, background=True)
    sim.run()
    return levels, leds


def decode(levels):
    """Bytes on a line sampled eight times a bit."""
    data, n = [], 0
    while n + 80 <= len(levels):
        if levels[n]:
            n += 1
            continue
        bits = levels[n + 4 : n + 80 : 8]
        assert (bits[0], bits[9]) == (0, 1), "framing"
        data.append(sum(bit << k for k, bit in enumerate(bits[1:9])))
        n += 76
    return data


@pytest.mark.parametrize("core_hz", (25e6, 62.5e6, 108.33e6))
def test_bytes_cross_both_ways_in_order(core_hz):
    random.seed(4)
    data = [0x00, 0xFF, *random.randbytes(8)]
    line = [bit for byte in data for bit in line_bits(byte)]
    levels, leds = bridge_run(line, core_hz=core_hz, bits_more=24)
    assert decode(levels) == data
    assert not any(led & 0b1000 for led in leds)
    # dark, lit, dark again; and the heartbeat goes on
    for led in (0b0010, 0b0100):
        lit = [bool(shown & led) for shown in leds]
        assert (lit[0], True in lit, lit[-1]) == (False, True, False)
    assert {shown & 1 for shown in leds} == {0, 1}


def test_a_core_that_stalls_for_20_bytes_loses_none():
    data = list(range(0x40, 0x40 + 20))
    line = [bit for byte in data for bit in line_bits(byte)]
    busy_clocks = int(len(line) / BAUD * 30e6) + 100
    levels, leds = bridge_run(line, core_hz=30e6, stall=lambda clock: clock < busy_clocks, bits_more=220)
    assert decode(levels) == data
    assert leds[-1] & 0b1000 == 0


def test_a_lost_byte_lights_the_error_led_for_good():
    line = [bit for byte in range(26) for bit in line_bits(byte)]
    busy_clocks = int(len(line) / BAUD * 30e6) + 100
    levels, leds = bridge_run(line, core_hz=30e6, stall=lambda clock: clock < busy_clocks, bits_more=300)
    assert 20 <= len(decode(levels)) < 26
    assert leds[0] & 0b1000 == 0
    assert leds[-1] & 0b1000


def test_a_framing_error_lights_the_error_led():
    _, leds = bridge_run([0] * 11, core_hz=30e6)
    assert leds[-1] & 0b1000


def test_bridge_refuses_a_slow_clock():
    with pytest.raises(ValueError, match="^clk_hz must be at least 8"):
        SerialBridge(uart_clk_hz=20_000_000, baud=BAUD)


# Board top


def test_top_has_the_boards_pins_and_the_plls_dividers():
    setting = pll.achievable(25_000_000, 108.4e6)
    files = emit(boards.get("ulx3s-12f"), setting)
    sites = dict(re.findall(r'LOCATE COMP "(\w+)__io" SITE "(\w+)";', files.lpf))
    leds = {"led_0": "B2", "led_1": "C2", "led_2": "C1", "led_3": "D2"}
    assert sites == {"clk25_0": "G2", "uart_0__rx": "M1", "uart_0__tx": "L4", **leds}
    assert 'FREQUENCY PORT "clk25_0__io" 25000000' in files.lpf
    parameters = dict(re.findall(r"parameter \\(CLK\w+) (\d+)", files.rtlil))
    assert {name: int(parameters[name]) for name in setting.parameters} == setting.parameters
    assert parameters["CLKFB_DIV"] == "1"
    assert emit(boards.get("ulx3s-12f"), setting) == files


def test_only_the_plls_dividers_differ_from_clock_to_clock():
    texts = [emit(boards.get("ulx3s"), pll.achievable(25_000_000, hz)).rtlil.splitlines() for hz in (30e6, 131.3e6)]
    changed = [a for a, b in zip(*texts, strict=True) if a != b]
    assert changed and all(re.match(r"\s*parameter \\CLK(I|OP|OS)_(DIV|CPHASE) ", line) for line in changed)


def test_top_refuses_what_it_cannot_serve():
    with pytest.raises(ValueError, match="^board 'sim' exists only for simulation: it has no pins$"):
        emit(boards.get("sim"), pll.achievable(25_000_000, 100e6))
    with pytest.raises(ValueError, match="^PLL must run from ulx3s's 25000000 Hz, not from 48000000 Hz$"):
        emit(boards.get("ulx3s"), pll.achievable(48_000_000, 100e6))


#: Behaviour of what the emitted top instantiates; the bench drives the PLL's clock and LOCK.
MODELS = """
`timescale 1ns/1ps
module IB(input I, output O); assign O = I; endmodule
module OBZ(input I, input T, output O); assign O = T ? 1'bz : I; endmodule
module EHXPLLL #(
    parameter PLLRST_ENA = "", INTFB_WAKE = "", STDBY_ENABLE = "", DPHASE_SOURCE = "", OUTDIVIDER_MUXA = "",
    OUTDIVIDER_MUXB = "", FEEDBK_PATH = "", CLKOP_ENABLE = "", CLKOS_ENABLE = "", CLKFB_DIV = 0, CLKOP_FPHASE = 0,
    CLKOS_FPHASE = 0, CLKI_DIV = 0, CLKOP_DIV = 0, CLKOP_CPHASE = 0, CLKOS_DIV = 0, CLKOS_CPHASE = 0
) (
    input CLKI, CLKFB, RST, STDBY, PLLWAKESYNC, ENCLKOP, ENCLKOS, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP,
    PHASELOADREG, output CLKOP, output reg CLKOS, output reg LOCK
);
  assign CLKOP = CLKI;
endmodule

// Answers each byte with its complement.
module core(
    input clk, input [7:0] i__payload, input i__valid, output i__ready,
    output reg [7:0] o__payload, output reg o__valid, input o__ready, output reg [7:0] trace_count
);
  initial begin o__valid = 0; trace_count = 0; end
  assign i__ready = ~o__valid;
  always @(posedge clk) begin
    if (i__valid & i__ready) begin
      o__payload <= ~i__payload;
      o__valid <= 1; trace_count <= trace_count + 1;
    end else if (o__ready)
      o__valid <= 0;
  end
endmodule
"""


@cocotb.test()
async def bench_top(dut):
    """Bytes sent while the PLL is not locked vanish; all later ones come back complemented."""
    received = []
    dut.uart_0__rx__io.value = 1
    dut.pll.LOCK.value = 0

    async def clock(signal, half_ps):
        while True:
            signal.value = 0
            await Timer(half_ps, "ps")
            signal.value = 1
            await Timer(half_ps, "ps")

    async def send(byte):
        for bit in line_bits(byte):
            dut.uart_0__rx__io.value = bit
            await Timer(round(BIT_NS * 1000), "ps")

    async def listen():
        while True:
            while dut.uart_0__tx__io.value != 0:
                await Timer(20, "ns")
            await Timer(round(BIT_NS * 1500), "ps")
            byte = 0
            for n in range(8):
                byte |= int(dut.uart_0__tx__io.value) << n
                await Timer(round(BIT_NS * 1000), "ps")
            assert dut.uart_0__tx__io.value == 1, "framing"
            received.append(byte)

    n, m, k = (int(getattr(dut.pll, name).value) for name in ("CLKI_DIV", "CLKOS_DIV", "CLKOP_DIV"))
    cocotb.start_soon(clock(dut.clk25_0__io, 20_000))
    cocotb.start_soon(clock(dut.pll.CLKOS, 20_000 * n * m // k))
    await Timer(400, "ns")
    assert dut.uart_0__tx__io.value == 1
    for bit in line_bits(0xF0)[:4]:
        dut.uart_0__rx__io.value = bit
        await Timer(round(BIT_NS * 1000), "ps")
    dut.uart_0__rx__io.value = 1
    dut.pll.LOCK.value = 1
    await Timer(3000, "ns")
    cocotb.start_soon(listen())
    data = [0x00, 0xFF, 0x5A, 0xA5, 0x81, 0x7E]
    for byte in data:
        await send(byte)
    await First(Timer(30, "us"), RisingEdge(dut.led_3__io))
    assert dut.led_3__io.value == 0
    assert received == [byte ^ 0xFF for byte in data]


@pytest.mark.cocotb
@pytest.mark.slow
def test_emitted_top_in_verilator(tmp_path, monkeypatch):
    environment = tools.verilator_environment()
    for name in ("PATH", "VERILATOR_ROOT"):
        if name in environment:
            monkeypatch.setenv(name, environment[name])
    files = emit(boards.get("ulx3s"), pll.achievable(25_000_000, 108.4e6))
    (tmp_path / "top.v").write_text(tools.rtlil_to_verilog(files.rtlil))
    (tmp_path / "models.v").write_text(MODELS)
    runner = get_runner("verilator")
    runner.build(
        sources=[tmp_path / "models.v", tmp_path / "top.v"],
        hdl_toplevel="top",
        build_dir=tmp_path,
        build_args=["-Wno-fatal", "-Wno-lint", "-MAKEFLAGS", "OPT_GLOBAL=-O0 OPT_FAST=-O0"],
        timescale=("1ns", "1ps"),
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    results = runner.test(hdl_toplevel="top", test_module=Path(__file__).stem, build_dir=tmp_path, test_dir=tmp_path)
    assert get_results(results) == (1, 0)
