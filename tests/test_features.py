"""Feature memory: nine banks that the array and the host write, against lists of words."""

import random

import pytest
from amaranth import Value
from ports import packed, simulate, small_config
from test_memory import fill_word

from hw.config import BANKS, WINDOW
from hw.features import FeatureMemory
from hw.memory import SLICE_BITS, slices_of


@pytest.mark.parametrize("lanes, depth", [(1, 5), (3, 40), (6, 600)])
def test_feature_memory(lanes, depth):
    """Words written by the array, others in each column of banks, and slices by the host: read two or three later."""
    config = small_config(lanes=lanes, feature_depth=depth)
    rng, slices = random.Random(lanes), slices_of(config.word_bits)
    words = [[rng.getrandbits(config.word_bits) for _ in range(depth)] for _ in range(BANKS)]
    select = [40 + slices * bank for bank in range(BANKS)]
    dut = FeatureMemory(config, select=select, init=[bank[:-1] for bank in words])
    for bank in words:
        bank[-1] = 0
    expected, seen, pending = [], [], []  # changes with the cycle that finds them in the memory
    filling, latency = False, FeatureMemory.latency

    async def bench(ctx):
        nonlocal filling
        for cycle in range(800):
            while pending and pending[0][0] == cycle:
                _, (bank, address, mask, value) = pending.pop(0)
                words[bank][address] = words[bank][address] & ~mask | value & mask
            enable, fill = 0, fill_word(0, 0, 0, write=0)
            w_addr = [rng.randrange(depth) for _ in range(WINDOW)]
            w_data = [rng.getrandbits(config.word_bits) for _ in range(WINDOW)]
            # The array does not write in the cycle after the host did.
            if not filling and rng.random() < 0.4:
                enable = rng.getrandbits(BANKS)
                pending.extend(
                    (cycle + 2, (n, w_addr[n % 3], -1, w_data[n % 3])) for n in range(BANKS) if enable >> n & 1
                )
            filling = not enable and rng.random() < 0.6
            if filling:
                number, address = rng.randrange(-2, slices * BANKS + 2), rng.randrange(depth + 3)
                value = rng.getrandbits(SLICE_BITS)
                fill = fill_word(40 + number, address, value)
                bank, low = number // slices, number % slices * SLICE_BITS
                if 0 <= number < slices * BANKS and address < depth:
                    mask = ((1 << SLICE_BITS) - 1 << low) & (1 << config.word_bits) - 1
                    pending.append((cycle + 3, (bank, address, mask, value << low)))
            busy = {(bank, address) for _, (bank, address, _, _) in pending}
            reads = [rng.choice([a for a in range(depth) if (bank, a) not in busy]) for bank in range(BANKS)]
            expected.append([words[bank][address] for bank, address in enumerate(reads)])
            ctx.set(dut.w_en, enable)
            ctx.set(Value.cast(dut.w_addr), packed(w_addr, config.address_bits))
            ctx.set(Value.cast(dut.w_data), packed(w_data, config.word_bits))
            ctx.set(Value.cast(dut.fill), fill)
            ctx.set(Value.cast(dut.r_addr), packed(reads, config.address_bits))
            await ctx.tick()
            together = ctx.get(Value.cast(dut.r_data))
            mask = (1 << config.word_bits) - 1
            seen.append([together >> bank * config.word_bits & mask for bank in range(BANKS)])

    simulate(dut, bench)
    assert seen[latency - 1 :] == expected[: len(expected) - latency + 1]
