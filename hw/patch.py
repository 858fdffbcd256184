"""Patch buffer: the activations of the next pixels, between what gathers them and the array."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import CoreConfig
from hw.delay import delay
from hw.memory import Ram
from hw.primitives import chosen
from hw.window import Ends

__all__ = ["PatchBuffer"]


class PatchBuffer(wiring.Component):
    """A ring of patches: all the activations that one pixel of results takes, or two, in words of K bytes.

    A write is ``count`` feature words, which join the ones before them, from patch word to patch word; or (``full``) a
    whole patch word. The patch ends with ``ends.patch``: what is left of its last word is not written, and meets
    weights of 0. While ``paired`` is set a pixel has half of every patch word; after one that ends without its patch,
    the next fills the other halves. A write is never more than a pixel has of a patch word, nor more feature words than
    the gather passes on together.

    ``arrived`` pulses three cycles after a patch is complete; it may be read from the next cycle on. ``r_data`` is word
    ``r_addr`` of six cycles before. There is no flow control here: the writer reserves room, the reader counts
    arrivals.

    Parameters
    ----------
    config : CoreConfig
    """

    #: Cycles from ``r_addr`` to ``r_data``.
    latency = Ram.latency + 3

    def __init__(self, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "valid": In(1),
                "count": In(4),
                "full": In(1),
                "ends": In(Ends),
                **({"paired": In(1)} if config.pixels > 1 else {}),
                "data": In(8 * config.array_rows),
                "arrived": Out(1),
                "r_addr": In(range(config.patch_depth)),
                "r_data": Out(8 * config.array_rows),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        words, most = config.words, max(config.gathered_at_once, default=1)
        names = ("valid", "full", "count", *(["paired"] if config.pixels > 1 else []))
        valid, full, count, *rest = (delay(m, name, getattr(self, name), 1, reset_less=False) for name in names)
        paired, half = rest[0] if rest else Const(0), words // 2
        ends = data.View(Ends, delay(m, "ends", self.ends.as_value(), 1))
        values = delay(m, "data", self.data, 2)

        # Where the next feature word goes: in which patch word, how far in the pixel's part of it, and which part.
        address, begin = Signal.like(self.r_addr), Signal.like(self.r_addr)
        offset, second = Signal(range(words)), Signal()
        part = Mux(paired, half, words)
        reached = Signal(range(2 * words + 1))
        beyond, full_up = reached > part, reached >= part
        m.d.comb += reached.eq(offset + Mux(full, words, count))
        following = address + 1 + beyond
        with m.If(valid):
            with m.If(ends.patch):
                m.d.sync += [address.eq(following), begin.eq(following), offset.eq(0), second.eq(0)]
            with m.Elif(ends.pixel):
                m.d.sync += [address.eq(begin), offset.eq(0), second.eq(1)]
            with m.Else():
                m.d.sync += [address.eq(address + full_up), offset.eq(reached - Mux(full_up, part, 0))]
        with m.If(self.start):
            m.d.sync += [address.eq(0), begin.eq(0), offset.eq(0), second.eq(0)]
        m.d.sync += self.arrived.eq(delay(m, "ended", valid & ends.patch, 1, reset_less=False))

        r_addr = delay(m, "r_addr", self.r_addr, 2)  # the array is far away
        read = []
        for n in range(words):
            ram = m.submodules[f"ram_{n}"] = Ram(
                width=config.word_bits, depth=config.patch_depth, primitives=config.primitives
            )
            # Which of the words that come goes here, and whether the patch word is full before it is its turn.
            here = Mux(paired, n % half, n) if half else n
            later = here < offset
            number = (here + Mux(later, part, 0) - offset)[: max(1, (words - 1).bit_length())]
            ours = ~paired | (second == int(n >= half))
            enable = valid & ours & (full | (number < count))
            number, enable, at = (
                delay(m, f"{name}_{n}", value, 1, reset_less=False)
                for name, value in (("number", number), ("enable", enable), ("at", (address + later)[: len(address)]))
            )
            choices = {k: values[k * config.word_bits :][: config.word_bits] for k in sorted({*range(most), n})}
            m.d.comb += [
                ram.w_addr.eq(at), ram.w_en.eq(enable), ram.w_data.eq(chosen(choices, number)), ram.r_addr.eq(r_addr)
            ]  # fmt: skip
            read.append(ram.r_data)
        m.d.comb += self.r_data.eq(delay(m, "r_data", Cat(read), 1))
        return m
