# amaranth: UnusedElaboratable=no

"""Serial port: bit timing, loopback, mismatched rates, and every way a line can misbehave."""

import random

import pytest
from amaranth import Module
from amaranth.sim import Simulator

from hw.uart import BitTimer, UARTReceiver, UARTTransmitter, bit_step

BAUD = 3_000_000
CLOCKS = (24_000_000, 25_000_000, 40_000_000, 62_500_000, 108_333_333, 200_000_000)


def line_bits(byte, stop=1):
    """What one byte looks like on the line."""
    return [0, *((byte >> n) & 1 for n in range(8)), stop]


def receive(bits, *, clk_hz, count, baud=BAUD, depth=16, start_s=0.0, idle_bits=4, ready=True):
    """Send ``bits`` at ``baud`` to a 3 Mbaud receiver; its bytes, framing errors and overruns.

    Stops at the end of the line or once ``count`` bytes have come, whichever is later; a missing byte ends it too.
    """
    dut = UARTReceiver(clk_hz=clk_hz, baud=BAUD, depth=depth)
    got, errors = [], {"framing": 0, "overrun": 0}

    async def sender(ctx):
        ctx.set(dut.rx, 1)
        await ctx.delay(2 / BAUD + start_s)
        for bit in bits:
            ctx.set(dut.rx, bit)
            await ctx.delay(1 / baud)
        ctx.set(dut.rx, 1)
        await ctx.delay(idle_bits / BAUD)
        ctx.set(dut.o.ready, 1)
        await ctx.tick().repeat(count + 2)

    async def monitor(ctx):
        ctx.set(dut.o.ready, ready)
        async for _, _, valid, taken, payload, framing, overrun in ctx.tick().sample(
            dut.o.valid, dut.o.ready, dut.o.payload, dut.framing_error, dut.overrun
        ):
            errors["framing"] += framing
            errors["overrun"] += overrun
            if valid and taken:
                got.append(payload)

    sim = Simulator(dut)
    sim.add_clock(1 / clk_hz)
    sim.add_testbench(sender)
    sim.add_testbench(monitor, background=True)
    sim.run()
    return got, errors["framing"], errors["overrun"]


def send(data, *, clk_hz, gap_clocks=0):
    """The line of a transmitter that is given ``data``: a list of (seconds, level), a change each."""
    dut = UARTTransmitter(clk_hz=clk_hz, baud=BAUD)
    changes = []

    async def bench(ctx):
        for byte in data:
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)
            if gap_clocks:
                await ctx.tick().repeat(gap_clocks)
        await ctx.tick().repeat(12 * clk_hz // BAUD)

    async def monitor(ctx):
        level = 1
        clock = 0
        async for _, _, tx in ctx.tick().sample(dut.tx):
            if tx != level:
                changes.append((clock / clk_hz, tx))
                level = tx
            clock += 1

    sim = Simulator(dut)
    sim.add_clock(1 / clk_hz)
    sim.add_testbench(bench)
    sim.add_testbench(monitor, background=True)
    sim.run()
    return changes


@pytest.mark.parametrize("clk_hz", CLOCKS)
def test_bit_rate_is_exact_to_a_twentieth_of_a_percent(clk_hz):
    phase_bits, step = bit_step(clk_hz=clk_hz, baud=BAUD)
    assert step / (1 << phase_bits) == pytest.approx(BAUD / clk_hz, rel=5e-4)


@pytest.mark.parametrize("clk_hz", CLOCKS)
@pytest.mark.parametrize("mismatch", (-0.02, 0.0, 0.02))
def test_receiver_takes_back_to_back_bytes_at_2_percent_mismatch(clk_hz, mismatch):
    random.seed(1)
    data = [0x00, 0xFF, 0x55, 0xAA, 0x01, 0x80, *random.randbytes(6)]
    bits = [bit for byte in data for bit in line_bits(byte)]
    # the sender's edges fall anywhere between two clocks; the fewer clocks a bit has, the more that matters
    for start in (0.03, 0.49, 0.97) if clk_hz < 50e6 else (0.49,):
        got = receive(bits, clk_hz=clk_hz, baud=BAUD * (1 + mismatch), count=len(data), start_s=start / clk_hz)
        assert got == (data, 0, 0)


@pytest.mark.parametrize("mismatch", (-0.035, 0.035))
def test_receiver_samples_in_the_middle_of_a_bit(mismatch):
    # 3.5 % leaves nothing to spare at 8 1/3 clocks a bit: off the middle by a clock, one sign of it fails
    data = [0x00, 0xFF, 0x7F, 0x80]
    bits = [bit for byte in data for bit in line_bits(byte)]
    for start in (0.03, 0.27, 0.49, 0.73, 0.97):
        got = receive(bits, clk_hz=25_000_000, baud=BAUD * (1 + mismatch), count=4, start_s=start / 25e6)
        assert got == (data, 0, 0)


def test_receiver_cannot_follow_8_percent_mismatch():
    bits = [bit for byte in [0x55] * 8 for bit in line_bits(byte)]
    assert receive(bits, clk_hz=25_000_000, baud=BAUD * 1.08, count=8)[0] != [0x55] * 8


@pytest.mark.parametrize("clk_hz", CLOCKS)
def test_transmitter_keeps_every_edge_within_a_clock(clk_hz):
    data = [0x55, 0x00, 0xFF, 0xC3]
    changes = send(data, clk_hz=clk_hz)
    line = [1, *(bit for byte in data for bit in line_bits(byte))]
    edges = [n for n in range(len(line) - 1) if line[n + 1] != line[n]]
    assert [level for _, level in changes] == [line[n + 1] for n in edges]
    begin = changes[0][0]
    for (seconds, _), bit in zip(changes, edges, strict=True):
        late_clocks = (seconds - begin - bit / BAUD) * clk_hz
        drift = 5e-4 * bit * clk_hz / BAUD
        assert -drift - 1e-3 <= late_clocks <= 1 + drift


def test_transmitter_restarts_from_idle():
    clk_hz = 50_000_000
    changes = send([0x55, 0x55], clk_hz=clk_hz, gap_clocks=301)
    first, second = changes[:10], changes[10:]
    assert len(second) == 10
    offset = second[0][0] - first[0][0]
    assert offset * clk_hz == pytest.approx(302)
    assert [seconds - offset for seconds, _ in second] == pytest.approx([seconds for seconds, _ in first])


@pytest.mark.parametrize("clk_hz", (25_000_000, 108_333_333))
def test_loopback(clk_hz):
    random.seed(2)
    data = list(random.randbytes(24))
    m = Module()
    m.submodules.sender = sender = UARTTransmitter(clk_hz=clk_hz, baud=BAUD)
    m.submodules.receiver = receiver = UARTReceiver(clk_hz=clk_hz, baud=BAUD)
    m.d.comb += receiver.rx.eq(sender.tx)
    got = []

    async def put(ctx):
        for byte in data:
            ctx.set(sender.i.payload, byte)
            ctx.set(sender.i.valid, 1)
            await ctx.tick().until(sender.i.ready)
        ctx.set(sender.i.valid, 0)

    async def get(ctx):
        ctx.set(receiver.o.ready, 1)
        for _ in range((len(data) + 1) * 10 * (clk_hz // BAUD + 1)):
            _, _, valid, payload = await ctx.tick().sample(receiver.o.valid, receiver.o.payload)
            if valid:
                got.append(payload)

    sim = Simulator(m)
    sim.add_clock(1 / clk_hz)
    sim.add_testbench(put)
    sim.add_testbench(get)
    sim.run()
    assert got == data


def test_framing_error_drops_the_byte_and_waits_for_idle():
    # the stop bit is low and the line stays low for longer than a frame: one error, no phantom bytes
    bits = [*line_bits(0x41), *line_bits(0x42, stop=0), *[0] * 14, 1, *line_bits(0x43)]
    assert receive(bits, clk_hz=25_000_000, count=2) == ([0x41, 0x43], 1, 0)


@pytest.mark.parametrize("clk_hz", (25_000_000, 108_333_333))
def test_a_glitch_shorter_than_half_a_bit_is_no_start_bit(clk_hz):
    # thirds of bits, sent at three times the rate
    thirds = [0, 1, 1, *[1] * 30, *(bit for bit in line_bits(0x5A) for _ in range(3))]
    assert receive(thirds, clk_hz=clk_hz, baud=3 * BAUD, count=1) == ([0x5A], 0, 0)


def test_a_stalled_reader_loses_only_what_does_not_fit():
    data = list(range(0x30, 0x37))
    bits = [bit for byte in data for bit in line_bits(byte)]
    assert receive(bits, clk_hz=25_000_000, depth=4, ready=False, count=7) == (data[:4], 0, 3)


def test_stalled_output_holds():
    dut = UARTReceiver(clk_hz=24_000_000, baud=BAUD)

    async def bench(ctx):
        for bit in [1, 1, *line_bits(0x61), *line_bits(0x62), 1]:
            ctx.set(dut.rx, bit)
            await ctx.tick().repeat(8)
        for _ in range(5):
            _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            assert (valid, payload) == (1, 0x61)

    sim = Simulator(dut)
    sim.add_clock(1 / 24_000_000)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize(
    ("component", "parameters", "message"),
    (
        (BitTimer, {"clk_hz": 0, "baud": BAUD}, "clk_hz must be a positive integer, not 0"),
        (BitTimer, {"clk_hz": 25e6, "baud": BAUD}, "clk_hz must be a positive integer, not 25000000.0"),
        (UARTTransmitter, {"clk_hz": 25_000_000, "baud": -1}, "baud must be a positive integer, not -1"),
        (
            UARTReceiver,
            {"clk_hz": 23_999_999, "baud": BAUD},
            "clk_hz must be at least 8 \\* baud, not 23999999 for 3000000 baud",
        ),
        (
            UARTReceiver,
            {"clk_hz": 25_000_000, "baud": BAUD, "depth": 0},
            "depth must be a positive integer, not 0",
        ),
    ),
)
def test_bad_parameters(component, parameters, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        component(**parameters)
