# amaranth: UnusedElaboratable=no

"""MAC array: sums, requantisation, destinations and timing, against NumPy dot products."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
from amaranth import Value
from ports import drive, packed, simulate, small_config, unpacked
from test_residual import added, memory_words, parameters

from hw.array import Column, MacArray
from hw.jobs import array_job
from hw.patch import PatchBuffer
from hw.residual import ResidualAdder, residual_memories
from sim.golden import multiply_by_quantized_multiplier


@dataclass
class Contents:
    """What output channels have in the columns: weights (lanes, depth, K); bias, multiplier, shift (lanes, depth)."""

    weights: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray

    def words(self, config):
        """Memory words by name."""
        memories = {}
        for n in range(config.columns):
            if config.outputs == 1:
                memories[f"weights_{n}"] = [packed(word, 8) for word in self.weights[n]]
            else:
                first, second = self.weights[2 * n : 2 * n + 2].astype(int)
                memories[f"weights_{n}"] = [packed(word, 16) for word in shared_operands(first, second)]
        for n in range(config.lanes):
            memories[f"bias_{n}"] = [packed([value], config.bias_bits) for value in self.bias[n]]
            memories[f"scale_{n}"] = [
                int(m) | int(s) << config.multiplier_bits
                for m, s in zip(self.multiplier[n], self.shift[n], strict=True)
            ]
        return memories

    def results(self, sums, columns, scale, config, bounds):
        """Int8 results of ``columns`` for their sums, with the parameters at address ``scale``."""
        zero_point, lo, hi = bounds
        half = 1 << np.array(config.window_bits)[columns] - 1
        total = np.clip(np.asarray(sums, np.int64) + self.bias[columns, scale], -half, half - 1)
        scaled = multiply_by_quantized_multiplier(total, self.multiplier[columns, scale], -self.shift[columns, scale])
        return np.clip(np.clip(scaled, -512, 512) + zero_point, lo, hi)


def shared_operands(first, second):
    """What a memory holds for multipliers that two output channels share, 16 bits each.

    An operand of 18 bits is second * 2**10 + first. Its bits 8 and 9 are like bit 7 and have no place in the memory.
    """
    operands = second * 1024 + first
    assert (operands >= -(1 << 17)).all() and (operands < 1 << 17).all()
    assert np.isin(operands >> 7 & 7, (0, 7)).all()
    return operands & 0xFF | (operands >> 10 & 0xFF) << 8


def random_contents(config, seed):
    rng = np.random.default_rng(seed)
    shape = config.lanes, config.scale_depth
    weights = rng.integers(-128, 128, (config.lanes, config.weight_depth, config.array_rows), np.int8)
    weights[:, ::4] = rng.choice([-128, 127], weights[:, ::4].shape)
    if config.outputs == 2:
        # Two channels share their multipliers but where an operand or a sum of two products needed more bits.
        first, second = weights[::2], weights[1::2]
        both = (first[..., ::2] == -128) & (first[..., 1::2] == -128)
        first[..., 1::2][both] = -127
        second[(second == -128) & (first < 0)] = -127
        assert all((values == -128).any() for values in (first, second))
    return Contents(
        weights=weights,
        bias=rng.integers(-(1 << 18), 1 << 18, shape) >> rng.integers(0, 10, shape),
        multiplier=rng.integers(1 << 30, 1 << 31, shape),
        shift=rng.integers(7, 12, shape),
    )


def selects(config):
    """Fill selects of all memories, apart from each other."""
    names = [f"{kind}_{n}" for n in range(config.lanes) for kind in ("weights", "bias", "scale")]
    names += residual_memories(config)
    return {name: 7 + 4 * n for n, name in enumerate(names)}


@dataclass
class Row:
    """A job of the array. ``words`` are a patch's, of which a sum has ``idle`` more; ``residual`` 0 adds nothing.

    In a ``paired`` row two pixels share a patch, whose words they divide between them.
    """

    pixels: int
    words: int
    groups: int
    weights: int
    scales: int
    address: int
    column_pitch: int
    row_residue: int
    last: int
    bounds: tuple[int, int, int]
    column_residue: int = 0
    freed: int = 0  # words given back, where they are not the patch's
    idle: int = 0
    residual: int = 0
    paired: int = 0

    @property
    def patches(self):
        """The pixels of each patch."""
        at_once = 1 + self.paired
        return [range(p, min(p + at_once, self.pixels)) for p in range(0, self.pixels, at_once)]

    @property
    def sum_words(self):
        return self.words + self.idle

    @property
    def gives_back(self):
        return self.freed or self.words

    def encoded(self, config):
        fields = vars(self) | {
            "pixels": len(self.patches) - 1, "words": self.sum_words - 1, "groups": self.groups - 1,
            "freed": self.gives_back - 1,
            "bounds": dict(zip(("zero_point", "lo", "hi"), self.bounds, strict=True)),
        }  # fmt: skip
        if not config.residual_lanes:
            assert not fields.pop("idle") and not fields.pop("residual")
        if config.pixels > 1:
            fields["odd"] = self.pixels % 2
        else:
            assert not fields.pop("paired")
        return array_job(config).const(fields).as_value().value


def random_rows(rng, config, count):
    rows = []
    for n in range(count):
        words, groups = rng.choice((1, 1, 2, 3, 5)), rng.choice((1, 2, 3, 6))
        adds = {}
        if config.residual_lanes and rng.random() < 0.7:
            # Results to add must lie apart; a sum may be longer still, as far as the job can say.
            most, idle = config.residual_beats - 1, max(config.residual_beats - words, 0)
            adds["idle"] = rng.choice((idle, idle, most))
            adds["residual"], adds["freed"] = rng.randint(1, config.residual_scale_depth - 1), words + groups
        elif config.pixels > 1:
            adds["paired"] = int(rng.random() < 0.7)
        lo, hi = sorted((rng.randint(-128, 127), rng.randint(-128, 127)))
        rows.append(
            Row(
                pixels=rng.choice((1, 2, 5, 8)), words=words, groups=groups,
                weights=rng.randint(0, config.weight_depth - (words + adds.get("idle", 0)) * groups),
                scales=rng.randint(0, config.scale_depth - groups), address=rng.randint(0, 200),
                column_pitch=rng.randint(0, 15), row_residue=rng.randrange(3), last=int(n == count - 1),
                bounds=(rng.randint(-60, 60), min(lo, 0), max(hi, 1)), column_residue=rng.randrange(3), **adds,
            )
        )  # fmt: skip
    return rows


class Run:
    """What an array did, by cycle."""

    def __init__(self):
        self.offered, self.taken, self.arrived, self.freed, self.writes = [], [], [], [], []
        self.made, self.added = [], []


async def play(ctx, dut, config, rows, patches, *, residuals=(), seed=0, job_gap=0.0, patch_gap=0.0, cycles=6000):
    """Start ``dut`` and feed it jobs and patches, these into whatever room there is, until it has rested.

    ``residuals`` has the words to add for each patch, which come before it, a cycle each, and need room as well.
    """
    rng, done = random.Random(seed), Run()
    ring = [rng.getrandbits(8 * config.array_rows) for _ in range(config.patch_depth)]
    room, tail, reading = config.patch_depth, 0, [0] * PatchBuffer.latency
    waiting, idle = list(patches), 0
    adding = [list(words) for words in residuals] or [[] for _ in patches]
    ctx.set(dut.start, 1)
    ctx.set(dut.jobs.valid, 0)
    ctx.set(dut.arrived, 0)
    await ctx.tick()
    ctx.set(dut.start, 0)
    for cycle in range(cycles):
        freed = ctx.get(dut.freed)
        if freed:
            done.freed.append((cycle, freed))
            # What was given back is overwritten at once.
            room += freed
        comes = bool(waiting) and bool(adding[0]) and room > 0 and rng.random() >= patch_gap
        ctx.set(dut.residual_valid, comes)
        ctx.set(dut.residual, packed(adding[0].pop(0), 8) if comes else rng.getrandbits(config.word_bits))
        room -= comes
        arrived = bool(waiting) and not comes and not adding[0] and room >= len(waiting[0])
        arrived = arrived and rng.random() >= patch_gap
        if arrived:
            adding.pop(0)
            for word in waiting.pop(0):
                ring[tail] = packed(word, 8)
                tail, room = (tail + 1) % config.patch_depth, room - 1
            done.arrived.append(cycle)
        for n in range(room):
            ring[(tail + n) % config.patch_depth] = rng.getrandbits(8 * config.array_rows)
        ctx.set(dut.arrived, arrived)
        at = len(done.taken)
        if len(done.offered) == at < len(rows) and rng.random() >= job_gap:
            done.offered.append(cycle)
        offering = len(done.offered) > at
        ctx.set(dut.jobs.valid, offering)
        ctx.set(dut.jobs.payload, rows[at].encoded(config) if offering else rng.getrandbits(30))
        ctx.set(dut.x, reading[0])
        reading = [*reading[1:], ring[ctx.get(dut.patch)]]
        idle += 1
        if offering and ctx.get(dut.jobs.ready):
            done.taken.append(cycle)
            idle = 0
        if ctx.get(dut.made_valid):
            done.made.append((cycle, made_words(ctx.get(dut.made_valid), ctx.get(dut.made), config)))
        if ctx.get(dut.added):
            done.added.append(cycle)
        if enable := ctx.get(dut.w_en):
            idle = 0
            done.writes.append(
                (cycle,
                 written(enable, ctx.get(Value.cast(dut.w_addr)), ctx.get(Value.cast(dut.w_data)), config),
                 ctx.get(dut.row_written), ctx.get(dut.finished))
            )  # fmt: skip
        else:
            assert not ctx.get(dut.row_written) and not ctx.get(dut.finished)
        if idle > 160:
            break
        await ctx.tick()
    return done


def made_words(valid, word, config):
    """The values of each pixel that is there."""
    words = [unpacked(word >> config.word_bits * n, 8, config.lanes) for n in range(config.pixels)]
    return [values for n, values in enumerate(words) if valid >> n & 1]


def written(enable, addresses, words, config):
    """Address and values by bank."""
    at = [addresses >> config.address_bits * c & (1 << config.address_bits) - 1 for c in range(3)]
    values = [unpacked(words >> config.word_bits * c, 8, config.lanes) for c in range(3)]
    return {bank: (at[bank % 3], values[bank % 3]) for bank in range(9) if enable >> bank & 1}


def check(done, rows, patches, contents, config, *, residuals=(), sums=()):
    """Every write, job and return of room, in the cycle in which it must be.

    ``sums`` are the parameters that the rows' ``residual`` number from 1 on.
    """
    latency = MacArray.latency(config)
    columns = np.arange(config.lanes)
    address_mask = (1 << config.address_bits) - 1
    last, number_of_patch, taken, freed, writes, made, added_at = -1, 0, [], [], [], [], []
    to_made = latency - ResidualAdder.latency(config) - (config.pixels - 1)
    for number, row in enumerate(rows):
        taken.append(max(done.offered[number], last + 1))
        issue = taken[-1] + 1
        for pixels in row.patches:
            # What a sum has beyond its patch is the last word again.
            patch = patches[number_of_patch]
            patch = np.asarray([*patch, *[patch[-1]] * row.idle], np.int64)
            issue = max(issue, done.arrived[number_of_patch] + 2)
            for group in range(row.groups):
                first = row.weights + group * row.sum_words
                weights = contents.weights[:, first : first + row.sum_words].astype(np.int64)
                issue += row.sum_words
                row_ends = pixels[-1] == row.pixels - 1 and group == row.groups - 1
                part = config.array_rows // (1 + row.paired)
                made_now, here = [], {}
                for n, p in enumerate(pixels):
                    its_own = slice(part * n, part * (n + 1))
                    total = np.einsum("wk,nwk->n", patch[:, its_own], weights[..., its_own])
                    values = contents.results(total, columns, row.scales + group, config, row.bounds).tolist()
                    made_now.append(values)
                    if row.residual:
                        which, words = sums[row.residual - 1], residuals[number_of_patch][group]
                        values = [added(which, a, b) for a, b in zip(values, words, strict=True)]
                        added_at.append(issue - 1 + latency)
                    column = row.column_residue + p
                    address = row.address + column // 3 * row.column_pitch + group & address_mask
                    here[3 * row.row_residue + column % 3] = address, values
                made.append((issue - 1 + to_made, made_now))
                writes.append((issue - 1 + latency, here, int(row_ends), int(row_ends and row.last)))
            freed.append((issue + 1, row.gives_back))
            number_of_patch += 1
        last = issue - 1
    assert done.taken == taken
    assert done.freed == freed
    assert done.made == made
    assert done.added == added_at
    assert len(done.writes) == len(writes)
    for got, wanted in zip(done.writes, writes, strict=True):
        assert got == wanted
    return writes


def random_patches(rows, config, seed):
    rng = np.random.default_rng(seed)
    patches = [rng.integers(-128, 128, (row.words, config.array_rows), np.int8) for row in rows for _ in row.patches]
    for patch in patches[::3]:
        patch[:] = rng.choice([-128, 127], patch.shape)
    return patches


@pytest.mark.parametrize(
    "lanes, words, outputs, pixels, patch_gap, job_gap",
    [
        (1, 1, 1, 1, 0.0, 0.0), (2, 2, 1, 1, 0.0, 0.0), (3, 2, 1, 1, 0.9, 0.0), (4, 1, 1, 1, 0.5, 0.9),
        (2, 1, 2, 1, 0.0, 0.0), (2, 3, 2, 1, 0.9, 0.0), (4, 1, 2, 1, 0.5, 0.9), (6, 1, 2, 1, 0.0, 0.0),
        (1, 2, 1, 2, 0.0, 0.0), (3, 2, 1, 2, 0.9, 0.0), (2, 4, 1, 2, 0.5, 0.9), (3, 6, 1, 2, 0.0, 0.0),
        (2, 2, 2, 2, 0.0, 0.0), (4, 2, 2, 2, 0.5, 0.9), (2, 6, 2, 2, 0.9, 0.0),
    ],
)  # fmt: skip
def test_array(lanes, words, outputs, pixels, patch_gap, job_gap):
    """Rows of all shapes, patches early and late, jobs early and late: two programs, one start each."""
    config = small_config(lanes=lanes, words=words, outputs=outputs, pixels=pixels)
    contents = random_contents(config, lanes)
    dut = MacArray(config, select=selects(config), init=contents.words(config))
    runs = []

    async def bench(ctx):
        for seed in range(2):
            rows = random_rows(random.Random(10 * lanes + seed), config, 8)
            patches = random_patches(rows, config, seed)
            done = await play(ctx, dut, config, rows, patches, seed=seed, job_gap=job_gap, patch_gap=patch_gap)
            runs.append((done, rows, patches))

    simulate(dut, bench)
    for done, rows, patches in runs:
        writes = check(done, rows, patches, contents, config)
        assert sum(finished for *_, finished in writes) == 1


@pytest.mark.parametrize("lanes, residual_lanes, outputs, pixels, patch_gap, job_gap", [
    (1, 1, 1, 1, 0.0, 0.0), (2, 1, 1, 1, 0.0, 0.0), (4, 1, 1, 1, 0.3, 0.0), (4, 2, 1, 1, 0.0, 0.7),
    (3, 3, 1, 1, 0.6, 0.0), (4, 2, 2, 1, 0.0, 0.0), (2, 1, 2, 1, 0.3, 0.7),
    (2, 1, 1, 2, 0.0, 0.0), (4, 2, 2, 2, 0.3, 0.0), (3, 3, 1, 2, 0.0, 0.7),
])  # fmt: skip
def test_array_with_residuals(lanes, residual_lanes, outputs, pixels, patch_gap, job_gap):
    """Rows whose results are added to, amid rows whose are not; sums no longer than the adder needs them."""
    config = small_config(lanes=lanes, words=pixels, outputs=outputs, pixels=pixels, residual_lanes=residual_lanes,
                          residual_scale_depth=4, residual_window_bits=30)  # fmt: skip
    contents = random_contents(config, lanes)
    sums = [parameters(random.Random(lanes + n)) for n in range(3)]
    dut = MacArray(config, select=selects(config), init=contents.words(config) | memory_words(sums))
    runs = []

    async def bench(ctx):
        for seed in range(2):
            rng = random.Random(10 * lanes + seed)
            rows = random_rows(rng, config, 10)
            patches = random_patches(rows, config, seed)
            residuals = [
                [[rng.randint(-128, 127) for _ in range(lanes)] for _ in range(row.groups if row.residual else 0)]
                for row in rows for _ in row.patches
            ]  # fmt: skip
            given = dict(residuals=residuals, seed=seed, job_gap=job_gap, patch_gap=patch_gap)
            runs.append((await play(ctx, dut, config, rows, patches, **given), rows, patches, residuals))

    simulate(dut, bench)
    for done, rows, patches, residuals in runs:
        check(done, rows, patches, contents, config, residuals=residuals, sums=sums)
        assert {bool(row.residual) for row in rows} == {False, True}
        assert {row.paired for row in rows} == set(range(pixels))
        assert len(done.added) > 10


@pytest.mark.parametrize(
    "lanes, outputs, pixels", [(3, 1, 1), (8, 1, 1), (9, 1, 1), (4, 2, 1), (8, 2, 1), (3, 1, 2), (8, 2, 2)]
)
def test_a_result_every_cycle(lanes, outputs, pixels):
    """One patch word a pixel: as many results are on their way as the latency allows.

    With 8 columns these are nearly all that the ring of destinations holds, with 9 the next larger ring is needed.
    """
    config = small_config(lanes=lanes, words=pixels, outputs=outputs, pixels=pixels)
    contents = random_contents(config, 1)
    rows = [
        Row(pixels=14 * pixels, words=1, groups=8, weights=n, scales=n, address=3, column_pitch=8, row_residue=n,
            paired=pixels - 1, last=int(n == 2), bounds=(n, -128, 127))
        for n in range(3)
    ]  # fmt: skip
    patches = random_patches(rows, config, 2)
    dut = MacArray(config, select=selects(config), init=contents.words(config))
    kept = []

    async def bench(ctx):
        kept.append(await play(ctx, dut, config, rows, patches))

    simulate(dut, bench)
    writes = check(kept[0], rows, patches, contents, config)
    assert [cycle for cycle, *_ in writes[:100]] == list(range(writes[0][0], writes[0][0] + 100))


def test_no_job_after_the_last():
    """A job behind the last of a program, which a memory's rest may look like, is not taken before the next start."""
    config = small_config(lanes=1, words=1)
    contents = random_contents(config, 3)
    rows = random_rows(random.Random(4), config, 3)
    patches = random_patches(rows, config, 4)
    dut = MacArray(config, select=selects(config), init=contents.words(config))
    kept = []

    async def bench(ctx):
        for _ in range(2):
            kept.append(await play(ctx, dut, config, [*rows, rows[0]], [*patches, *patches[:1]], cycles=600))

    simulate(dut, bench)
    for done in kept:
        assert len(done.taken) == len(rows) and len(done.writes) == sum(row.pixels * row.groups for row in rows)
        assert [finished for *_, finished in done.writes].count(1) == 1


@pytest.mark.parametrize("after", [3, 8, 13, 26])
def test_start_while_running(after):
    """A start drops the row at hand and the patches that wait, and reads patches from the first word again."""
    config = small_config(lanes=2, words=1)
    contents = random_contents(config, 5)
    rows = random_rows(random.Random(6), config, 4)
    patches = random_patches(rows, config, 6)
    dut = MacArray(config, select=selects(config), init=contents.words(config))
    kept = []

    async def bench(ctx):
        await play(ctx, dut, config, rows, patches, cycles=after)
        ctx.set(dut.start, 1)
        ctx.set(dut.jobs.valid, 0)
        ctx.set(dut.arrived, 0)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await ctx.tick().repeat(MacArray.latency(config) + 2)
        # Late patches: one remembered from before the start would be missed.
        kept.append(await play(ctx, dut, config, rows, patches, patch_gap=0.9))

    simulate(dut, bench)
    check(kept[0], rows, patches, contents, config)


@pytest.mark.parametrize("lanes, words, outputs, pixels", [(3, 2, 1, 1), (4, 1, 2, 1), (4, 2, 2, 2)])
def test_filled_over_the_bus(lanes, words, outputs, pixels):
    """The fill bus reaches every column's three memories, each under its own selects; words of two slices."""
    config = small_config(lanes=lanes, words=words, outputs=outputs, pixels=pixels, weight_depth=40, scale_depth=12)
    contents = random_contents(config, 7)
    select = selects(config)
    rows = random_rows(random.Random(8), config, 4)
    patches = random_patches(rows, config, 8)
    dut = MacArray(config, select=select, init={})
    kept = []

    async def bench(ctx):
        for name, words in contents.words(config).items():
            for address, word in enumerate(words):
                for part in range(4):
                    piece = word >> 36 * part & (1 << 36) - 1
                    fill = 1 | select[name] + part << 1 | address << 11 | piece << 27
                    ctx.set(Value.cast(dut.fill), fill)
                    await ctx.tick()
        ctx.set(Value.cast(dut.fill), 0)
        await ctx.tick().repeat(config.lanes + 3)
        kept.append(await play(ctx, dut, config, rows, patches))

    simulate(dut, bench)
    check(kept[0], rows, patches, contents, config)


@pytest.mark.parametrize(
    "lanes, words, outputs, pixels",
    [
        (1, 1, 1, 1), (3, 2, 1, 1), (5, 1, 1, 1), (2, 1, 2, 1), (4, 2, 2, 1), (6, 1, 2, 1), (8, 2, 2, 1),
        (1, 2, 1, 2), (3, 4, 1, 2), (2, 2, 2, 2), (4, 4, 2, 2),
    ],
)  # fmt: skip
def test_column(lanes, words, outputs, pixels):
    """A column alone: its inputs leave a cycle later, its sums follow the documented delays."""
    config = small_config(lanes=lanes, words=words, outputs=outputs, pixels=pixels)
    contents = random_contents(config, 9)
    number = lanes // outputs - 1
    channels = list(range(lanes - outputs, lanes))
    dut = Column(config, number=number, select=selects(config), init=contents.words(config))
    rng = np.random.default_rng(words)
    count = 150
    x = rng.integers(-128, 128, (count, config.array_rows), np.int8)
    x[::3] = rng.choice([-128, 127], x[::3].shape)
    weight = rng.integers(0, config.weight_depth, count).tolist()
    first = (rng.random(count) < 0.4).astype(int).tolist()
    first[0] = 1
    # A sum is of one kind from its beginning to its end.
    joined = rng.integers(0, 2, count)[np.maximum.accumulate(np.arange(count) * first)].tolist()
    scale = rng.integers(0, config.scale_depth, count).tolist()
    x_at, scale_at, latency = Column.weight_latency, Column.scale_delay(config), Column.latency(config)
    cycles = count + latency

    def at(delay, values):
        return [0] * delay + values + [0] * (cycles - delay - len(values))

    ports = {
        "x": at(x_at, [packed(word, 8) for word in x]), "weight": at(0, weight),
        "first": at(x_at + Column.sum_delay(config), first), "scale": at(scale_at, scale),
    }  # fmt: skip
    if pixels > 1:
        ports["joined"] = at(x_at + Column.sum_delay(config) - 1, joined)
    seen = drive(dut, ports, ["o"])
    got = [np.reshape(unpacked(word, 11, outputs * pixels), (pixels, outputs)) for word in seen["o"][latency:]]
    half = config.array_rows // 2
    kinds = [slice(None), slice(0, half), slice(half, None)]  # all rows, those of either pixel
    totals = np.zeros((len(kinds), outputs), np.int64)
    for n in range(count):
        w, v = contents.weights[channels, weight[n]].astype(np.int64), x[n].astype(np.int64)
        products = np.array([w[:, kind] @ v[kind] for kind in kinds])
        totals = products if first[n] else totals + products
        shown = totals[[0]] if pixels == 1 else totals[[0 if joined[n] else 1, 2]]
        for pixel, total in enumerate(shown):
            expected = contents.results(total, channels, scale[n], config, (0, -512, 512))
            assert got[n][pixel].tolist() == expected.tolist(), (n, pixel)
