"""Feature memory: nine banks that the array and the host write, against lists of words."""

import random

import pytest
from amaranth import Value
from ports import packed, simulate, small_config
from test_memory import fill_word

from hw.config import BANKS
from hw.features import FeatureMemory
from hw.memory import SLICE_BITS, slices_of


@pytest.mark.parametrize("host_period", [1.0, 1.4, 3.7])
@pytest.mark.parametrize("lanes, depth", [(1, 5), (3, 40), (6, 600)])
def test_feature_memory(lanes, depth, host_period):
    """Words that the array writes can be read two cycles later, those of the host six of its cycles later."""
    config = small_config(lanes=lanes, feature_depth=depth)
    rng, slices = random.Random(lanes), slices_of(config.word_bits)
    words = [[rng.getrandbits(config.word_bits) for _ in range(depth)] for _ in range(BANKS)]
    select = [40 + slices * bank for bank in range(BANKS)]
    dut = FeatureMemory(config, select=select, init=[bank[:-1] for bank in words])
    for bank in words:
        bank[-1] = 0
    expected, seen = [], []
    latency = FeatureMemory.latency

    async def fill(ctx):
        """The host writes a few words, one in six cycles; what is on the bus then changes."""
        ctx.set(dut.w_en, 0)
        for _ in range(rng.randrange(1, 6)):
            number = rng.randrange(-2, slices * BANKS + 2)
            address = rng.randrange(depth + 3) + rng.choice((0, 0, 1 << 12))
            value = rng.getrandbits(SLICE_BITS)
            for write in (1, 0, 0, 0, 0, 0):
                ctx.set(Value.cast(dut.fill), fill_word(40 + number, address, value, write))
                await ctx.tick("host")
            bank, low = number // slices, number % slices * SLICE_BITS
            if 0 <= number < slices * BANKS and address < depth:
                mask = ((1 << SLICE_BITS) - 1 << low) & (1 << config.word_bits) - 1
                words[bank][address] = words[bank][address] & ~mask | value << low & mask
        other = rng.randrange(slices * BANKS), rng.randrange(depth), rng.getrandbits(SLICE_BITS)
        ctx.set(Value.cast(dut.fill), fill_word(*other, write=0))

    async def run(ctx):
        """The array writes at random; all banks are read."""
        settled = []
        for _ in range(40):
            # What was written two cycles before is in the memory now.
            for bank, address, value in settled.pop(0) if len(settled) == 2 else ():
                words[bank][address] = value
            w_addr, w_data = rng.randrange(depth), rng.getrandbits(config.word_bits)
            enable = rng.getrandbits(BANKS) if rng.random() < 0.4 else 0
            settled.append([(n, w_addr, w_data) for n in range(BANKS) if enable >> n & 1])
            busy = {(bank, address) for pending in settled for bank, address, _ in pending}
            reads = [rng.choice([a for a in range(depth) if (bank, a) not in busy]) for bank in range(BANKS)]
            expected.append([words[bank][address] for bank, address in enumerate(reads)])
            ctx.set(dut.w_en, enable)
            ctx.set(dut.w_addr, w_addr)
            ctx.set(dut.w_data, w_data)
            ctx.set(Value.cast(dut.r_addr), packed(reads, config.address_bits))
            await ctx.tick()
            together = ctx.get(Value.cast(dut.r_data))
            mask = (1 << config.word_bits) - 1
            seen.append([together >> bank * config.word_bits & mask for bank in range(BANKS)])
        for pending in settled:
            for bank, address, value in pending:
                words[bank][address] = value

    async def bench(ctx):
        for _ in range(20):
            await run(ctx)
            del seen[: latency - 1], expected[len(expected) - latency + 1 :]
            assert seen == expected
            seen.clear()
            expected.clear()
            await fill(ctx)

    simulate(dut, bench, host_period=host_period)
