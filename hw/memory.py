"""Memories of any width and depth, and those that the fill bus can write."""

from amaranth import Cat, Const, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.delay import copies, delay
from hw.primitives import BLOCK_RAM_WIDTHS, BlockRam, RegisteredMemory, ram_ports

__all__ = [
    "DISTRIBUTED_WORDS",
    "SLICE_BITS",
    "FillMemory",
    "FillWord",
    "Ram",
    "block_depths",
    "block_rams",
    "filled_block_rams",
    "slices_of",
]

#: Width of a fill word: a memory is written in slices of this many bits, the width of one block RAM.
SLICE_BITS = 36

#: A memory of at most this many words goes to LUT RAM.
DISTRIBUTED_WORDS = 32


class FillWord(data.Struct):
    """One write on the fill bus: ``data`` into word ``address`` of the slice numbered ``select``."""

    write: unsigned(1)
    select: unsigned(10)
    address: unsigned(16)
    data: unsigned(SLICE_BITS)

    def writes(self, select, depth):
        """Whether it writes a word of the slice numbered ``select``, a :class:`Ram` of ``depth`` words."""
        return self.write & (self.select == select) & self.fits(depth)

    def fits(self, depth):
        """Whether its address lies in a :class:`Ram` of ``depth`` words, or in the power of two from there on."""
        return self.address >> (depth - 1).bit_length() == 0


def slices_of(width):
    """Number of fill slices that a word of ``width`` bits takes."""
    return -(-width // SLICE_BITS)


def block_depths(depth):
    """Split ``depth`` words into memories: powers of two that fill block RAMs, or a few words for LUT RAM.

    >>> block_depths(2100), block_depths(1300), block_depths(20)
    ([2048, 512], [1024, 512], [20])
    """
    if depth <= DISTRIBUTED_WORDS:
        return [depth]
    blocks = []
    for size in BLOCK_RAM_WIDTHS:
        while depth - sum(blocks) >= size:
            blocks.append(size)
    rest = depth - sum(blocks)
    if rest and blocks and blocks[-1] == 512:
        blocks[-1] = 1024
    elif rest:
        blocks.append(512)
    return blocks


def block_rams(width, depth):
    """Number of block RAMs in a :class:`Ram`."""
    return sum(-(-width // BLOCK_RAM_WIDTHS[size]) for size in block_depths(depth) if size in BLOCK_RAM_WIDTHS)


def filled_block_rams(width, depth):
    """Number of block RAMs in a :class:`FillMemory`."""
    return sum(block_rams(part, depth) for part in _slice_widths(width))


def _slice_widths(width):
    return [min(SLICE_BITS, width - low) for low in range(0, width, SLICE_BITS)]


def _check(width, depth, init):
    if width < 1 or depth < 1:
        raise ValueError(f"width and depth must be positive, not {width} and {depth}")
    if len(init) > depth:
        raise ValueError(f"init holds {len(init)} words, more than the depth of {depth}")


class Ram(wiring.Component):
    """Words of any width and number, with a port to write and one to read: block RAMs, or LUT RAM for a few words.

    ``r_data`` is word ``r_addr`` of three cycles before: a register follows the selection between blocks. Writes pass a
    register: a read finds them two cycles later, and is undefined one cycle later. A write beyond ``depth`` does no
    harm to the words there are. No stall, no reset.

    Parameters
    ----------
    width, depth : int
        Word width in bits, number of words.
    init : sequence of int
        First words; the rest is 0.
    primitives : str
        ``portable`` or ``ecp5``.
    places : sequence of str
        Where on the die its :func:`block_rams` stand. Empty: anywhere.
    """

    #: Cycles from ``r_addr`` to ``r_data``.
    latency = BlockRam.latency + 1

    def __init__(self, *, width, depth, init=(), primitives, places=()):
        _check(width, depth, init)
        self.width, self.depth = width, depth
        self._init, self._primitives, self._places = list(init), primitives, places
        super().__init__(ram_ports(width, depth))

    def elaborate(self, platform):
        m = Module()
        first, chosen, places = 0, Signal(self.width), iter(self._places)
        w_data = delay(m, "w_data", self.w_data, 1)
        for number, depth in enumerate(block_depths(self.depth)):
            # What decides and where it goes is registered, for enables travel far; for every memory by itself.
            attrs = {"copy": 1}
            enable = Signal(name=f"enable_{number}", attrs=attrs)
            address = Signal(range(depth), name=f"address_{number}", attrs=attrs)
            # Each block begins at a multiple of its size, for none before it is smaller.
            bits = (depth - 1).bit_length()
            here = self.w_addr >> bits == first >> bits
            m.d.sync += [enable.eq(self.w_en & here), address.eq(self.w_addr)]
            step = BLOCK_RAM_WIDTHS.get(depth, self.width)
            words = []
            for low in range(0, self.width, step):
                init = [word >> low & (1 << step) - 1 for word in self._init[first : first + depth]]
                if depth in BLOCK_RAM_WIDTHS:
                    part = BlockRam(depth=depth, init=init, primitives=self._primitives, place=next(places, None))
                else:
                    attrs = {"ram_style": "distributed"}
                    part = RegisteredMemory(width=self.width, depth=depth, init=init, attrs=attrs)
                m.submodules[f"block_{number}_{low}"] = part
                m.d.comb += [
                    part.w_en.eq(enable), part.w_addr.eq(address), part.w_data.eq(w_data[low:]),
                    part.r_addr.eq(self.r_addr),
                ]  # fmt: skip
                words.append(part.r_data)
            # Compared before the delay: fewer bits to keep, and none that a neighbour keeps as well.
            reached = Const(1) if number == 0 else delay(m, f"reached_{number}", self.r_addr >= first, BlockRam.latency)
            with m.If(reached):
                m.d.comb += chosen.eq(Cat(words))
            first += depth
        m.d.sync += self.r_data.eq(chosen)
        return m


class FillMemory(wiring.Component):
    """A :class:`Ram` that one engine reads and the host writes, over the fill bus, in slices of 36 bits.

    Latency and ``init`` are the Ram's, but for ``apart``; a read finds a write three cycles later.

    Parameters
    ----------
    width, depth, init, primitives, places
        As :class:`Ram`; of its :func:`filled_block_rams`.
    select : int
        Number of the first slice; the memory answers to ``slices_of(width)`` of them.
    apart : bool
        Whether slices stand far apart: each then has an address register of its own, and reads take a cycle more.
    """

    latency = Ram.latency

    def __init__(self, *, width, depth, select, init=(), primitives, places=(), apart=False):
        _check(width, depth, init)
        self.width, self.depth, self.select, self._apart = width, depth, select, apart
        self._init, self._primitives, self._places = list(init), primitives, places
        super().__init__({"fill": In(FillWord), "r_addr": In(range(depth)), "r_data": Out(width)})

    def elaborate(self, platform):
        m = Module()
        places = self._places
        # Whether it is for one of the slices takes a cycle to tell; which one, the lowest bits of the select say.
        widths = _slice_widths(self.width)
        selects = range(self.select, self.select + len(widths))
        for_us = self.fill.select.matches(*selects) & self.fill.fits(self.depth)
        write = delay(m, "write", self.fill.write & for_us, 1, reset_less=False)
        low_bits = (len(widths) - 1).bit_length()
        select = delay(m, "select", self.fill.select[:low_bits], 1)
        # Synthesis would share the data's registers with memories far away.
        address, (data,) = delay(m, "address", self.fill.address, 1), copies(m, "data", self.fill.data, 1)
        for n, width in enumerate(widths):
            low, count = n * SLICE_BITS, block_rams(width, self.depth)
            ours, places = places[:count], places[count:]
            ram = m.submodules[f"slice_{n}"] = Ram(
                width=width, depth=self.depth, primitives=self._primitives, places=ours,
                init=[word >> low & (1 << width) - 1 for word in self._init],
            )  # fmt: skip
            r_addr = copies(m, f"r_addr_{n}", self.r_addr, 1)[0] if self._apart else self.r_addr
            m.d.comb += [
                ram.w_en.eq(write & (select == selects[n] % (1 << low_bits))),
                ram.w_addr.eq(address), ram.w_data.eq(data),
                ram.r_addr.eq(r_addr), self.r_data[low:][:width].eq(ram.r_data),
            ]  # fmt: skip
        return m
