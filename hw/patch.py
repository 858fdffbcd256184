"""Patch buffer: the activations of the next pixels, between what gathers them and the array."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import CoreConfig
from hw.delay import copies, delay
from hw.memory import Ram
from hw.primitives import chosen
from hw.window import Ends

__all__ = ["PatchBuffer"]


class PatchBuffer(wiring.Component):
    """A ring of patches: all the activations that one pixel of results takes, or two, in words of K bytes.

    A write is ``count`` feature words, which join the ones before them, from patch word to patch word; or (``full``) a
    whole patch word. The patch ends with ``ends.patch``: what is left of its last word is not written, and meets
    weights of 0. While ``paired`` is set a pixel has half of every patch word; after one that ends without its patch,
    the next fills the other halves. Writes are as the gather makes them: one feature word each, or the nine of a window
    by as many as go on together, in the last write those that are left; never more than a pixel has of a patch word.

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
        words, half = config.words, config.words // 2
        paired = self.paired if config.pixels > 1 else Const(0)
        part = Mux(paired, half, words)
        valid, full = (delay(m, name, getattr(self, name), 1, reset_less=False) for name in ("valid", "full"))
        count, paired = delay(m, "count", self.count, 1), delay(m, "paired", paired, 1)
        # Where feature words must reach already for the next ones to fill the pixel's part of a patch word.
        filling = Signal(range(words + 1))
        m.d.comb += filling.eq(Mux(self.full, 0, part - self.count))
        filling = delay(m, "filling", filling, 1)
        ends = data.View(Ends, delay(m, "ends", self.ends.as_value(), 1))
        values = delay(m, "data", self.data, 3)

        # How far feature words reach in the pixel's part of a patch word, and which part that is.
        offset, second = Signal(range(words)), Signal()
        full_up, ended = offset >= filling, valid & (ends.patch | ends.pixel)
        with m.If(valid):
            m.d.sync += [offset.eq(Mux(full_up, offset - filling, offset + count)), second.eq(second | ends.pixel)]
        with m.If(ended):
            m.d.sync += offset.eq(0)
        with m.If(self.start | (valid & ends.patch)):
            m.d.sync += [offset.eq(0), second.eq(0)]
        m.d.sync += self.arrived.eq(delay(m, "ended", valid & ends.patch, 1, reset_less=False))

        def later(name, value):
            """A cycle later, when it is known in which patch word they begin."""
            return delay(m, name, value, 1, reset_less=False)

        address, begin = Signal.like(self.r_addr), Signal.like(self.r_addr)
        going, fuller, reset = later("going", valid), later("full_up", full_up), later("reset", self.start)
        patch_ends, pixel_ends = later("patch_ends", ends.patch), later("pixel_ends", ends.pixel)
        following = address + 1 + later("beyond", offset > filling)
        with m.If(going & patch_ends):
            m.d.sync += [address.eq(following), begin.eq(following)]
        with m.Elif(going & pixel_ends):
            m.d.sync += address.eq(begin)
        with m.Elif(going):
            m.d.sync += address.eq(address + fuller)
        with m.If(reset):
            m.d.sync += [address.eq(0), begin.eq(0)]

        whole, many, filling = later("whole", full), later("many", count), later("filling", filling)
        again, paired_later = later("again", self.start | ended), later("paired", paired)
        # By place in a patch word: which of the words that come is its own, whether it is one of them, and whether the
        # patch word is full before its turn. Pixels that share a patch both count as the first of them.
        turns = []
        for n in range(words):
            number, wraps = Signal(range(words), name=f"number_{n}", init=n), Signal(name=f"wraps_{n}")
            beyond = Signal(signed(len(number) + 2), name=f"beyond_{n}")
            m.d.comb += beyond.eq(number - many)
            comes = beyond < 0
            with m.If(going & ~whole):
                m.d.sync += [
                    number.eq(Mux(comes, number + filling, beyond)),
                    wraps.eq(Mux(fuller, wraps & comes, wraps | comes)),
                ]
            with m.If(again):
                m.d.sync += [number.eq(n), wraps.eq(0)]
            turns.append((number, comes, wraps))
        r_addr = delay(m, "r_addr", self.r_addr, 1)  # the array is far away
        read = []
        addresses = copies(m, "r_addr", r_addr, words)
        for n, (addressed, joined) in enumerate(zip(addresses, config.joined_choices, strict=True)):
            ram = m.submodules[f"ram_{n}"] = Ram(
                width=config.word_bits, depth=config.patch_depth, primitives=config.primitives
            )
            number, comes, wraps = turns[n]
            if config.pixels > 1 and n >= half:
                shared = zip(turns[n - half], turns[n], strict=True)
                number, comes, wraps = (Mux(paired_later, *both) for both in shared)
            ours = later(f"ours_{n}", valid & (~paired | (second == int(n >= half))))
            choices = {k: values[k * config.word_bits :][: config.word_bits] for k in joined}
            m.d.comb += [
                ram.w_addr.eq(later(f"at_{n}", (address + wraps)[: len(address)])),
                ram.w_en.eq(later(f"enable_{n}", ours & (whole | comes))),
                ram.w_data.eq(chosen(choices, later(f"choice_{n}", number))),
                ram.r_addr.eq(addressed),
            ]
            read.append(ram.r_data)
        m.d.comb += self.r_data.eq(delay(m, "r_data", Cat(read), 1))
        return m
