# amaranth: UnusedElaboratable=no

"""Fill memories: how they split, how the host writes them, and what a read returns when."""

import doctest
import random

import pytest
from amaranth import Const, Value
from amaranth.lib.data import Layout
from ports import simulate

import hw.memory
from hw.memory import SLICE_BITS, FillMemory, FillWord, block_depths, slices_of


def fill_word(select, address, data, write=1):
    return write | select << 1 | address << 11 | data << 27


def test_documented_examples():
    results = doctest.testmod(hw.memory)
    assert results.attempted and not results.failed


@pytest.mark.parametrize(
    "depth, blocks",
    [
        (1, [1]), (32, [32]), (33, [512]), (512, [512]), (513, [1024]),
        (1024, [1024]), (1025, [1024, 512]), (1536, [1024, 512]), (1537, [1024, 1024]),
        (2048, [2048]), (2049, [2048, 512]), (4096, [2048, 2048]), (6000, [2048, 2048, 1024, 1024]),
    ],
)  # fmt: skip
def test_block_depths(depth, blocks):
    assert block_depths(depth) == blocks


def test_blocks_hold_every_depth():
    for depth in range(1, 5000):
        blocks = block_depths(depth)
        assert blocks == [depth] if depth <= 32 else all(size in (512, 1024, 2048) for size in blocks)
        assert sum(blocks) >= depth
        assert sum(blocks[:-1]) < depth


@pytest.mark.parametrize("width, count", [(1, 1), (36, 1), (37, 2), (72, 2), (73, 3), (128, 4)])
def test_slices(width, count):
    assert SLICE_BITS == 36 and slices_of(width) == count


class Model:
    """A list of words, which two cycles of registers stand in front of and behind."""

    def __init__(self, init, depth, width):
        self.words = list(init) + [0] * (depth - len(init))
        self.width = width

    def fill(self, slice_, address, value):
        if address < len(self.words) and 0 <= slice_ < slices_of(self.width):
            low = slice_ * SLICE_BITS
            mask = (1 << min(SLICE_BITS, self.width - low)) - 1
            self.words[address] = self.words[address] & ~(mask << low) | (value & mask) << low


def exchange(dut, model, steps, *, apart=False):
    """Play steps of (fill words, reads), each after the one before has settled."""
    wrong, latency = [], FillMemory.latency + apart

    async def bench(ctx):
        for fills, reads in steps:
            for slice_, address, value in fills:
                ctx.set(Value.cast(dut.fill), fill_word(dut.select + slice_, address, value))
                await ctx.tick()
                model.fill(slice_, address, value)
            # The same word without its write bit does nothing.
            ctx.set(Value.cast(dut.fill), fill_word(dut.select, 0, 0, write=0))
            await ctx.tick().repeat(3)
            for cycle in range(len(reads) + latency):
                ctx.set(dut.r_addr, reads[min(cycle, len(reads) - 1)])
                if cycle >= latency:
                    address = reads[cycle - latency]
                    if ctx.get(dut.r_data) != model.words[address]:
                        wrong.append((address, model.words[address], ctx.get(dut.r_data)))
                await ctx.tick()

    simulate(dut, bench)
    return wrong


@pytest.mark.parametrize("depth", [1, 5, 32, 33, 513, 700, 1552])
@pytest.mark.parametrize("width, apart", [(7, False), (36, True), (40, False), (90, False), (90, True)])
def test_fill_memory(width, depth, apart):
    """Fills in slices, and reads, at every border between blocks."""
    rng = random.Random(depth * 100 + width)
    init = [rng.getrandbits(width) for _ in range(rng.randrange(depth + 1))]
    dut = FillMemory(width=width, depth=depth, select=5, init=init, primitives="portable", apart=apart)
    model = Model(init, depth, width)
    borders = {0, depth - 1, len(init) - 1}
    for size in (512, 1024, 1536):
        borders |= {size - 1, size}
    borders = sorted(address for address in borders if 0 <= address < depth)

    def any_address():
        return rng.choice(borders) if rng.random() < 0.5 else rng.randrange(depth)

    steps = [([], borders)]
    for _ in range(6):
        # Slices and addresses that are none of its own are for other memories.
        fills = [(rng.randint(-1, slices_of(width)), any_address(), rng.getrandbits(SLICE_BITS)) for _ in range(12)] + [
            (0, address, rng.getrandbits(SLICE_BITS)) for address in (depth, depth + 1, depth + 512) if depth > 32
        ]
        steps.append((fills, [any_address() for _ in range(10)] + borders))
    assert not exchange(dut, model, steps, apart=apart)


def test_init_fills_blocks_and_slices():
    """First words come from ``init``, across slices and blocks; the rest is 0."""
    rng = random.Random(9)
    init = [rng.getrandbits(80) for _ in range(530)]
    dut = FillMemory(width=80, depth=540, select=0, init=init, primitives="portable")
    assert not exchange(dut, Model(init, 540, 80), [([], list(range(500, 540)))])


def test_word_layout():
    """The test's own packing of the fill bus is the documented one."""
    fields = {"write": 1, "select": 700, "address": 9000, "data": 2**36 - 5}
    assert Const.cast(Layout.cast(FillWord).const(fields)).value == fill_word(700, 9000, 2**36 - 5)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"width": 0, "depth": 4}, "width and depth must be positive, not 0 and 4"),
        ({"width": 8, "depth": 0}, "width and depth must be positive, not 8 and 0"),
        ({"width": 8, "depth": 2, "init": [1, 2, 3]}, "init holds 3 words, more than the depth of 2"),
    ],
)
def test_refuses(parameters, message):
    with pytest.raises(ValueError) as caught:
        FillMemory(select=0, **parameters, primitives="portable")
    assert str(caught.value) == message
