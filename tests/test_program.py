"""Sequencer: jobs in order, exactly a period apart, and again from the first after a start."""

import random

import pytest
from amaranth import Value
from ports import simulate

from hw.program import Sequencer


def fill_word(select, address, data):
    return 1 | select << 1 | address << 11 | data << 27


def play(dut, *, starts, cycles, ready):
    """Transfers as (cycle, job) and the cycles in which a job waits, with ``start`` in the cycles ``starts``."""
    transfers, waiting = [], []

    async def bench(ctx):
        for cycle in range(cycles):
            ctx.set(dut.start, cycle in starts)
            ctx.set(dut.jobs.ready, ready(cycle))
            if ctx.get(dut.jobs.valid):
                waiting.append((cycle, ctx.get(dut.jobs.payload)))
                if ready(cycle):
                    transfers.append(waiting[-1])
            await ctx.tick()

    simulate(dut, bench)
    return transfers, waiting


def sequencer(seed=0, depth=20):
    rng = random.Random(seed)
    jobs = [rng.getrandbits(50) for _ in range(depth)]
    return Sequencer(width=50, depth=depth, select=3, init=jobs, primitives="portable"), jobs


def test_period_is_exact():
    dut, jobs = sequencer()
    transfers, _ = play(dut, starts={5}, cycles=70, ready=lambda cycle: True)
    assert dut.period == 5
    assert transfers == [(5 + 5 * (n + 1), jobs[n]) for n in range(12)]


def test_nothing_before_start():
    dut, _ = sequencer()
    assert play(dut, starts=set(), cycles=30, ready=lambda cycle: True) == ([], [])


def test_job_waits_unchanged_until_taken():
    rng = random.Random(4)
    readiness = [rng.random() < 0.2 for _ in range(300)]
    dut, jobs = sequencer(seed=1, depth=60)
    transfers, waiting = play(dut, starts={0}, cycles=300, ready=readiness.__getitem__)
    assert [job for _, job in transfers] == jobs[: len(transfers)] and len(transfers) > 10
    expected, valid = [], dut.period
    for cycle, job in transfers:
        expected += [(n, job) for n in range(valid, cycle + 1)]
        valid = cycle + dut.period
    assert waiting[: len(expected)] == expected


@pytest.mark.parametrize("again", range(20, 34))
def test_restart(again):
    """A start in any phase drops the job at hand and begins with the first."""
    dut, jobs = sequencer(seed=2)
    transfers, _ = play(dut, starts={2, again}, cycles=again + 30, ready=lambda cycle: cycle % 3 != 1)
    later = [(cycle, job) for cycle, job in transfers if cycle > again]
    assert [job for _, job in later] == jobs[: len(later)] and len(later) >= 4
    assert again + dut.period <= later[0][0] <= again + dut.period + 1


def test_filled_over_the_bus():
    jobs = [random.Random(6).getrandbits(50) for _ in range(4)]
    dut = Sequencer(width=50, depth=8, select=3, primitives="portable")
    taken = []

    async def bench(ctx):
        for address, job in enumerate(jobs):
            for part in range(2):
                ctx.set(Value.cast(dut.fill), fill_word(3 + part, address, job >> 36 * part & (1 << 36) - 1))
                await ctx.tick()
        ctx.set(Value.cast(dut.fill), 0)
        await ctx.tick().repeat(4)
        ctx.set(dut.start, 1)
        ctx.set(dut.jobs.ready, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for _ in range(4 * dut.period):
            await ctx.tick()
            if ctx.get(dut.jobs.valid):
                taken.append(ctx.get(dut.jobs.payload))

    simulate(dut, bench)
    assert taken == jobs
