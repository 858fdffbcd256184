"""Top of a design: the board's clock, PLL, serial port and LEDs around the Verilog module ``core``.

Two clock domains. ``sync`` is the core's and comes from the PLL; ``uart`` is the board's oscillator itself. So the
serial port keeps its rate whatever clock the core runs at, and the PLL's dividers are all that differs between two
clocks.
"""

from dataclasses import dataclass

import amaranth_boards.ulx3s
from amaranth import (
    Cat,
    ClockDomain,
    ClockSignal,
    Const,
    DomainRenamer,
    Elaboratable,
    Instance,
    Module,
    Signal,
)
from amaranth.lib import io, stream, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.fifo import AsyncFIFO, AsyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from boards import Board
from boards.pll import PLL
from hw.uart import UARTReceiver, UARTTransmitter, bit_step

__all__ = ["CORE_CLOCK_NET", "LEDS", "SerialBridge", "Top", "TopFiles", "emit"]

#: What the LEDs show, from LED 0 up; the rest stay dark.
LEDS = ("core clock, once every few tenths of a second", "bytes from the host", "bytes to the host", "serial error")

#: Net of the core's clock, as the tools' reports name it.
CORE_CLOCK_NET = "core_clk"

#: Bytes that a domain crossing holds: enough for its latency at one byte in 80 clocks of the slower domain.
_CROSSING_BYTES = 4


class SerialBridge(wiring.Component):
    """The host's serial line in domain ``uart`` and the core's byte streams in domain ``sync``.

    Bytes keep their order and none is lost, unless the core stalls ``to_core`` for longer than 20 bytes take: then
    the serial error LED lights, and stays lit until reset, as it does after a framing error. A stalled host cannot
    be known: bytes leave as fast as the line takes them, ``from_core`` stalls meanwhile.

    Parameters
    ----------
    uart_clk_hz, baud : int
        Rate of domain ``uart``, at least 8 times ``baud``, and bits a second.
    heartbeat_bits, activity_bits : int
        Width of the counters that divide ``sync`` for the heartbeat, and stretch activity in clocks of ``uart``.

    Members
    -------
    rx, tx : In(1), Out(1)
        Line from and to the host; ``rx`` is asynchronous.
    to_core, from_core : Out, In (stream of 8 bits)
        In domain ``sync``.
    leds : Out(4)
        As :data:`LEDS` lists them.

    Raises
    ------
    ValueError
        As :func:`hw.uart.bit_step`.
    """

    def __init__(self, *, uart_clk_hz, baud, heartbeat_bits=26, activity_bits=20):
        bit_step(clk_hz=uart_clk_hz, baud=baud)
        self._rates = {"clk_hz": uart_clk_hz, "baud": baud}
        self._heartbeat_bits, self._activity_bits = heartbeat_bits, activity_bits
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "to_core": Out(stream.Signature(8)),
                "from_core": In(stream.Signature(8)),
                "leds": Out(len(LEDS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        in_uart = DomainRenamer("uart")
        receiver = UARTReceiver(**self._rates, depth=16)
        transmitter = UARTTransmitter(**self._rates)
        m.submodules.receiver = in_uart(receiver)
        m.submodules.transmitter = in_uart(transmitter)
        # To the core from a register, for what follows takes its time.
        m.submodules.inward = inward = AsyncFIFOBuffered(
            width=8, depth=_CROSSING_BYTES + 1, w_domain="uart", r_domain="sync"
        )
        m.submodules.outward = outward = AsyncFIFO(width=8, depth=_CROSSING_BYTES, w_domain="sync", r_domain="uart")
        m.d.comb += [
            receiver.rx.eq(self.rx),
            inward.w_data.eq(receiver.o.payload),
            inward.w_en.eq(receiver.o.valid),
            receiver.o.ready.eq(inward.w_rdy),
            self.to_core.payload.eq(inward.r_data),
            self.to_core.valid.eq(inward.r_rdy),
            inward.r_en.eq(self.to_core.ready),
            outward.w_data.eq(self.from_core.payload),
            outward.w_en.eq(self.from_core.valid),
            self.from_core.ready.eq(outward.w_rdy),
            transmitter.i.payload.eq(outward.r_data),
            transmitter.i.valid.eq(outward.r_rdy),
            outward.r_en.eq(transmitter.i.ready),
            self.tx.eq(transmitter.tx),
        ]

        heartbeat = Signal(self._heartbeat_bits)
        m.d.sync += heartbeat.eq(heartbeat + 1)
        error = Signal()
        with m.If(receiver.framing_error | receiver.overrun):
            m.d.uart += error.eq(1)
        m.d.comb += self.leds.eq(
            Cat(
                heartbeat[-1],
                self._stretched(m, "from_host", receiver.o.valid),
                self._stretched(m, "to_host", transmitter.i.valid),
                error,
            )
        )
        return m

    def _stretched(self, m, name, event):
        """High while ``event`` and for ``2**activity_bits`` clocks of ``uart`` after it."""
        left = Signal(self._activity_bits + 1, name=name)
        with m.If(event):
            m.d.uart += left.eq(1 << self._activity_bits)
        with m.Elif(left != 0):
            m.d.uart += left.eq(left - 1)
        return left != 0


class Top(Elaboratable):
    """Everything on the FPGA but the inside of ``core``, to be elaborated for one of amaranth-boards' ULX3S platforms.

    Both domains are held in reset until the PLL has locked, ``core`` apart: it has no reset, starts from the values
    that configuration gives its registers, and rests there until the first byte arrives.

    Parameters
    ----------
    board : Board
        For its rates.
    pll : PLL
        Setting for the core's clock, from the board's oscillator.
    """

    def __init__(self, board: Board, pll: PLL):
        self._board, self._pll = board, pll

    def elaborate(self, platform):
        m = Module()
        m.submodules.clock_pin = clock_pin = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        locked = Signal()
        core_clock = Signal(name=CORE_CLOCK_NET, attrs={"keep": 1})  # so that the tools keep its name
        m.domains += [ClockDomain("uart"), ClockDomain("sync")]
        m.d.comb += [ClockSignal("uart").eq(clock_pin.i), ClockSignal("sync").eq(core_clock)]
        m.submodules.pll = self._pll_instance(clock_pin.i, core_clock, locked)
        m.submodules.uart_reset = ResetSynchronizer(~locked, domain="uart")
        m.submodules.sync_reset = ResetSynchronizer(~locked, domain="sync")

        m.submodules.bridge = bridge = SerialBridge(uart_clk_hz=self._board.clock_in_hz, baud=self._board.baud)
        m.submodules.core = Instance(
            "core",
            i_clk=ClockSignal(),
            i_i__payload=bridge.to_core.payload,
            i_i__valid=bridge.to_core.valid,
            o_i__ready=bridge.to_core.ready,
            o_o__payload=bridge.from_core.payload,
            o_o__valid=bridge.from_core.valid,
            i_o__ready=bridge.from_core.ready,
        )

        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx_pin = rx_pin = io.Buffer("i", uart.rx)
        m.submodules.tx_pin = tx_pin = io.Buffer("o", uart.tx)
        m.d.comb += [bridge.rx.eq(rx_pin.i), tx_pin.o.eq(bridge.tx)]
        for n in range(len(LEDS)):
            m.submodules[f"led{n}_pin"] = pin = io.Buffer("o", platform.request("led", n, dir="-"))
            m.d.comb += pin.o.eq(bridge.leds[n])
        return m

    def _pll_instance(self, clock_in, clock, locked):
        """EHXPLLL; the filter's attributes are those that Lattice's own tool writes for every setting."""
        feedback = Signal()
        return Instance(
            "EHXPLLL",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_FEEDBK_PATH="CLKOP",
            p_CLKFB_DIV=1,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_FPHASE=0,
            p_CLKOS_ENABLE="ENABLED",
            p_CLKOS_FPHASE=0,
            **{f"p_{name}": value for name, value in self._pll.parameters.items()},
            i_CLKI=clock_in,
            i_CLKFB=feedback,
            o_CLKOP=feedback,
            o_CLKOS=clock,
            o_LOCK=locked,
            **{f"i_{name}": Const(0) for name in ("RST", "STDBY", "PLLWAKESYNC", "ENCLKOP", "ENCLKOS")},
            **{f"i_{name}": Const(0) for name in ("PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP", "PHASELOADREG")},
        )


@dataclass(frozen=True)
class TopFiles:
    """``rtlil``: the module ``top`` for Yosys, ``core`` left to be filled in. ``lpf``: pins and clocks for nextpnr."""

    rtlil: str
    lpf: str


def emit(board: Board, pll: PLL) -> TopFiles:
    """The board top around ``core``, clocked by ``pll``.

    Raises
    ------
    ValueError
        If ``board`` exists only for simulation, or ``pll`` runs from another clock than the board's.
    """
    if board.simulation_only:
        raise ValueError(f"board {board.name!r} exists only for simulation: it has no pins")
    if pll.clock_in_hz != board.clock_in_hz:
        raise ValueError(f"PLL must run from {board.name}'s {board.clock_in_hz} Hz, not from {pll.clock_in_hz} Hz")
    platform = getattr(amaranth_boards.ulx3s, board.platform)(toolchain="Trellis")
    files = platform.prepare(Top(board, pll), "top", emit_src=False).files
    return TopFiles(rtlil=files["top.il"], lpf=files["top.lpf"])
