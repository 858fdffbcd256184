"""Patch buffer: the activations of the next pixels, between what gathers them and the array."""

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import CoreConfig
from hw.delay import delay
from hw.memory import Ram
from hw.window import Ends

__all__ = ["PatchBuffer"]


class PatchBuffer(wiring.Component):
    """A ring of patches: all the activations that one pixel of results takes, or two, in words of K bytes.

    A write is one feature word, which joins the ones before it until a patch word is full; or (``several``)
    ``taps_a_beat`` of them, where a multiple of so many came before; or (``full``) a whole patch word. The patch ends
    with ``ends.patch``: what is left of its last word is not written, and meets weights of 0. While ``paired`` is set a
    pixel has half of every patch word; after one that ends without its patch, the next fills the other halves.

    ``arrived`` pulses two cycles after a patch is complete; it may be read from the next cycle on. ``r_data`` is word
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
                "several": In(1),
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
        valid, several, full, end = (
            delay(m, name, value, 1, reset_less=False)
            for name, value in (
                ("valid", self.valid), ("several", self.several), ("full", self.full), ("end", self.ends.patch)
            )
        )  # fmt: skip
        data = delay(m, "data", self.data, 1)
        place = Signal(config.words, init=1)  # one-hot: where in the patch word the next feature word goes
        address = Signal.like(self.r_addr)
        taps, words = config.taps_a_beat, config.words

        def fills(words):
            """Whether the first ``words`` feature words of a patch word are complete."""
            return place[words - 1] | (several & place[words - taps] if words % taps == 0 else 0)

        first = Signal(config.words, init=1)  # where a patch word begins for this pixel
        with m.If(valid):
            with m.If(end | full | fills(words)):
                m.d.sync += [place.eq(first), address.eq(address + 1)]
            with m.Elif(several):
                m.d.sync += place.eq(place << taps)
            with m.Else():
                m.d.sync += place.eq(place << 1)
        if config.pixels > 1:
            half, begin = words // 2, Signal.like(address)
            paired, pixel = delay(m, "paired", self.paired, 1), delay(m, "pixel", self.ends.pixel, 1)
            with m.If(valid & end):
                m.d.sync += [first.eq(1), place.eq(1), begin.eq(address + 1)]
            with m.Elif(valid & pixel):
                m.d.sync += [first.eq(1 << half), place.eq(1 << half), address.eq(begin)]
            with m.Elif(valid & paired & fills(half)):
                m.d.sync += [place.eq(first), address.eq(address + 1)]
            with m.If(self.start):
                m.d.sync += [first.eq(1), begin.eq(0)]
        with m.If(self.start):
            m.d.sync += [place.eq(1), address.eq(0)]
        m.d.sync += self.arrived.eq(valid & end)
        r_addr = delay(m, "r_addr", self.r_addr, 2)  # the array is far away
        words = []
        for n in range(config.words):
            ram = m.submodules[f"ram_{n}"] = Ram(
                width=config.word_bits, depth=config.patch_depth, primitives=config.primitives
            )
            one, its_own, this = (data[at * config.word_bits :][: config.word_bits] for at in (0, n % taps, n))
            enable = valid & (full | place[n] | several & place[n - n % taps])
            m.d.comb += [ram.w_addr.eq(address), ram.w_en.eq(enable), ram.r_addr.eq(r_addr)]
            with m.If(full):
                m.d.comb += ram.w_data.eq(this)
            with m.Elif(several):
                m.d.comb += ram.w_data.eq(its_own)
            with m.Else():
                m.d.comb += ram.w_data.eq(one)
            words.append(ram.r_data)
        m.d.comb += self.r_data.eq(delay(m, "r_data", Cat(words), 1))
        return m
