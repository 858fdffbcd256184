"""Schedule: job words say what the rows are, and nothing more than they have room for; cycles are the engines' own."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.lib import data
from test_layout import dimensions
from test_order import block
from test_stages import classifier, combined, convolution, depthwise, int8, network

import boards
from gen.builders import mobilenet_v2
from gen.errors import GenError
from gen.layout import Patches, patches_of, place
from gen.order import Row, kept_rows, order_of
from gen.passes import lower
from gen.plan import plan
from gen.schedule import Addresses, array_program, cycles_of, limits, window_jobs, window_program
from gen.source import resolve
from gen.stages import results_of, stages_of
from gen.table import Layer
from hw.array import MacArray
from hw.config import ArrayShape
from hw.core import Core
from hw.depthwise import DepthwiseEngine
from hw.gather import Gather
from hw.jobs import JobKind, WindowMode, array_job, layer_job, row_job, window_job_bits
from hw.program import Sequencer
from hw.window import WindowGenerator

SIM = boards.get("sim")
CONFIG = dimensions(4, 2, feature_depth=64, coefficient_depth=64, weight_depth=64, patch_depth=64)
ONE = Addresses(0, 0, 0, 0, 0)


def example():
    """A narrow convolution, a depthwise and a pointwise layer in one, a classifier."""
    first = convolution("a", "x", (4, 5, 6), channels_in=2, kernel=(3, 2), stride=(2, 1), padding=(1, 0, 1, 0))
    second = depthwise("b", "a", (3, 3, 6), kernel=(4, 3), stride=(1, 2), padding=(1, 1, 1, 1))
    third = convolution("c", "b", (3, 3, 9), channels_in=6)
    stages = stages_of(network((8, 5, 2), first, second, third, classifier("d", "c", 81, 5)))
    order = order_of(stages, {})
    places, _ = place(stages, CONFIG, order, {}, {"d"})
    addresses = [ONE, replace(ONE, weights=6, scales=2), Addresses(4, 2, 9, 5, 0)]
    return stages, order, places, addresses


def decoded(layout, word, config=CONFIG):
    assert word < 1 << window_job_bits(config)
    return data.Const(layout, word & (1 << layout.size) - 1)


#: The last row of the source that each row of the example reads, by hand; or None for the input.
EXAMPLE_READS = {"a": [None] * 4, "b + c": [2, 3, 3], "d": [2]}


def test_window_program():
    stages, order, places, addresses = example()
    words = window_program(stages, order, places, addresses, CONFIG)
    assert words == window_program(stages, order, places, addresses, CONFIG)
    kinds = [decoded(row_job(CONFIG), word).kind for word in words]
    per_stage = [JobKind.LAYER, *[JobKind.ROW] * 4], [JobKind.LAYER, *[JobKind.ROW] * 3], [JobKind.LAYER, JobKind.ROW]
    assert kinds == [*sum(per_stage, []), JobKind.END]
    assert window_jobs(stages, order, CONFIG, CONFIG.patch_depth) == len(words)
    position, before = 0, {"a": 0, "c": 4}
    for stage, address in zip(stages, addresses, strict=True):
        layer, patches, at = (
            decoded(layer_job(CONFIG), words[position]),
            patches_of(stage, CONFIG),
            places[stage.source],
        )
        height, width, channels = stage.source_shape
        narrow = patches.mode == WindowMode.NARROW
        assert (layer.mode, layer.beats + 1, layer.groups + 1) == (patches.mode, patches.beats, patches.groups)
        assert (layer.tiles_y + 1, layer.tiles_x + 1, layer.patch_words) == (*patches.tiles, patches.words)
        assert (layer.height, layer.width, layer.channels) == (height, width, channels - 1 if narrow else 0)
        assert (layer.pixels + 1, layer.stride + 1, layer.x) == (
            stage.output_shape[1],
            stage.stride[1],
            -stage.padding[2],
        )
        assert (layer.column_residue, layer.pad) == (-stage.padding[2] % 3, stage.pad)
        assert (layer.step, layer.whole) == (3, narrow)
        assert (layer.column_pitch, layer.row_pitch) == (at.column_pitch, at.row_pitch)
        assert layer.column_base == -stage.padding[2] // 3 * at.column_pitch % (1 << CONFIG.address_bits)
        assert (layer.coefficients, layer.scales) == (address.coefficients, address.depthwise_scales)
        scaling = stage.window_scaling
        expected = (scaling.zero_point, *scaling.clamp) if scaling else (0, 0, 0)
        assert (layer.bounds.zero_point, layer.bounds.lo, layer.bounds.hi) == expected
        for number in range(stage.output_shape[0]):
            row = decoded(row_job(CONFIG), words[position + 1 + number])
            top = number * stage.stride[0] - stage.padding[0]
            assert (row.y, row.row_residue) == (top, top % 3)
            last = EXAMPLE_READS[stage.name][number]
            assert row.written == (0 if last is None else before[stage.source] + last + 1)
            for n, y in enumerate(range(top, top + 3)):
                if 0 <= y < height:
                    assert row.row_base[y % 3] == at.row_address(y)
                    assert row.high_half >> n & 1 == at.in_high_half(y)
        position += 1 + stage.output_shape[0]


def test_array_program():
    stages, order, places, addresses = example()
    words = array_program(stages, order, places, addresses, CONFIG)
    assert words == array_program(stages, order, places, addresses, CONFIG)
    rows_made = [
        (stage, address, y)
        for stage, address in zip(stages, addresses, strict=True)
        for y in range(stage.output_shape[0])
    ]
    assert len(words) == len(rows_made) == 8
    for word, (stage, address, y) in zip(words, rows_made, strict=True):
        assert word < 1 << array_job(CONFIG).size
        job, at = data.Const(array_job(CONFIG), word), places[stage.output]
        assert job.pixels + 1 == stage.output_shape[1]
        assert job.words + 1 == job.freed + 1 == patches_of(stage, CONFIG).words
        assert job.groups + 1 == -(-stage.output_shape[2] // 4)
        assert (job.weights, job.scales) == (address.weights, address.scales)
        assert (job.address, job.column_pitch, job.row_residue) == (at.row_address(y), at.column_pitch, y % 3)
        assert (job.column_residue, job.last) == (0, word is words[-1])
        assert (job.bounds.zero_point, job.bounds.lo, job.bounds.hi) == (stage.scaling.zero_point, *stage.scaling.clamp)


class Walk:
    """Both programs of a plan, carried out word by word as ``hw.jobs`` and the engines' docstrings say.

    Banks hold tags: (tensor, row, column, group), and how many rows had been written with them. What is read, and
    what is written where, is compared with the layers' own geometry.
    """

    def __init__(self, planned):
        self.plan, self.config = planned, planned.config
        self.mask = (1 << self.config.address_bits) - 1
        self.banks = [{} for _ in range(9)]
        for name in {stage.source for stage in planned.stages} | {stage.residual for stage in planned.stages} - {None}:
            if all(stage.output != name for stage in planned.stages):
                self.fill(name)

    def fill(self, name):
        """The host's tensor, by the layout's documented formula."""
        at = self.plan.places[name]
        for y, x, g in np.ndindex(at.shape[0], at.shape[1], at.groups):
            address = at.base + y % at.rows // 3 * at.row_pitch + x // 3 * at.column_pitch + g
            tag = (name, y, x, g)
            both = self.banks[y % 3 * 3 + x % 3].setdefault(address, {})
            both |= {y >= at.rows: (tag, 0)} if at.halves == 2 else {False: (tag, 0), True: (tag, 0)}

    def run(self):
        """Carry out both programs; counts of rows by mode."""
        contents = self.plan.contents
        assert len(contents["window_program"]) == self.config.window_program_depth
        layouts = layer_job(self.config), row_job(self.config)
        window = iter(contents["window_program"])
        layer, seen = None, dict.fromkeys(WindowMode, 0)
        order = iter(self.plan.order)
        array = iter(contents["array_program"])
        expected, made = next(order, None), 0
        to_add = iter([row for row in self.plan.order if self.plan.stages[row.stage].residual is not None])
        for word in window:
            row = decoded(layouts[1], word, self.config)
            if row.kind == JobKind.END:
                break
            if row.kind == JobKind.LAYER:
                layer = decoded(layouts[0], word, self.config)
                continue
            assert row.kind == JobKind.ROW and layer is not None
            mode = WindowMode(layer.mode)
            seen[mode] += 1
            stage = self.plan.stages[expected.stage]
            if mode == WindowMode.RESIDUAL:
                # Of this row or, where several are read together, of one behind it.
                at, y = next(to_add)
                assert at == expected.stage
                self.read_residual(layer, row, stage, y, made)
                continue
            self.read_windows(layer, row, stage, expected.y, made)
            made += 1
            self.write(data.Const(array_job(self.config), next(array)), stage, *expected, made, layer)
            expected = next(order, None)
        assert (next(window, None), expected, next(array, None)) == (None, None, None)
        return seen

    def at(self, layer, row, x, position, group):
        """Tags of a position of the window at pixel ``x`` of a row: the bank's word, by the job's addresses."""
        (down, a), (across, b) = divmod(position[0], 3), divmod(position[1], layer.step or 3)
        column = layer.column_residue + x * (layer.stride + 1) + across * layer.step
        base = layer.column_base + column // 3 * layer.column_pitch + layer.column_pitch * (column % 3 + b >= 3)
        bank_row, bank_column = (row.row_residue + a) % 3, (column + b) % 3
        address = row.row_base[bank_row] + down * layer.row_pitch + base + group & self.mask
        word = self.banks[3 * bank_row + bank_column].get(address, {})
        return word.get(bool(row.high_half >> a & 1))

    def inside(self, layer, row, x, position):
        y, left = row.y + position[0], layer.x + x * (layer.stride + 1)
        left += position[1] if layer.step else 0
        return 0 <= y < layer.height and 0 <= left < layer.width

    def read_residual(self, layer, row, stage, y, made):
        assert (layer.tiles_x, layer.tiles_y, layer.beats, layer.stride, layer.whole) == (0, 0, 0, 0, 0)
        groups = -(-stage.output_shape[2] // self.config.lanes)
        assert (layer.groups + 1, layer.patch_words) == (groups, groups)
        latest = 0
        for n, x in self.columns(layer, stage):
            for group in range(groups):
                assert self.inside(layer, row, n, (0, 0))
                tag, when = self.at(layer, row, n, (0, 0), group)
                assert tag == (stage.residual, y, x, group)
                latest = max(latest, when)
        assert row.written == latest <= made

    def columns(self, layer, stage):
        columns = list(range(stage.region.left, stage.region.right))
        assert layer.pixels + 1 == len(columns)
        return enumerate(columns)

    def read_windows(self, layer, row, stage, y, made):
        patches = patches_of(stage, self.config)
        assert (layer.mode, layer.tiles_y + 1, layer.tiles_x + 1) == (patches.mode, *patches.tiles)
        parts = self.config.lanes // self.config.depthwise_lanes if stage.front is not None else 1
        assert (layer.beats + 1, layer.groups + 1, layer.patch_words) == (
            patches.beats, patches.groups * parts, patches.words,
        )  # fmt: skip
        assert (layer.pad, layer.step, bool(layer.whole)) == (stage.pad, patches.step, patches.whole)
        taps = [layer.taps] * layer.beats + [layer.last_taps]
        assert layer.whole or sum(taps) == (9 if layer.mode == WindowMode.WIDE and stage.kernel != (1, 1) else 1)
        assert max(taps) <= max(1, self.config.words // patches.pixels)
        assert self.config.pixels == 1 or layer.paired == (patches.pixels == 2)
        assert (layer.step == 0) == (stage.repeats > 1)
        if self.config.max_pool:
            assert bool(layer.maximum) == stage.maximum
        latest = 0
        height, width, _ = stage.source_shape
        for n, x in self.columns(layer, stage):
            for a, b in np.ndindex(*stage.kernel):
                at = y * stage.stride[0] - stage.padding[0] + a, x * stage.stride[1] - stage.padding[2] + b
                exists = 0 <= at[0] < height and 0 <= at[1] < width
                assert self.inside(layer, row, n, (a, b)) == exists
                for group in range(patches.groups) if exists else ():
                    tag, when = self.at(layer, row, n, (a, b), group)
                    assert tag == (stage.source, *at, group), (stage.name, y, x)
                    latest = max(latest, when)
        assert row.written == latest <= made

    def write(self, job, stage, number, y, made, layer):
        groups = -(-stage.output_shape[2] // self.config.lanes)
        patches, address = patches_of(stage, self.config), self.plan.addresses[number]
        width = stage.region.right - stage.region.left
        assert (job.pixels + 1, job.groups + 1) == (-(-width // patches.pixels), groups)
        if self.config.pixels > 1:
            assert (job.paired, job.odd) == (patches.pixels == 2, width % patches.pixels)
        adds = stage.residual is not None
        assert job.words + 1 == max(patches.words, self.config.residual_beats if adds else 1)
        assert job.freed + 1 == patches.words + (groups if adds else 0) <= self.config.patch_depth
        if self.config.residual_lanes:
            assert job.words - job.idle + 1 == patches.words
            assert (job.residual > 0, job.residual) == (adds, address.residual)
        assert (job.weights, job.scales) == (address.weights, address.scales)
        assert job.row_residue == y % 3
        assert job.last == (made == len(self.plan.order))
        for n in range(width):
            x, column = stage.region.left + n, job.column_residue + n
            assert column % 3 == x % 3
            for group in range(groups):
                at = job.address + column // 3 * job.column_pitch + group & self.mask
                tag = (stage.output, y, x, group), made
                self.banks[3 * job.row_residue + column % 3][at] = {False: tag, True: tag}

    def assert_results(self):
        for name in results_of(self.plan.table):
            at = self.plan.places[name]
            for y, x, g in np.ndindex(at.shape[0], at.shape[1], at.groups):
                address = at.base + y % at.rows // 3 * at.row_pitch + x // 3 * at.column_pitch + g
                assert self.banks[y % 3 * 3 + x % 3][address][False][0] == (name, y, x, g)


def block_chain():
    """Two residual blocks, the first of stride 2, behind a narrow convolution of an input in halves."""
    first = convolution("c", "x", (18, 15, 4), channels_in=2, kernel=(3, 3), padding=(1, 1, 1, 1))
    layers, name, shape = [first], "c", (18, 15)
    for n in range(3):
        step = 2 if n == 0 else 1
        made = tuple(-(-size // step) for size in shape)
        sides = (0, 1, 1, 1) if n == 0 else (1, 1, 1, 1)
        layers += [
            convolution(f"e{n}", name, (*shape, 16), channels_in=4),
            depthwise(f"d{n}", f"e{n}", (*made, 16), stride=(step, step), padding=sides),
            convolution(f"p{n}", f"d{n}", (*made, 4), channels_in=16),
        ]
        name = f"p{n}"
        if n:
            layers.append(combined(f"s{n}", f"p{n}", layers[-4].name, (*made, 4), operator=("add", "sub")[n - 1]))
            name = f"s{n}"
        shape = made
    return network((18, 15, 2), *layers, classifier("f", name, 4 * shape[0] * shape[1], 3))


def pools():
    """Regions, windows that repeat, maxima, sums over parts of a tensor."""
    pool = Layer("a", "average_pool2d", ("x",), int8(7, 8, 5), kernel=(3, 3), padding=(1, 1, 1, 1))
    greatest = Layer("g", "max_pool2d", ("x",), int8(7, 8, 5), kernel=(2, 3), padding=(1, 0, 1, 1))
    finer = replace(int8().quantization, scale=0.31 * int8().quantization.scale)
    term = Layer(
        "m", "add", ("g",), replace(int8(7, 8, 5), quantization=finer), constant=np.array(77, np.int8),
        constant_quantization=replace(finer, scale=0.07, zero_point=-50),
    )  # fmt: skip
    table = network((7, 8, 5), pool, greatest, term, combined("s", "a", "m", (7, 8, 5)))
    assert {stage.repeats for stage in stages_of(table)} == {1, 2}
    return table


def convolutions():
    """Narrow windows one, two and three columns apart; wide ones, odd and even in number."""
    return network(
        (13, 9, 1),
        convolution("c", "x", (7, 5, 48), channels_in=1, kernel=(10, 4), stride=(2, 2), padding=(5, 4, 2, 2)),
        convolution("d", "c", (7, 5, 9), channels_in=48, kernel=(3, 3), padding=(1, 1, 1, 1)),
        convolution("e", "d", (7, 5, 2), channels_in=9, kernel=(3, 3), padding=(1, 1, 1, 1)),
        convolution("f", "e", (4, 5, 33), channels_in=2, kernel=(5, 5), stride=(2, 1), padding=(2, 2, 2, 2)),
    )


def taps_together():
    """A window of two channel groups, of which taps go two at a time: 18 feature words."""
    shape = 9, 8, 20
    return network((9, 8, 9), convolution("c", "x", shape, channels_in=9, kernel=(3, 3), padding=(1, 1, 1, 1)))


@pytest.mark.parametrize(
    "table, array, rings",
    [
        (block_chain(), (4, 2), 3), (block_chain(), (8, 4), 3), (block_chain(), (3, 3), 3), (block(13), (2, 2), 1),
        (block(13, stride=2), (5, 5), 1), (pools(), (4, 2), 0), (pools(), (3, 3), 0), (pools(), (2, 1), 0),
        (convolutions(), (8, 4), 0), (convolutions(), (16, 8), 0), (convolutions(), (18, 6), 0),
        (convolutions(), (24, 6), 0), (block(13, stride=2), (8, 4), 1), (block_chain(), (16, 4), 3),
        (lower(mobilenet_v2(0.35, 32, classes=4, seed=None)), (16, 8), 2),
    ],
)  # fmt: skip
def test_programs_carried_out(table, array, rings, every_ring):
    """Every word that the programs read is the one that it should be, and had been waited for; and so is the result."""
    planned = plan(table, SIM, array=array)
    assert sum(where.kept is not None for where in planned.places.values()) >= rings
    walk = Walk(planned)
    seen = walk.run()
    walk.assert_results()
    assert seen[WindowMode.RESIDUAL] == sum(
        len(stage.region.rows) for stage in planned.stages if stage.residual is not None
    )
    assert sum(seen.values()) - seen[WindowMode.RESIDUAL] == len(planned.order)


def test_a_wrong_program_is_found():
    """The walk itself: with one word of a program changed it fails."""
    planned = plan(block_chain(), SIM, array=(4, 2))
    layout, words = row_job(planned.config), planned.contents["window_program"]
    changed = 0
    for number, word in enumerate(words):
        row = data.Const(layout, word & (1 << layout.size) - 1)
        if row.kind == JobKind.ROW and row.written:
            planned.contents["window_program"] = [*words[:number], word - (1 << 2), *words[number + 1 :]]
            with pytest.raises(AssertionError):
                Walk(planned).run()
            changed += 1
        if changed == 5:
            break
    assert changed == 5


def test_the_programs_of_a_block():
    """By hand: a layer's word wherever the layer changes, and, in front of each row, two for what is added."""
    stages = stages_of(block(9))
    kept = kept_rows(stages, {"s"})
    order = order_of(stages, kept)
    shape = ArrayShape(lanes=4, words=1, residual_lanes=1)
    places, depth = place(stages, shape, order, kept, {"s"})
    config = dimensions(
        4, feature_depth=depth, patch_depth=64, residual_lanes=1, residual_scale_depth=2, weight_depth=64
    )
    addresses = [ONE, Addresses(0, 0, 3, 3, 1)]
    words = window_program(stages, order, places, addresses, config)
    kinds = "".join("ELR"[decoded(row_job(config), word, config).kind.value] for word in words)
    # Five rows of e, then one of the block and one of e by turns, at last five of the block alone; of these, so many
    # are read together as 64 words have room for: 12 to add for each, and twice the three of a patch.
    assert (
        kinds == "LRRRRR" + "LRLR" + "LR" + "LRLR" + "LR" + "LRLR" + "LR" + "LRLR" + "LR" + "LRRRR" * 2 + "LRLR" + "E"
    )
    assert window_jobs(stages, order, config, 64) == len(words)
    residual = decoded(layer_job(config), words[6], config)
    assert (residual.mode, residual.groups, residual.pixels) == (WindowMode.RESIDUAL, 0, 11)
    assert (residual.width, residual.height, residual.x, residual.patch_words) == (12, 9, 0, 1)
    jobs = [data.Const(array_job(config), word) for word in array_program(stages, order, places, addresses, config)]
    assert [Row(int(job.residual > 0), 0).stage for job in jobs] == [at for at, _ in order]
    # 12 channels are three words, which is fewer than the adder's four cycles: a fourth is idle.
    assert [(job.words, job.idle, job.freed, job.residual) for job in jobs] == [
        (3, 1, 3, 1) if at else (0, 0, 0, 0) for at, _ in order
    ]  # fmt: skip
    assert [job.address - places["e"].base for job, (at, _) in zip(jobs, order, strict=True) if not at] == [
        0, 0, 0, 12, 12, 12, 0, 0, 0
    ]  # fmt: skip


def test_patches():
    def of(stage, lanes, words):
        return patches_of(stage, ArrayShape(lanes=lanes, words=words))

    narrow, middle, last = example()[0]
    assert of(narrow, 4, 2) == Patches(WindowMode.NARROW, (1, 1), 3, 3, True, 1, 3, 1)
    assert of(narrow, 4, 2).cycles == of(narrow, 4, 2).sum_words == 3
    assert of(narrow, 1, 2).mode == WindowMode.WIDE  # two channels are more than a lane
    assert of(middle, 4, 2) == Patches(WindowMode.DEPTHWISE, (2, 1), 3, 1, False, 2, 1, 1)
    assert of(middle, 4, 2).cycles == 4
    assert of(last, 4, 2) == Patches(WindowMode.WIDE, (1, 1), 3, 5, False, 3, 14, 1, window_taps=9, taps=2)
    assert [of(last, 4, words).cycles for words in (1, 2, 3, 4, 5, 6)] == [27, 15, 9, 9, 6, 6]
    assert [of(last, 4, words).words for words in (1, 2, 3, 4, 5, 6)] == [27, 14, 9, 7, 6, 5]


@pytest.mark.parametrize(
    "kernel, channels, outputs, array, expected",
    [
        # Two columns in a feature word, or one; as many words as the tiles share.
        ((10, 4), 1, 64, (8, 2), ((4, 2), 2, 1, False, 4)), ((10, 4), 1, 64, (8, 4), ((4, 2), 2, 1, False, 2)),
        ((5, 5), 2, 64, (8, 2), ((2, 5), 1, 1, False, 5)), ((5, 5), 1, 64, (16, 1), ((2, 2), 3, 1, True, 4)),
        ((5, 5), 1, 64, (16, 2), ((2, 2), 3, 1, False, 2)), ((5, 5), 4, 64, (16, 2), ((2, 5), 1, 1, False, 5)),
        # Too many channels for a column in a word.
        ((5, 5), 3, 64, (8, 2), ((2, 2), 3, 2, True, 8)),
        # The windows would take more than half as long as the sums; or are more than a job counts.
        ((9, 8), 1, 7, (3, 4), ((3, 3), 3, 1, True, 9)), ((3, 8), 1, 28, (4, 4), ((1, 3), 3, 1, True, 3)),
        ((3, 8), 1, 32, (4, 4), ((1, 8), 1, 1, False, 2)),
        ((10, 8), 1, 8, (8, 2), ((4, 3), 3, 1, True, 12)), ((3, 3), 1, 64, (8, 2), ((1, 1), 3, 1, True, 1)),
        ((4, 20), 2, 64, (8, 2), ((2, 7), 3, 2, True, 28)), ((4, 16), 2, 64, (8, 2), ((2, 16), 1, 1, False, 16)),
    ],
)  # fmt: skip
def test_narrow_patches(kernel, channels, outputs, array, expected):
    """Columns that share a feature word where that saves cycles."""
    size = tuple(side + 3 for side in kernel)
    (stage,) = stages_of(
        network((*size, channels), convolution("c", "x", (4, 4, outputs), channels_in=channels, kernel=kernel))
    )
    patches = patches_of(stage, ArrayShape(lanes=array[0], words=array[1]))
    assert (patches.tiles, patches.step, patches.beats, patches.whole, patches.words) == expected


@pytest.mark.parametrize(
    "channels, array, expected",
    [
        # Nine words of three channels are half of a patch word of 18: two pixels in one, where packed each has its own.
        (3, (4, 18), (WindowMode.WIDE, 2, 1)), (1, (2, 18), (WindowMode.WIDE, 2, 1)),
        # Half a patch word has no room for nine; where nothing is shared, nothing is gained.
        (3, (4, 16), (WindowMode.NARROW, 1, 1)), (3, (8, 4), (WindowMode.NARROW, 1, 1)),
    ],
)  # fmt: skip
def test_few_channels_are_read_like_many_where_pixels_then_share_patches(channels, array, expected):
    (stage,) = stages_of(
        network((8, 8, channels), convolution("c", "x", (6, 6, 16), channels_in=channels, kernel=(3, 3)))
    )
    patches = patches_of(stage, ArrayShape(lanes=array[0], words=array[1], pixels=2))
    assert (patches.mode, patches.pixels, patches.words) == expected
    alone = patches_of(stage, ArrayShape(lanes=array[0], words=array[1]))
    assert (alone.mode, alone.pixels, alone.words) == (WindowMode.NARROW, 1, 1)


class Clockwork:
    """Both engines register by register, a cycle at a time, fed with a plan's own programs."""

    def __init__(self, planned):
        config = self.config = planned.config
        self.windows = list(planned.contents["window_program"])
        self.rows = [data.Const(array_job(config), word) for word in planned.contents["array_program"]]
        self.arrivals, self.returns, self.written = {}, {}, {}
        # Window generator: the job in its register, whether it is due, the row at hand, the room for patches.
        self.pending, self.due, self.layer, self.pixels, self.left, self.second = None, False, None, 0, 0, False
        self.room, self.taken_back, self.rows_written, self.since = config.patch_depth, 0, 0, 0
        # Array: the job at hand, patches that wait.
        self.job, self.waiting, self.pixels_left, self.words_left = None, 0, 0, 0
        self.issues = 0  # cycles in which it sums

    def run(self, most=200_000):
        """Cycles from the host's start to the last word's end."""
        window_offered = array_offered = Core.start_cycles + Sequencer.period
        for cycle in range(Core.start_cycles, most):
            offered = self.windows and cycle >= window_offered
            if self.window(cycle, self.windows[0] if offered else None):
                del self.windows[0]
                window_offered = cycle + Sequencer.period
            if self.array(cycle, bool(self.rows) and cycle >= array_offered):
                array_offered = cycle + Sequencer.period
            if not self.rows and self.job is None:
                return cycle + MacArray.latency(self.config) + 2
        raise AssertionError("it hangs")

    def window(self, cycle, offered):
        """One cycle of the window generator; whether it moves the job that is ``offered`` into its register."""
        pending, due, running, drained = self.pending, self.due, self.pixels > 0, self.since == 0
        self.rows_written += self.written.pop(cycle, 0)
        room = self.room
        self.room += self.returns.pop(cycle, 0)
        moves = pending is None and offered is not None
        if moves:
            self.pending = offered
        # Whether the job may be taken in the next cycle.
        self.due = False
        if pending is not None:
            row = decoded(row_job(self.config), pending, self.config)
            if row.kind == JobKind.LAYER:
                self.due = drained and not running
            elif row.kind == JobKind.ROW:
                self.due = self.rows_written >= row.written
        self.since = max(self.since - 1, 0)
        if due and not running:
            self.pending, self.due = None, False
            if row.kind == JobKind.LAYER:
                self.layer = decoded(layer_job(self.config), pending, self.config)
            else:
                self.pixels, self.left, self.second = self.layer.pixels + 1, 0, False
        elif running and (self.left or self.second or room >= self.layer.patch_words):
            layer = self.layer
            if not self.left:
                self.room -= 0 if self.second else layer.patch_words
                self.left = (layer.beats + 1) * (layer.groups + 1) * (layer.tiles_x + 1) * (layer.tiles_y + 1)
            self.left -= 1
            self.since = Core.drain_cycles(self.config)
            if not self.left:
                self.pixels -= 1
                self.second = self.config.pixels > 1 and bool(layer.paired) and not self.second and self.pixels > 0
                if self.second:
                    return moves
                if layer.mode != WindowMode.RESIDUAL:
                    depthwise = layer.mode == WindowMode.DEPTHWISE
                    way = DepthwiseEngine.latency(self.config) if depthwise else Gather.latency
                    # One register in front of the patch buffer, three within, two in the array.
                    self.arrivals[cycle + WindowGenerator.latency + way + 6] = 1
        return moves

    def array(self, cycle, offered):
        """One cycle of the array; whether it takes its next job."""
        self.waiting += self.arrivals.pop(cycle, 0)
        if self.job is None:
            if offered:
                self.job = self.rows.pop(0)
                self.pixels_left, self.words_left = self.job.pixels + 1, 0
            return offered
        if self.words_left or self.waiting:
            if not self.words_left:
                self.waiting -= 1
                self.words_left = (self.job.words + 1) * (self.job.groups + 1)
            self.words_left -= 1
            self.issues += 1
            if not self.words_left:
                self.returns[cycle + 2] = self.job.freed + 1
                self.pixels_left -= 1
                if not self.pixels_left:
                    self.job, self.written[cycle + MacArray.latency(self.config) + 1] = None, 1
        return False


@pytest.mark.parametrize(
    "table, arrays",
    [
        (block(9), ((4, 4), (2, 2), (3, 1))),
        (block(13, stride=2), ((8, 4), (5, 5))),
        (block_chain(), ((4, 2), (8, 4), (3, 3))),
        (pools(), ((4, 2), (2, 1))),
        (convolutions(), ((8, 4), (16, 8), (18, 6), (24, 6), (5, 5))),
        (lower(mobilenet_v2(0.35, 32, classes=4, seed=None)), ((16, 8),)),
        (lower(resolve(None)), ((4, 2), (6, 3))),
    ],
)
def test_cycles_are_what_the_registers_say(table, arrays):
    for array in arrays:
        planned = plan(table, SIM, array=array, pixels=1)
        clockwork = Clockwork(planned)
        assert clockwork.run() == planned.cycles
        assert sum(stage.busy + stage.waits.get("adder", 0) for stage in planned.stage_cycles) == clockwork.issues
        assert sum(stage.cycles for stage in planned.stage_cycles) == planned.cycles


@pytest.mark.parametrize(
    "table, array",
    [
        (block(9), (8, 4)), (block(13, stride=2), (8, 2)), (block(13, stride=2), (8, 4)), (block_chain(), (8, 4)),
        (block_chain(), (16, 4)), (taps_together(), (32, 8)),
        (lower(mobilenet_v2(0.35, 32, classes=4, seed=None)), (16, 8)),
    ],
)  # fmt: skip
def test_cycles_of_two_pixels_at_a_time(table, array):
    """Some stages have patches of two pixels; where rows have an odd number, the last is of one."""
    planned = plan(table, SIM, array=array, packing=True, pixels=2)
    assert 2 in [patches_of(stage, planned.config).pixels for stage in planned.stages]
    clockwork = Clockwork(planned)
    assert clockwork.run() == planned.cycles <= plan(table, SIM, array=array, packing=True, pixels=1).cycles + 10
    assert sum(stage.busy + stage.waits.get("adder", 0) for stage in planned.stage_cycles) == clockwork.issues
    assert sum(stage.cycles for stage in planned.stage_cycles) == planned.cycles


@pytest.mark.parametrize("table, array", [(block(9), (4, 4)), (block_chain(), (8, 4)), (lower(resolve(None)), (4, 2))])
def test_cycles_with_shared_multipliers(table, array):
    """Half as many columns, twice as far apart, and longer sums: only the array's latency is another."""
    packing, apart = (plan(table, SIM, array=array, packing=packing, pixels=1) for packing in (True, False))
    assert (packing.config.outputs, apart.config.outputs) == (2, 1)
    assert Clockwork(packing).run() == packing.cycles
    # Behind the multipliers, sums take log2(K / 2) + 3 cycles instead of log2(K); the last column is a cycle closer.
    assert MacArray.latency(packing.config) - MacArray.latency(apart.config) == 2 - 1


def test_cycles_with_little_room():
    """Rows of residual words and patches compete for the same room: 12 words a row, three a patch."""
    planned = plan(block(9), SIM, array=(4, 4))
    counted = []
    for depth in (16, 32, 512):
        config = replace(planned.config, patch_depth=depth)
        counted.append(cycles_of(planned.stages, planned.order, config)[0])
        assert Clockwork(replace(planned, config=config)).run() == counted[-1]
    assert counted[0] > counted[1] >= counted[2]


def test_cycles_count_every_stage():
    stages, order, _, _ = example()
    cycles, report = cycles_of(stages, order, CONFIG)
    assert [stage.name for stage in report] == ["a", "b + c", "d"]
    assert [stage.busy for stage in report] == [4 * 5 * 3 * 2, 3 * 3 * 1 * 3, 14 * 2]
    ends = 0
    for stage in report:
        assert ends < stage.begin <= stage.end - stage.busy // len(stages)
        ends = stage.end
    assert cycles > ends
    assert cycles_of(stages[:1], order[:4], CONFIG)[0] < cycles


def test_cycles_of_a_ring_count_both_stages():
    """Each stage's rows are summed, wherever they come; sums that wait for the adder count what they wait."""
    stages = stages_of(block(9))
    order = order_of(stages, {"e": 6})
    config = dimensions(4, patch_depth=64, residual_lanes=1)
    _, (expand, project) = cycles_of(stages, order, config)
    assert (expand.busy, project.busy) == (9 * 12 * 3, 9 * 12 * 3)
    assert (expand.waits.get("adder"), project.waits["adder"]) == (None, 9 * 12)
    assert expand.begin < project.begin < expand.end < project.end


def test_little_room_for_patches_costs_cycles():
    """The window generator runs ahead of the array as far as the patch buffer lets it."""
    layer = convolution("c", "x", (3, 3, 5), channels_in=9, kernel=(3, 3))
    stages = stages_of(network((5, 5, 9), layer))
    order = order_of(stages, {})
    few, many = (cycles_of(stages, order, replace(CONFIG, patch_depth=depth))[0] for depth in (16, 1024))
    assert few > many


def test_no_room_for_a_row_of_residual_words():
    """Twelve words to add and three of the first patch: with 16 it goes, with 8 nobody would ever give any back."""
    stages = stages_of(block(9))
    order = order_of(stages, {"e": 6})
    config = dimensions(4, patch_depth=16, residual_lanes=1)
    assert cycles_of(stages, order, config)[0] > cycles_of(stages, order, replace(config, patch_depth=64))[0]
    with pytest.raises(GenError) as caught:
        cycles_of(stages, order, replace(config, patch_depth=8))
    assert str(caught.value) == ("the patch buffer is too small for a row's residual words: the schedule would stall")


def test_the_plan_makes_room_for_a_row_of_residual_words():
    layer = convolution("c", "x", (2, 600, 3), channels_in=3)
    planned = plan(network((2, 600, 3), layer, combined("s", "c", "x", (2, 600, 3))), SIM, array=(1, 1))
    # 600 pixels of three words, and twice the three that a patch has.
    assert planned.config.patch_depth == 2048


def test_limits():
    stages, _, _, _ = example()
    assert limits(stages, CONFIG) == []
    deep = replace(CONFIG, weight_depths=(65537,) * 4, feature_depth=65536)
    assert limits(stages, deep) == [
        f"weights_{n}: needs 65537 words, more than the 65536 that the fill bus addresses" for n in range(4)
    ]
    (wide,) = stages_of(network((1, 1, 513), convolution("c", "x", (1, 1, 1), channels_in=513)))
    (tall,) = stages_of(network((1, 1, 1), convolution("c", "x", (1, 1, 513), channels_in=1)))
    assert limits([wide, tall], dimensions(2, 2, patch_depth=512)) == []
    assert limits([wide], dimensions(1, 4, patch_depth=512)) == [
        "c: input channel groups: 513, more than the 512 that a job counts"
    ]
    # A sum is at most half the patch buffer.
    assert limits([wide], dimensions(1, 1, patch_depth=512)) == [
        "c: input channel groups: 513, more than the 512 that a job counts",
        "c: patch words of a pixel: 513, more than the 256 that a job counts",
    ]
    assert limits([tall], dimensions(1, 1, patch_depth=64)) == [
        "c: output channel groups: 513, more than the 512 that a job counts"
    ]
