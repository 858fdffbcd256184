"""Gather: windows as the array wants them for standard and pointwise convolutions."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import TAPS, WINDOW, CoreConfig
from hw.delay import delay
from hw.primitives import chosen
from hw.window import Ends, WindowControl

__all__ = ["Gather"]


class Gather(wiring.Component):
    """Passes on a window's taps a few at a time (wide), or its few channels packed (narrow).

    Wide: the first feature words of ``o`` are ``control.count`` taps, from number ``control.piece`` on, a multiple of
    what may go on together (:attr:`hw.config.CoreConfig.gathered_at_once`). Narrow, with C
    channels: the window's 9 x C bytes in order of column, row, channel, so that whole columns come first; ``o`` is the
    patch word number ``control.piece`` of them. A narrow tensor may use only half of every feature word for a row:
    ``control.high_half`` says which. What ``o`` holds beyond that is anything. Latency 2 cycles, one transfer a cycle,
    no stall; ``o_valid`` is 0 after reset.

    There is only as much of it as ``config.gathered_taps`` and ``config.packed_channels`` name: a window's bits have
    far more readers else, all in one place of the die.

    Parameters
    ----------
    config : CoreConfig
    """

    latency = 2

    def __init__(self, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "window": In(data.ArrayLayout(config.word_bits, TAPS)),
                "valid": In(1),
                "control": In(WindowControl),
                "narrow": In(1),
                "channels": In(2),
                "o": Out(8 * config.array_rows),
                "o_valid": Out(1),
                "o_count": Out(4),
                "o_ends": Out(Ends),
            }
        )

    def elaborate(self, platform):
        m = Module()
        wide, narrow = self._wide(m), self._narrow(m)
        both = min(len(wide), len(narrow))
        m.d.sync += self.o.eq(Cat(Mux(self.narrow, narrow[:both], wide[:both]), narrow[both:], wide[both:]))
        m.d.comb += [
            self.o_valid.eq(delay(m, "valid", self.valid, self.latency, reset_less=False)),
            self.o_count.eq(delay(m, "count", self.control.count, self.latency)),
            self.o_ends.eq(delay(m, "ends", self.control.ends.as_value(), self.latency)),
        ]
        return m

    def _wide(self, m):
        """Taps in their order, of a cycle before."""
        config = self._config
        most = max(config.gathered_at_once, default=0)
        taps = Signal(data.ArrayLayout(config.word_bits, most), reset_less=True)
        for n, choices in enumerate(config.gathered_choices):
            values = {piece: self.window[piece + n] for piece in choices}
            m.d.sync += taps[n].eq(chosen(values, self.control.piece))
        return taps.as_value()

    def _narrow(self, m):
        """Packed bytes, of a cycle before."""
        config = self._config
        if not config.packed_channels:
            return Const(0, 0)
        half = max(1, config.lanes // 2)
        most = max(config.packed_channels)
        bytes_ = []
        for t in range(TAPS):
            word = self.window[t]
            lanes = []
            for c in range(most):
                byte = Signal(8, name=f"tap_{t}_{c}")
                m.d.comb += byte.eq(word[8 * c :][:8])
                if c < half and half + c < config.lanes and config.lanes % 2 == 0:
                    with m.If(self.control.high_half[t // WINDOW]):
                        m.d.comb += byte.eq(word[8 * (half + c) :][:8])
                lanes.append(byte)
            bytes_.append(lanes)
        packed = Signal(8 * TAPS * most, reset_less=True)
        by_column = [bytes_[WINDOW * row + column] for column in range(WINDOW) for row in range(WINDOW)]
        orders = {n: Cat(tap[:n] for tap in by_column) for n in config.packed_channels}
        m.d.sync += packed.eq(orders.pop(most))
        with m.Switch(self.channels):
            for n, order in orders.items():
                with m.Case(n - 1):
                    m.d.sync += packed.eq(order)
        piece = delay(m, "piece", self.control.piece, 1)
        width = 8 * config.array_rows
        # Behind the last byte it may be anything: what is there in the first patch word needs no multiplexer.
        padded = Cat(packed, packed[len(packed) % width or width : width])
        words = [padded[n : n + width] for n in range(0, len(padded), width)]
        return chosen(dict(enumerate(words)), piece)
