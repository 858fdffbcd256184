"""Windows, gather and patch buffer, against NumPy windows of whole tensors."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
from amaranth import Value
from ports import drive, packed, simulate, small_config

from hw.depthwise import DepthwiseEngine
from hw.features import FeatureMemory
from hw.gather import Gather
from hw.jobs import JobKind, WindowMode, layer_job, row_job
from hw.patch import PatchBuffer
from hw.window import WindowGenerator

DRAIN = 12


@dataclass
class Layer:
    """A tensor in the banks, and the walk over it."""

    tensor: np.ndarray  # int8 (H, W, C)
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]  # top, left
    results: tuple[int, int]  # rows, columns
    pad: int
    beats: int
    taps: int  # that go on in a beat but the last
    patch_words: int
    coefficients: int
    scales: int
    bounds: tuple[int, int, int]
    written: list[int]
    high: list[int]
    mode: WindowMode = WindowMode.WIDE
    repeats: int = 1  # how often each window comes, for kernels of one position
    step: int = 3  # columns from a window to the next
    whole: int = 0
    paired: int = 0  # whether two pixels share a patch

    def __post_init__(self):
        self.tiles = -(-self.kernel[0] // 3), -(-self.kernel[1] // self.step)
        if self.repeats > 1:
            self.tiles, self.step = (1, self.repeats), 0

    @property
    def patches(self):
        """The pixels of a row by patch."""
        count = self.results[1]
        return [range(p, min(p + 1 + self.paired, count)) for p in range(0, count, 1 + self.paired)]

    def groups(self, config):
        return -(-self.tensor.shape[2] // config.lanes)

    def parts(self, config):
        """Windows for a word of results, each for a part of its channels."""
        return config.lanes // config.depthwise_lanes if self.mode == WindowMode.DEPTHWISE else 1

    @property
    def last_taps(self):
        """Taps in the last beat: what is left of nine, or the only one."""
        return 1 if self.whole or self.beats == self.taps == 1 else 9 - (self.beats - 1) * self.taps

    @property
    def pieces(self):
        """First tap, or number of the patch word, and how many taps go on, of each beat of a window."""
        counts = [self.taps] * (self.beats - 1) + [self.last_taps]
        return list(zip(range(0, 99, self.taps), counts, strict=False))


def random_layer(rng, config, *, written=0, **fixed):
    height, width = rng.randint(1, 8), rng.randint(1, 8)
    channels = rng.randint(1, 3 * config.lanes)
    kernel = rng.choice([(1, 1), (3, 3), (3, 3), (5, 5), (2, 7), (4, 3), (10, 4)])
    stride = rng.randint(1, 2), rng.randint(1, 2)
    padding = rng.randint(0, kernel[0] - 1), rng.randint(0, kernel[1] - 1)
    fields = {
        "tensor": np.random.default_rng(rng.getrandbits(32)).integers(-128, 128, (height, width, channels), np.int8),
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "results": (rng.randint(1, 4), rng.randint(1, 5)),
        "pad": rng.choice((-128, 127, 0, rng.randint(-128, 127))),
        "whole": rng.randrange(2),
        "patch_words": rng.randint(1, config.patch_depth - 1),
        "coefficients": rng.randint(0, 3),
        "scales": rng.randint(0, 3),
        "bounds": tuple(rng.randint(-128, 127) for _ in range(3)),
        "mode": rng.choice(list(WindowMode)),
        "repeats": rng.choice((1, 2, 4, 16)) if kernel == (1, 1) else 1,
        "step": rng.choice((1, 2, 3, 3)),
        "paired": rng.randrange(config.pixels),
    } | fixed
    taps = 1 if fields["whole"] else rng.randint(1, min(config.words, 9))
    several = -(-9 // taps)
    fields.setdefault("beats", rng.choice((1, 2, 7) if fields["whole"] else (1, several, several)))
    fields.setdefault("taps", taps if fields["beats"] == several else 1)
    rows = fields["results"][0]
    needs = []
    for _ in range(rows):
        written += rng.randint(0, 2)
        needs.append(written)
    return Layer(**fields, written=needs, high=[rng.randrange(8) for _ in range(rows)])


def placed(layer, config, rng, banks, base):
    """Write the tensor into ``banks`` from ``base`` on; its jobs, and the first free address.

    Where one window covers the kernel's height, groups of three rows lie in any order: only the row jobs know.
    """
    height, width, channels = layer.tensor.shape
    groups, lanes = layer.groups(config), config.lanes
    column_pitch = groups + rng.randrange(2)
    row_pitch = -(-width // 3) * column_pitch + rng.randrange(3)
    triples = -(-height // 3)
    order = list(range(triples))
    if layer.tiles[0] == 1:
        rng.shuffle(order)
    whole = np.zeros((height, width, groups * lanes), np.int8)
    whole[..., :channels] = layer.tensor
    for y, x, g in np.ndindex(height, width, groups):
        word = packed(whole[y, x, g * lanes : (g + 1) * lanes], 8)
        address = base + order[y // 3] * row_pitch + x // 3 * column_pitch + g
        banks[3 * (y % 3) + x % 3][address] = word
    mask = (1 << config.address_bits) - 1
    top, left = -layer.padding[0], -layer.padding[1]
    fields = {
        "kind": JobKind.LAYER, "mode": layer.mode, "step": layer.step, "beats": layer.beats - 1, "whole": layer.whole,
        "taps": layer.taps, "last_taps": layer.last_taps, "channels": 0,
        "groups": groups * layer.parts(config) - 1, "tiles_x": layer.tiles[1] - 1, "tiles_y": layer.tiles[0] - 1,
        "stride": layer.stride[1] - 1, "width": width, "height": height, "pixels": layer.results[1] - 1, "x": left,
        "column_base": left // 3 * column_pitch & mask, "column_residue": left % 3,
        "column_pitch": column_pitch, "row_pitch": row_pitch, "pad": layer.pad, "patch_words": layer.patch_words,
        "coefficients": layer.coefficients, "scales": layer.scales,
        "bounds": dict(zip(("zero_point", "lo", "hi"), layer.bounds, strict=True)),
    }  # fmt: skip
    if config.pixels > 1:
        fields["paired"] = layer.paired
    jobs = [layer_job(config).const(fields).as_value().value]
    for row in range(layer.results[0]):
        y = row * layer.stride[0] + top
        bases = [0, 0, 0]
        for at in range(y, y + 3):
            triple = at // 3
            place = order[triple] if 0 <= triple < triples else triple
            bases[at % 3] = base + place * row_pitch & mask
        fields = {
            "kind": JobKind.ROW, "written": layer.written[row] & 0xFFFF, "row_base": bases, "row_residue": y % 3,
            "high_half": layer.high[row], "y": y,
        }  # fmt: skip
        jobs.append(row_job(config).const(fields).as_value().value)
    return jobs, base + triples * row_pitch + 1


def expected_windows(layer, config):
    """Rows of pixels of windows: (taps, piece, count, high half, first, last, ends (2), coefficient, scale, part)."""
    height, width, channels = layer.tensor.shape
    groups, parts, lanes = layer.groups(config), layer.parts(config), config.lanes
    # A tensor's lanes beyond its channels are 0 in memory; a padded position has the pad in every lane.
    margin = 32
    whole = np.full((height + 2 * margin, width + 2 * margin, groups * lanes), layer.pad, np.int8)
    whole[margin : margin + height, margin : margin + width] = 0
    whole[margin : margin + height, margin : margin + width, :channels] = layer.tensor
    for row in range(layer.results[0]):
        pixels = []
        for column in range(layer.results[1]):
            pixel = []
            for number in range(groups * parts):
                group, part = divmod(number, parts)
                for tile, (down, across) in enumerate(np.ndindex(layer.tiles)):
                    y = margin + row * layer.stride[0] - layer.padding[0] + 3 * down
                    x = margin + column * layer.stride[1] - layer.padding[1] + layer.step * across
                    taps = whole[y : y + 3, x : x + 3, group * lanes : (group + 1) * lanes].reshape(9, lanes)
                    words = [packed(tap, 8) for tap in taps]
                    count = layer.tiles[0] * layer.tiles[1]
                    assert len(layer.pieces) == layer.beats
                    for beat, piece in enumerate(layer.pieces):
                        last = tile == count - 1
                        end = last and number == groups * parts - 1 and beat == layer.beats - 1
                        patch_end = end and any(column == patch[-1] for patch in layer.patches)
                        pixel.append(
                            (words, *piece, layer.high[row], tile == 0, last, end, patch_end,
                             layer.coefficients + number * count + tile, layer.scales + number, part)
                        )  # fmt: skip
            pixels.append(pixel)
        yield pixels


class Walk:
    """What a window generator did with its jobs: everything by cycle, counted from the one after ``start``."""

    def __init__(self):
        self.offered, self.taken, self.freed = [], [], []
        self.windows, self.bounds, self.modes, self.rows = [], [], [], []


async def walk(ctx, dut, config, jobs, banks, patch_words, *, seed=0, job_gap=0.0, row_gap=0.0, free_delay=(1, 1),
               rows=(0, 0), cycles=8000):  # fmt: skip
    """Start ``dut``, feed it ``jobs``, memory, rows and room for ``cycles`` cycles or until it has rested.

    ``patch_words`` has the size of every patch in order; ``rows`` are the first and last count of rows written; gaps
    are probabilities of an idle cycle; room comes back ``free_delay`` cycles after a patch, at random.
    """
    rng, done = random.Random(seed), Walk()
    written, most = rows
    address_mask, word_mask = (1 << config.address_bits) - 1, (1 << config.word_bits) - 1
    ports = {name: Value.cast(getattr(dut, name)) for name in ("r_addr", "r_data", "window", "control", "bounds")}
    ctx.set(dut.start, 1)
    ctx.set(dut.jobs.valid, 0)
    await ctx.tick()
    ctx.set(dut.start, 0)
    reading, pending = [[0] * 9] * FeatureMemory.latency, []
    addressed = [(0, 0, 0)] * (DepthwiseEngine.lead + 1)
    at = ended = idle = 0
    for cycle in range(cycles):
        if len(done.offered) == at < len(jobs) and rng.random() >= job_gap:
            done.offered.append(cycle)
        valid = len(done.offered) > at
        ctx.set(dut.jobs.valid, valid)
        ctx.set(dut.jobs.payload, jobs[at] if valid else rng.getrandbits(30))
        written += written < most and rng.random() >= row_gap
        done.rows.append(written)
        ctx.set(dut.rows_written, written & 0xFFFF)
        freed = sum(words for when, words in pending if when == cycle)
        if freed:
            done.freed.append((cycle, freed))
        ctx.set(dut.freed, freed)

        ctx.set(ports["r_data"], packed(reading[0], config.word_bits))
        addresses = ctx.get(ports["r_addr"])
        now = [bank.get(addresses >> n * config.address_bits & address_mask, 0) for n, bank in enumerate(banks)]
        reading = [*reading[1:], now]
        addressed = [*addressed[1:], (ctx.get(dut.coefficient), ctx.get(dut.scale), ctx.get(dut.part))]
        idle += 1
        if ctx.get(dut.valid):
            idle = 0
            word, value = ctx.get(ports["control"]), ctx.get(ports["window"])
            taps = [value >> n * config.word_bits & word_mask for n in range(9)]
            first, last, end, patch_end = (bool(word >> n & 1) for n in (13, 14, 15, 16))
            # Coefficient and scale addresses, and the part, come before their window, for their memories' sake.
            control = word & 63, word >> 6 & 15, word >> 10 & 7, first, last, end, patch_end
            done.windows.append((cycle, (taps, *control, *addressed[0])))
            done.bounds.append(ctx.get(ports["bounds"]))
            done.modes.append(ctx.get(dut.layer.mode))
            if patch_end:
                pending.append((cycle + rng.randint(*free_delay), patch_words[ended]))
                ended += 1
        if valid and ctx.get(dut.jobs.ready):
            done.taken.append(cycle)
            at, idle = at + 1, 0
        if at == len(jobs) and ended == len(patch_words) and idle > 40:
            break
        await ctx.tick()
    return done


def program(rng, config, count, *, written=0, **fixed):
    """Random layers in one memory: layers, jobs and banks."""
    banks = [{address: rng.getrandbits(config.word_bits) for address in range(2**config.address_bits)} for _ in "9" * 9]
    layers, jobs, base = [], [], rng.randrange(3)
    for _ in range(count):
        while True:
            layer = random_layer(rng, config, written=written, **fixed)
            trial = [dict(bank) for bank in banks]
            words, end = placed(layer, config, rng, trial, base)
            if end + 8 < 2**config.address_bits:
                break
        banks, base, written = trial, end, layer.written[-1]
        layers.append(layer)
        jobs.append(words)
    return layers, jobs, banks


def patch_sizes(layers):
    return [layer.patch_words for layer in layers for _ in range(layer.results[0] * len(layer.patches))]


def check_windows(walked, layers, config):
    expected = [
        window for layer in layers for pixels in expected_windows(layer, config) for pixel in pixels for window in pixel
    ]
    assert len(walked.windows) == len(expected)
    for number, ((cycle, got), wanted) in enumerate(zip(walked.windows, expected, strict=True)):
        assert got == wanted, f"window {number}, cycle {cycle}"
    counts = [sum(map(len, pixels)) for layer in layers for pixels in expected_windows(layer, config)]
    rows = [layer for layer in layers for _ in range(layer.results[0])]
    windows = [layer for layer, count in zip(rows, counts, strict=True) for _ in range(count)]
    assert walked.bounds == [packed(layer.bounds, 8) for layer in windows]
    assert walked.modes == [layer.mode for layer in windows]


def check_cycles(walked, layers, config, latency):
    """Every job moves into the generator's register, and every window is issued, as soon as the rules allow it.

    A job begins two cycles after it came into the register, or one after what it waited for, and frees the register.
    """
    room, freed = config.patch_depth, iter(walked.freed)
    last, begun, moved, issues = -DRAIN - 1, -1, [], []
    for layer in layers:
        moved.append(max(walked.offered[len(moved)], begun + 1))
        begun = max(moved[-1] + 2, last + DRAIN + 2)
        for row, pixels in enumerate(expected_windows(layer, config)):
            moved.append(max(walked.offered[len(moved)], begun + 1))
            when = moved[-1] + 1
            while walked.rows[when] < layer.written[row]:
                when += 1
            begun = max(when + 1, last + 1)
            issue = begun + 1
            for patch in layer.patches:
                while room < layer.patch_words:
                    cycle, words = next(freed)
                    room, issue = room + words, max(issue, cycle + 1)
                room -= layer.patch_words
                windows = sum(len(pixels[column]) for column in patch)
                issues += range(issue, issue + windows)
                issue += windows
            last = issue - 1
    assert walked.taken == moved
    assert [cycle - latency for cycle, _ in walked.windows] == issues


def run(layers, jobs, banks, config, **conditions):
    """Walk the whole program once and check it."""
    dut = WindowGenerator(config, drain_cycles=DRAIN)
    kept = []

    async def bench(ctx):
        words = [word for group in jobs for word in group]
        kept.append(await walk(ctx, dut, config, words, banks, patch_sizes(layers), **conditions))

    simulate(dut, bench)
    check_windows(kept[0], layers, config)
    check_cycles(kept[0], layers, config, dut.latency)
    return kept[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "lanes, depthwise_lanes, words, pixels",
    [(1, 1, 1, 1), (2, 2, 2, 1), (3, 3, 3, 1), (2, 1, 4, 1), (1, 1, 2, 2), (3, 1, 4, 2), (4, 2, 2, 1)],
)
def test_walks(lanes, depthwise_lanes, words, pixels, seed):
    """Random tensors, kernels, strides, paddings, groups, parts and beats, one after another in one memory."""
    rng = random.Random(100 * lanes + 10 * words + seed)
    config = small_config(
        lanes=lanes, depthwise_lanes=depthwise_lanes, words=words, pixels=pixels, feature_depth=512
    )  # fmt: skip
    written = rng.choice((0, 65530))
    layers, jobs, banks = program(rng, config, 3, written=written)
    slow = seed % 2
    run(layers, jobs, banks, config, seed=seed, job_gap=0.7 * slow, row_gap=0.95 * slow,
        free_delay=(1, 60) if slow else (2, 2), rows=(written, layers[-1].written[-1]))  # fmt: skip


def test_every_position_of_a_small_tensor():
    """Each residue of row and column, on tensors from 1 x 1, with both strides and every padding of a 3 x 3 kernel."""
    rng = random.Random(7)
    config = small_config(lanes=1, feature_depth=64)
    for height, width in ((1, 1), (1, 4), (2, 2), (5, 3)):
        for step in (1, 2):
            fixed = {
                "tensor": np.array([rng.randint(-128, 127) for _ in range(height * width)], np.int8).reshape(
                    height, width, 1
                ),
                "kernel": (3, 3), "stride": (step, step), "padding": (step, 3 - step), "results": (height, width),
                "beats": 1, "patch_words": 1, "pad": -128,
            }  # fmt: skip
            run(*program(rng, config, 1, **fixed), config, rows=(0, 99))


def test_large_extents():
    """The greatest widths that the job word holds: nothing near the ends counts as inside."""
    rng = random.Random(8)
    config = small_config(lanes=1, feature_depth=512)
    tensor = np.array([rng.randint(-128, 127) for _ in range(1022)], np.int8)
    for shape in ((1, 1022, 1), (1022, 1, 1)):
        fixed = {
            "tensor": tensor.reshape(shape), "kernel": (3, 3), "stride": (2, 2), "padding": (1, 1),
            "results": (min(4, shape[0]), min(600, (shape[1] + 1) // 2 + 2)), "beats": 1, "patch_words": 1, "pad": 5,
        }  # fmt: skip
        run(*program(rng, config, 1, **fixed), config, rows=(0, 99))


def test_room_for_exactly_one_patch():
    """A patch as large as a job can say waits until every word is back, and then goes at once."""
    rng = random.Random(9)
    config = small_config(feature_depth=512)
    fixed = {"patch_words": config.patch_depth - 1, "beats": 1, "kernel": (3, 3), "results": (2, 4)}
    layers, jobs, banks = program(rng, config, 2, **fixed)
    walked = run(layers, jobs, banks, config, free_delay=(20, 40), rows=(0, 99))
    assert len(walked.freed) == 16


@pytest.mark.parametrize(
    "words, taps, beats", [(1, 1, 9), (2, 2, 5), (3, 3, 3), (4, 4, 3), (4, 2, 5), (6, 6, 2), (12, 9, 1)]
)
def test_taps_together(words, taps, beats):
    """Windows of odd and even number, pixel after pixel: each begins with its first taps, ends with what is left."""
    rng = random.Random(40 + words)
    config = small_config(lanes=1, words=words, feature_depth=512)
    for channels in (1, 2, 3):
        for kernel in ((3, 3), (3, 4)):
            tensor = np.random.default_rng(channels).integers(-128, 128, (4, 5, channels), np.int8)
            fixed = {
                "tensor": tensor, "kernel": kernel, "step": 3, "results": (2, 3), "whole": 0, "beats": beats,
                "taps": taps, "patch_words": 1, "mode": WindowMode.WIDE,
            }  # fmt: skip
            run(*program(rng, config, 1, **fixed), config, rows=(0, 99))


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_that_repeat(stride):
    """The same window for several weights: coefficients go on, the place does not; then the next pixel's."""
    rng = random.Random(20 + stride)
    config = small_config(lanes=2, feature_depth=512)
    for repeats in (2, 4, 8, 16):
        fixed = {
            "kernel": (1, 1), "repeats": repeats, "stride": (stride, stride), "padding": (0, 0), "results": (3, 3),
            "beats": 1, "patch_words": 2, "mode": WindowMode.DEPTHWISE,
        }  # fmt: skip
        layers, jobs, banks = program(rng, config, 2, **fixed)
        walked = run(layers, jobs, banks, config, rows=(0, 99))
        taps = [window[0] for _, window in walked.windows]
        assert all(taps[n : n + repeats] == [taps[n]] * repeats for n in range(0, len(taps), repeats))


def test_rows_of_words_to_add():
    """A residual row between the rows of a layer: a job word for each, each waiting for the other to drain."""
    rng = random.Random(30)
    config = small_config(lanes=2, feature_depth=512)
    whole = {"kernel": (1, 1), "repeats": 1, "stride": (1, 1), "padding": (0, 0), "results": (1, 5), "beats": 1}
    layers, words = [], []
    banks = [{address: rng.getrandbits(config.word_bits) for address in range(512)} for _ in range(9)]
    base = 0
    for mode in (WindowMode.RESIDUAL, WindowMode.DEPTHWISE, WindowMode.RESIDUAL, WindowMode.WIDE):
        channels = rng.randint(1, 6)
        tensor = np.random.default_rng(base).integers(-128, 128, (4, 5, channels), np.int8)
        layer = random_layer(rng, config, **whole, mode=mode, tensor=tensor, patch_words=-(-channels // 2))
        jobs, base = placed(layer, config, rng, banks, base)
        layers.append(layer)
        words.append(jobs)
    walked = run(layers, words, banks, config, free_delay=(1, 30), rows=(0, 99))
    assert len(walked.taken) == 8


def test_rows_that_are_never_written():
    """A row whose source is not there is never begun."""
    rng = random.Random(10)
    config = small_config(feature_depth=512)
    fixed = {"kernel": (1, 1), "repeats": 1, "results": (3, 2), "patch_words": 1, "beats": 1}
    layers, jobs, banks = program(rng, config, 1, written=5, **fixed)
    layers[0].written[:] = [5, 6, 7]
    base_jobs = placed(layers[0], config, random.Random(0), [{} for _ in range(9)], 0)[0]
    dut = WindowGenerator(config, drain_cycles=DRAIN)
    kept = []

    async def bench(ctx):
        kept.append(await walk(ctx, dut, config, base_jobs, banks, patch_sizes(layers), rows=(6, 6), cycles=300))

    simulate(dut, bench)
    assert len(kept[0].windows) == 2 * 2 * layers[0].groups(config)


@pytest.mark.parametrize("after", [9, 14, 23, 31, 40])
def test_start_while_running(after):
    """A start forgets rows, pixels and room of what was under way."""
    rng = random.Random(11)
    config = small_config(feature_depth=512)
    fixed = {"patch_words": 5, "beats": 2, "kernel": (3, 3), "results": (2, 9)}
    layers, jobs, banks = program(rng, config, 2, **fixed)
    words = [word for group in jobs for word in group]
    dut = WindowGenerator(config, drain_cycles=DRAIN)
    kept, late = [], []

    async def bench(ctx):
        for cycles in (after, 8000):
            sizes = patch_sizes(layers)
            kept.append(await walk(ctx, dut, config, words, banks, sizes, rows=(0, 99), cycles=cycles))
            ctx.set(dut.jobs.valid, 0)
            ctx.set(dut.freed, 0)
            if cycles == after:
                ctx.set(dut.start, 1)
                await ctx.tick()
                ctx.set(dut.start, 0)
                # What was issued comes out yet, and nothing else.
                for cycle in range(2 * DRAIN):
                    late.append(cycle >= dut.latency and ctx.get(dut.valid))
                    await ctx.tick()

    simulate(dut, bench)
    assert not any(late)
    check_windows(kept[1], layers, config)
    check_cycles(kept[1], layers, config, dut.latency)


def test_nothing_follows_an_end():
    rng = random.Random(13)
    config = small_config(feature_depth=512)
    layers, jobs, _ = program(rng, config, 1)
    dut = WindowGenerator(config, drain_cycles=DRAIN)
    kept = []

    async def bench(ctx):
        kept.append(
            await walk(ctx, dut, config, [0, *jobs[0]], [{}] * 9, patch_sizes(layers), rows=(0, 99), cycles=150)
        )

    simulate(dut, bench)
    assert len(kept[0].taken) == 1 and not kept[0].windows


def test_peek():
    """While the engines rest, the host reads any word of any bank at the window's first position."""
    rng = random.Random(12)
    config = small_config(lanes=2)
    dut = WindowGenerator(config, drain_cycles=DRAIN)
    reads = [(rng.randrange(3), rng.randrange(3), rng.randrange(256)) for _ in range(12)]
    banks = [[rng.getrandbits(16) for _ in range(256)] for _ in range(9)]
    got = []

    async def bench(ctx):
        reading = [[0] * 9] * FeatureMemory.latency
        ctx.set(dut.peek, 1)
        for row, column, address in reads:
            ctx.set(dut.peek_row, row)
            ctx.set(dut.peek_column, column)
            ctx.set(dut.peek_address, address)
            for _ in range(dut.latency):
                ctx.set(Value.cast(dut.r_data), packed(reading[0], 16))
                addresses = ctx.get(Value.cast(dut.r_addr))
                reading = [*reading[1:], [banks[n][addresses >> 8 * n & 255] for n in range(9)]]
                await ctx.tick()
            got.append(ctx.get(Value.cast(dut.window)) & 0xFFFF)

    simulate(dut, bench)
    assert got == [banks[3 * row + column][address] for row, column, address in reads]


@pytest.mark.parametrize("lanes, words", [(1, 1), (2, 1), (3, 2), (4, 1), (6, 2), (8, 1), (16, 1), (2, 3), (3, 4)])
@pytest.mark.parametrize("mode", [WindowMode.WIDE, WindowMode.NARROW])
def test_gather(mode, lanes, words):
    """Taps from any of them on, or bytes in order of column, row, channel, from either half of the words."""
    rng = np.random.default_rng([lanes, words, mode.value])
    config = small_config(lanes=lanes, words=words)
    width = lanes * words
    for channels in range(1, config.narrow_channels + 1) if mode == WindowMode.NARROW else (1,):
        count = 60
        windows = rng.integers(-128, 128, (count, 9, lanes), np.int8)
        valid, ends, several = rng.integers(0, 2, count), rng.integers(0, 4, count), rng.integers(1, 10, count)
        together = words
        halves = lanes % 2 == 0 and channels <= lanes // 2
        high = rng.integers(0, 8, count) if halves and mode == WindowMode.NARROW else np.zeros(count, int)
        pieces = rng.integers(0, 9 if mode == WindowMode.WIDE else -(-9 * channels // width), count)
        if mode == WindowMode.WIDE:
            pieces -= pieces % together
        dut = Gather(config)
        tail = [0] * dut.latency
        seen = drive(
            dut,
            {
                "window": [packed(window.reshape(-1), 8) for window in windows] + tail,
                "valid": [int(bit) for bit in valid] + tail,
                "control": [
                    int(piece) | int(s) << 6 | int(h) << 10 | int(e) << 15
                    for piece, s, h, e in zip(pieces, several, high, ends, strict=True)
                ] + tail,
                "narrow": [int(mode == WindowMode.NARROW)] * (count + dut.latency),
                "channels": [channels - 1] * (count + dut.latency),
            },
            ["o", "o_valid", "o_count", "o_ends"],
        )  # fmt: skip
        assert seen["o_valid"] == tail + list(valid) and seen["o_ends"][dut.latency :] == list(ends)
        assert seen["o_count"][dut.latency :] == list(several)
        for n in range(count):
            got = seen["o"][n + dut.latency]
            if mode == WindowMode.WIDE:
                taps = windows[n, pieces[n] : pieces[n] + together].reshape(-1)
                assert got & (1 << 8 * len(taps)) - 1 == packed(taps, 8)
                continue
            first = [lanes // 2 * (int(high[n]) >> row & 1) for row in range(3)]
            values = [
                windows[n, 3 * row + column, first[row] + c]
                for column in range(3) for row in range(3) for c in range(channels)
            ]  # fmt: skip
            piece = values[pieces[n] * width : (pieces[n] + 1) * width]
            assert got & (1 << 8 * len(piece)) - 1 == packed(piece, 8)


@pytest.mark.parametrize("taps, channels", [(0, (3,)), (1, (1, 4)), (9, ()), (1, ())])
def test_gather_of_what_a_network_needs(taps, channels):
    """With less to choose from, what is left comes as before."""
    rng = np.random.default_rng(taps)
    several, count = dict(lanes=8, words=2), 40
    full, part = small_config(**several), small_config(**several, gathered_taps=taps, packed_channels=channels)
    for narrow, n, words in [(1, n, -(-9 * n // 16)) for n in channels] + [(0, 1, taps)] * bool(taps):
        pieces = rng.integers(words, size=count)
        pieces -= 0 if narrow else pieces % 2
        stimulus = {
            "window": [packed(rng.integers(-128, 128, 72), 8) for _ in range(count)],
            "valid": [1] * count,
            "control": [int(piece) | int(rng.integers(8)) << 10 for piece in pieces],
            "narrow": [narrow] * count,
            "channels": [n - 1] * count,
        }
        wanted, got = (drive(Gather(config), stimulus, ["o"])["o"] for config in (full, part))
        for piece, a, b in zip(pieces, wanted[Gather.latency :], got[Gather.latency :], strict=False):
            length = min(16, 9 * n - 16 * piece) if narrow else 8 * min(2 if taps == 9 else 1, 9 - piece)
            assert length > 0 and (a ^ b) & (1 << 8 * int(length)) - 1 == 0


@pytest.mark.parametrize(
    "words, pixels, taps",
    [
        (1, 1, 9), (2, 1, 9), (3, 1, 9), (4, 1, 9), (6, 1, 9), (9, 1, 9), (12, 1, 9), (2, 2, 9), (4, 2, 9), (6, 2, 9),
        (18, 2, 9), (4, 1, 0), (4, 2, 1), (18, 1, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_patch_buffer(words, pixels, taps, seed):
    """Feature words join, some at a time, whole words do not, patches end anywhere, the ring goes round.

    In a program of pairs, a patch is of two pixels, each in its half of every word, or of one alone. Where as many as
    the gather passes on make nine, they join one by one, or all of them always; else any number.
    """
    rng = random.Random(10 * words + seed)
    config = small_config(words=words, pixels=pixels, gathered_taps=taps, patch_depth=8)
    dut = PatchBuffer(config)
    bits, width = config.word_bits, config.word_bits * words
    ring = [0] * 8
    arrivals, closed, wrong = [], [], []  # by cycle; reads

    async def cycle(ctx, closes=False):
        closed.append(closes)
        arrivals.append(bool(ctx.get(dut.arrived)))
        await ctx.tick()

    async def bench(ctx):
        for program in range(3):
            ctx.set(dut.valid, 0)
            ctx.set(dut.start, 1)
            await cycle(ctx)
            ctx.set(dut.start, 0)
            paired = pixels == 2 and program > 0
            if pixels == 2:
                ctx.set(dut.paired, paired)
            part = words // (1 + paired)
            most = min(part, 9) if taps == 9 else 1
            address = place = begin = first = length = 0
            for _ in range(200):
                valid, full = rng.random() < 0.7, not paired and place == 0 and rng.random() < 0.3
                if address == begin and place == 0:
                    some = list(range(1, most + 1)) if 9 % most else [rng.choice((1, most))]
                taken = part if full else rng.choice(some)
                # The second pixel's patch is as long as the first's.
                end_pixel = rng.random() < 0.3
                if first:
                    written_so_far = (address - begin) % 8 * part + place - first
                    taken = min(taken, length - written_so_far)
                    end_pixel = written_so_far + taken == length
                elif paired and (address - begin) % 8 == 2:
                    end_pixel = True
                end = end_pixel and (not paired or first > 0 or rng.random() < 0.3)
                value = rng.getrandbits(width)
                for port, bit in (
                    (dut.valid, valid), (dut.count, taken), (dut.full, full), (dut.ends.pixel, end_pixel),
                    (dut.ends.patch, end), (dut.data, value),
                ):  # fmt: skip
                    ctx.set(port, bit)
                await cycle(ctx, valid and end)
                if not valid:
                    continue
                for n in range(taken):
                    if place == first + part:
                        address, place = (address + 1) % 8, first
                    written, mask = address, (1 << bits) - 1
                    word = value >> n * bits & mask
                    ring[address] = ring[address] & ~(mask << place * bits) | word << place * bits
                    place += 1
                if end_pixel and not end:
                    length = (address - begin) % 8 * part + place
                    address, place, first = begin, part, part
                    continue
                if end:
                    first = 0
                if end:
                    address, place = (address + 1) % 8, first
                    begin = address
                    # Read back from the cycle after ``arrived`` on: the word just closed, then any.
                    ctx.set(dut.valid, 0)
                    for _ in range(3):
                        await cycle(ctx)
                    for read in (written, rng.randrange(8)):
                        ctx.set(dut.r_addr, read)
                        for _ in range(PatchBuffer.latency):
                            await cycle(ctx)
                        if ctx.get(dut.r_data) != ring[read]:
                            wrong.append((program, read))

    simulate(dut, bench)
    assert PatchBuffer.latency == 6
    assert not wrong and arrivals == [False, False, False, *closed[:-3]]
