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
        values = delay(m, "data", self.data, 3)

        # How far feature words reach in the pixel's part of a patch word, and which part that is.
        offset, second = Signal(range(words)), Signal()
        part = Mux(paired, half, words)
        reached = Signal(range(2 * words + 1))
        full_up = reached >= part
        m.d.comb += reached.eq(offset + Mux(full, words, count))
        with m.If(valid):
            m.d.sync += [offset.eq(reached - Mux(full_up, part, 0)), second.eq(second | ends.pixel)]
            with m.If(ends.patch | ends.pixel):
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
        following = address + 1 + later("beyond", reached > part)
        with m.If(going & patch_ends):
            m.d.sync += [address.eq(following), begin.eq(following)]
        with m.Elif(going & pixel_ends):
            m.d.sync += address.eq(begin)
        with m.Elif(going):
            m.d.sync += address.eq(address + fuller)
        with m.If(reset):
            m.d.sync += [address.eq(0), begin.eq(0)]

        whole, many = later("whole", full), later("many", count)
        r_addr = delay(m, "r_addr", self.r_addr, 2)  # the array is far away
        read = []
        for n in range(words):
            ram = m.submodules[f"ram_{n}"] = Ram(
                width=config.word_bits, depth=config.patch_depth, primitives=config.primitives
            )
            # Which of the words that come goes here, and whether the patch word is full before it is its turn.
            here = Mux(paired, n % half, n) if half else n
            wraps = here < offset
            number = (here + Mux(wraps, part, 0) - offset)[: max(1, (words - 1).bit_length())]
            ours = valid & (~paired | (second == int(n >= half)))
            number, wraps, ours = (
                later(f"{name}_{n}", value) for name, value in (("number", number), ("wraps", wraps), ("ours", ours))
            )
            choices = {k: values[k * config.word_bits :][: config.word_bits] for k in sorted({*range(most), n})}
            m.d.comb += [
                ram.w_addr.eq(later(f"at_{n}", (address + wraps)[: len(address)])),
                ram.w_en.eq(later(f"enable_{n}", ours & (whole | (number < many)))),
                ram.w_data.eq(chosen(choices, later(f"choice_{n}", number))),
                ram.r_addr.eq(r_addr),
            ]
            read.append(ram.r_data)
        m.d.comb += self.r_data.eq(delay(m, "r_data", Cat(read), 1))
        return m
