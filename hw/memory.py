"""Memories that the fill bus can write."""

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.delay import delay

__all__ = ["NO_COLLISIONS", "SLICE_BITS", "FillMemory", "FillWord", "block_depths", "slices_of"]

#: Width of a fill word: a memory is written in slices of this many bits, the width of one block RAM.
SLICE_BITS = 36

#: For Yosys: nobody relies on what a read finds where a write happens, so that needs no logic.
NO_COLLISIONS = {"no_rw_check": 1}

#: A remainder of at most this many words goes to LUT RAM.
_DISTRIBUTED_WORDS = 32


class FillWord(data.Struct):
    """One write on the fill bus: ``data`` into word ``address`` of the slice numbered ``select``."""

    write: unsigned(1)
    select: unsigned(10)
    address: unsigned(14)
    data: unsigned(SLICE_BITS)


def slices_of(width):
    """Number of fill slices that a word of ``width`` bits takes."""
    return -(-width // SLICE_BITS)


def block_depths(depth):
    """Split ``depth`` words into memories: powers of two that fill block RAMs, and a remainder for LUT RAM.

    >>> block_depths(1552), block_depths(700), block_depths(20)
    ([1024, 512, 16], [1024], [20])
    """
    blocks = []
    for size in (2048, 1024, 512):
        while depth - sum(blocks) >= size:
            blocks.append(size)
    rest = depth - sum(blocks)
    if 0 < rest <= _DISTRIBUTED_WORDS:
        blocks.append(rest)
    elif rest and blocks and blocks[-1] == 512:
        blocks[-1] = 1024
    elif rest:
        blocks.append(512)
    return blocks


class FillMemory(wiring.Component):
    """A memory of ``depth`` words, read by one engine and written over the fill bus in slices of 36 bits.

    ``r_data`` is word ``r_addr`` of two cycles before (block RAM, then a register). A read is undefined in the cycle
    that fills the same word. No stall, no reset.

    Parameters
    ----------
    width, depth : int
        Word width in bits, number of words.
    writable : bool
        Whether an engine writes whole words too (``w_en``, ``w_addr``, ``w_data``; in the memory two cycles later).
        It must not while the host fills.
    registered_blocks : bool
        Whether each block has a register of its own before they are selected from: a cycle more, a higher clock.
    select : int
        Number of the first slice; the memory answers to ``slices_of(width)`` of them.
    init : sequence of int
        First words; the rest is 0.
    """

    #: Cycles from ``r_addr`` to ``r_data``, without the additional register.
    latency = 2

    def __init__(self, *, width, depth, select, init=(), writable=False, registered_blocks=False):
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth must be positive, not {width} and {depth}")
        if len(init) > depth:
            raise ValueError(f"init holds {len(init)} words, more than the depth of {depth}")
        self.width, self.depth, self.select = width, depth, select
        self._init = list(init) + [0] * (depth - len(init))
        self._writable, self._registered_blocks = writable, registered_blocks
        members = {"fill": In(FillWord), "r_addr": In(range(depth)), "r_data": Out(width)}
        if writable:
            members |= {"w_en": In(1), "w_addr": In(range(depth)), "w_data": In(width)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        fill = self.fill
        # One registered write port serves both sides: the host fills only while the engines rest.
        enable = Signal(slices_of(self.width))
        address = Signal.like(fill.address, reset_less=True)
        word = Signal(slices_of(self.width) * SLICE_BITS, reset_less=True)
        selected = Cat(fill.write & (fill.select == self.select + n) for n in range(len(enable)))
        m.d.sync += [enable.eq(selected), address.eq(fill.address), word.eq(fill.data.replicate(len(enable)))]
        if self._writable:
            with m.If(self.w_en):
                m.d.sync += [enable.eq(~0), address.eq(self.w_addr), word.eq(self.w_data)]
        first, words = 0, []
        for number, depth in enumerate(block_depths(self.depth)):
            here = (address >= first) & (address < first + depth)
            parts = []
            for index in range(len(enable)):
                low = index * SLICE_BITS
                bits = min(SLICE_BITS, self.width - low)
                init = [value >> low & (1 << bits) - 1 for value in self._init[first : first + depth]]
                style = "distributed" if depth <= _DISTRIBUTED_WORDS else "block"
                memory = Memory(shape=bits, depth=depth, init=init, attrs={"ram_style": style} | NO_COLLISIONS)
                m.submodules[f"block_{number}_{index}"] = memory
                write, read = memory.write_port(), memory.read_port()
                m.d.comb += [
                    write.addr.eq(address - first), write.data.eq(word[low:]), write.en.eq(enable[index] & here),
                    read.addr.eq(self.r_addr - first), read.en.eq(1),
                ]  # fmt: skip
                parts.append(read.data)
            read_data = Cat(parts)
            words.append((first, delay(m, f"block_{number}", read_data, int(self._registered_blocks))))
            first += depth
        chosen = Signal(self.width)
        m.d.comb += chosen.eq(words[0][1])
        if len(words) > 1:
            read_address = delay(m, "read_address", self.r_addr, 1 + self._registered_blocks)
            for first, data_of_block in words[1:]:
                with m.If(read_address >= first):
                    m.d.comb += chosen.eq(data_of_block)
        m.d.sync += self.r_data.eq(chosen)
        return m
