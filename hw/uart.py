"""Serial port, 8N1, as byte streams.

Bits are timed by a fractional accumulator, so that no relation between clock and bit rate is needed: 3 Mbaud from
25 MHz (8 1/3 clocks a bit) works as well as from 108.33 MHz.
"""

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

__all__ = ["BitTimer", "UARTReceiver", "UARTTransmitter", "bit_step"]

#: Fewest clocks a bit. Sampling is uncertain by a clock either way, an eighth of a bit; 9.5 bits at 2 % of mismatch
#: take a fifth; half a bit is there to spend.
MINIMUM_CLOCKS_PER_BIT = 8


def bit_step(*, clk_hz, baud):
    """Width of a phase accumulator and what to add to it each clock, so that it overflows ``baud`` times a second.

    The step is rounded to at least 11 significant bits: the rate is off by less than 0.05 %.

    Parameters
    ----------
    clk_hz, baud : int
        Clock and bits a second; ``clk_hz / baud`` at least 8.

    Returns
    -------
    phase_bits, step : int

    Raises
    ------
    ValueError
        If a rate is no positive integer, or the clock too slow for ``baud``.
    """
    for name, value in (("clk_hz", clk_hz), ("baud", baud)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")
    if clk_hz < MINIMUM_CLOCKS_PER_BIT * baud:
        raise ValueError(f"clk_hz must be at least {MINIMUM_CLOCKS_PER_BIT} * baud, not {clk_hz} for {baud} baud")
    phase_bits = 10 + (clk_hz // baud).bit_length()
    return phase_bits, ((baud << (phase_bits + 1)) + clk_hz) // (2 * clk_hz)


class BitTimer(wiring.Component):
    """``tick`` once a bit time, on average exactly (:func:`bit_step`): each lies at most a clock behind its ideal time.

    ``start_bit`` and ``start_half`` restart it: the first tick then follows after a whole bit time, or after half a bit
    time less half a clock, which centres the error of an edge seen up to a clock late and a tick up to a clock late.

    Parameters
    ----------
    clk_hz, baud : int
        As for :func:`bit_step`.

    Members
    -------
    start_bit, start_half : In(1)
        Restart, counting from the next clock.
    tick : Out(1)
        High for one clock a bit.

    Raises
    ------
    ValueError
        As for :func:`bit_step`.
    """

    def __init__(self, *, clk_hz, baud):
        self._phase_bits, self._step = bit_step(clk_hz=clk_hz, baud=baud)
        super().__init__({"start_bit": In(1), "start_half": In(1), "tick": Out(1)})

    def elaborate(self, platform):
        m = Module()
        phase = Signal(self._phase_bits)
        following = Signal(self._phase_bits)
        m.d.comb += Cat(following, self.tick).eq(phase + self._step)
        m.d.sync += phase.eq(following)
        with m.If(self.start_bit):
            m.d.sync += phase.eq(0)
        with m.Elif(self.start_half):
            m.d.sync += phase.eq((1 << (self._phase_bits - 1)) + self._step)
        return m


class UARTReceiver(wiring.Component):
    """Bytes from a serial line, least significant bit first, one start bit, one stop bit, no parity.

    Tolerates a sender 2 % faster or slower at 8 clocks a bit. The line goes through two flip-flops; a low that is gone
    by the middle of the start bit is ignored. A byte enters the FIFO in the middle of its stop bit. Since a sender
    cannot be held up, a stalled ``o`` fills the FIFO, and the bytes that follow are lost with ``overrun``.
    Reset: idle, FIFO empty.

    Parameters
    ----------
    clk_hz, baud : int
        As for :func:`bit_step`.
    depth : int
        Bytes that the FIFO holds, at least 1.

    Members
    -------
    rx : In(1)
        Line, high when idle; asynchronous.
    o : Out(stream of 8 bits)
        Received bytes.
    framing_error : Out(1)
        High for one clock when a stop bit is low; the byte is dropped, and reception waits for an idle line.
    overrun : Out(1)
        High for one clock when a byte is lost.

    Raises
    ------
    ValueError
        As for :func:`bit_step`, or if ``depth`` is no positive integer.
    """

    def __init__(self, *, clk_hz, baud, depth=16):
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth must be a positive integer, not {depth!r}")
        bit_step(clk_hz=clk_hz, baud=baud)
        self._rates = {"clk_hz": clk_hz, "baud": baud}
        self._depth = depth
        super().__init__(
            {
                "rx": In(1, init=1),
                "o": Out(stream.Signature(8)),
                "framing_error": Out(1),
                "overrun": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.timer = timer = BitTimer(**self._rates)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8, depth=self._depth)
        rx = Signal(init=1)
        m.submodules.rx_sync = FFSynchronizer(self.rx, rx, init=1)

        byte = Signal(8)
        bits_left = Signal(range(9))
        m.d.comb += [
            fifo.w_data.eq(byte),
            self.o.payload.eq(fifo.r_data),
            self.o.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o.ready),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += timer.start_half.eq(1)
                m.d.sync += bits_left.eq(8)
                with m.If(~rx):
                    m.next = "START"
            with m.State("START"), m.If(timer.tick):
                m.next = "DATA"
                with m.If(rx):
                    m.next = "IDLE"
            with m.State("DATA"), m.If(timer.tick):
                m.d.sync += [byte.eq(Cat(byte[1:], rx)), bits_left.eq(bits_left - 1)]
                with m.If(bits_left == 1):
                    m.next = "STOP"
            with m.State("STOP"), m.If(timer.tick):
                m.d.comb += [
                    fifo.w_en.eq(rx),
                    self.overrun.eq(rx & ~fifo.w_rdy),
                    self.framing_error.eq(~rx),
                ]
                m.next = "BREAK"
                with m.If(rx):
                    m.next = "IDLE"
            with m.State("BREAK"), m.If(rx):
                m.next = "IDLE"
        return m


class UARTTransmitter(wiring.Component):
    """Bytes to a serial line, least significant bit first, one start bit, one stop bit, no parity.

    One byte in ten bit times without gaps while ``i`` is valid; an edge lies at most a clock behind its ideal time.
    ``i`` is ready when the line is idle and in the last clock of a stop bit. Reset: line high, a byte under way is cut.

    Parameters
    ----------
    clk_hz, baud : int
        As for :func:`bit_step`.

    Members
    -------
    i : In(stream of 8 bits)
        Bytes to send.
    tx : Out(1)
        Line, high when idle; comes straight from a flip-flop.

    Raises
    ------
    ValueError
        As for :func:`bit_step`.
    """

    def __init__(self, *, clk_hz, baud):
        bit_step(clk_hz=clk_hz, baud=baud)
        self._rates = {"clk_hz": clk_hz, "baud": baud}
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.timer = timer = BitTimer(**self._rates)
        waiting = Signal(9, init=0x1FF)  # bits behind the one on the line, the stop bit last
        bits_left = Signal(range(11))
        idle = bits_left == 0
        m.d.comb += [
            self.i.ready.eq(idle | (timer.tick & (bits_left == 1))),
            timer.start_bit.eq(idle),
        ]
        with m.If(self.i.ready & self.i.valid):
            m.d.sync += [self.tx.eq(0), waiting.eq(Cat(self.i.payload, 1)), bits_left.eq(10)]
        with m.Elif(timer.tick & ~idle):
            m.d.sync += [self.tx.eq(waiting[0]), waiting.eq(Cat(waiting[1:], 1)), bits_left.eq(bits_left - 1)]
        return m
