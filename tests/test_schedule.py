"""Schedule: job words say what the layers are, and nothing more than they have room for."""

from dataclasses import replace

import pytest
from amaranth.lib import data
from test_layout import dimensions
from test_stages import classifier, convolution, depthwise, network

from gen.layout import Patches, patches_of, place
from gen.schedule import Addresses, array_program, cycles_of, limits, rows_needed, window_program
from gen.stages import stages_of
from hw.jobs import JobKind, WindowMode, array_job, layer_job, row_job, window_job_bits

CONFIG = dimensions(4, 2, feature_depth=64, coefficient_depth=64, weight_depth=64, patch_depth=64)


def example():
    """A narrow convolution, a depthwise and a pointwise layer in one, a classifier."""
    first = convolution("a", "x", (4, 5, 6), channels_in=2, kernel=(3, 2), stride=(2, 1), padding=(1, 0, 1, 0))
    second = depthwise("b", "a", (3, 3, 6), kernel=(4, 3), stride=(1, 2), padding=(1, 1, 1, 1))
    third = convolution("c", "b", (3, 3, 9), channels_in=6)
    stages = stages_of(network((8, 5, 2), first, second, third, classifier("d", "c", 81, 5)))
    places, _ = place(stages, CONFIG.lanes, {"d"})
    addresses = [Addresses(0, 0, 0, 0), Addresses(0, 0, 6, 2), Addresses(4, 2, 9, 5)]
    return stages, places, addresses


def decoded(layout, word):
    assert word < 1 << window_job_bits(CONFIG)
    return data.Const(layout, word & (1 << layout.size) - 1)


def test_window_program():
    stages, places, addresses = example()
    words = window_program(stages, places, addresses, CONFIG)
    assert words == window_program(stages, places, addresses, CONFIG)
    kinds = [decoded(row_job(CONFIG), word).kind for word in words]
    per_stage = [JobKind.LAYER, *[JobKind.ROW] * 4], [JobKind.LAYER, *[JobKind.ROW] * 3], [JobKind.LAYER, JobKind.ROW]
    assert kinds == [*sum(per_stage, []), JobKind.END]
    position, before = 0, {"x": 0, "a": 0, "c": 4}
    for stage, address in zip(stages, addresses, strict=True):
        layer, patches, at = decoded(layer_job(CONFIG), words[position]), patches_of(stage, 4, 2), places[stage.source]
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
            waits = 0 if stage.source == "x" else before[stage.source] + rows_needed(stage, number)
            assert row.written == waits
            for n, y in enumerate(range(top, top + 3)):
                if 0 <= y < height:
                    assert row.row_base[y % 3] == at.row_address(y)
                    assert row.high_half >> n & 1 == at.in_high_half(y)
        position += 1 + stage.output_shape[0]


def test_array_program():
    stages, places, addresses = example()
    words = array_program(stages, places, addresses, CONFIG)
    assert words == array_program(stages, places, addresses, CONFIG)
    rows = [
        (stage, address, y)
        for stage, address in zip(stages, addresses, strict=True)
        for y in range(stage.output_shape[0])
    ]
    assert len(words) == len(rows) == 8
    for word, (stage, address, y) in zip(words, rows, strict=True):
        assert word < 1 << array_job(CONFIG).size
        job, at = data.Const(array_job(CONFIG), word), places[stage.output]
        assert job.pixels + 1 == stage.output_shape[1]
        assert job.words + 1 == patches_of(stage, 4, 2).words
        assert job.groups + 1 == -(-stage.output_shape[2] // 4)
        assert (job.weights, job.scales) == (address.weights, address.scales)
        assert (job.address, job.column_pitch, job.row_residue) == (at.row_address(y), at.column_pitch, y % 3)
        assert job.last == (word is words[-1])
        assert (job.bounds.zero_point, job.bounds.lo, job.bounds.hi) == (stage.scaling.zero_point, *stage.scaling.clamp)


@pytest.mark.parametrize(
    "kernel, stride, padding", [(3, 2, (1, 1)), (5, 1, (2, 2)), (2, 2, (0, 0)), (1, 1, (3, 2)), (3, 1, (0, 4))]
)
def test_rows_needed(kernel, stride, padding):
    """The last row of the source that a result reads, or the nearest there is."""
    height = 7
    rows = (height + sum(padding) - kernel) // stride + 1
    layer = convolution(
        "c", "x", (rows, 3, 1), channels_in=1, kernel=(kernel, 1), stride=(stride, 1), padding=(*padding, 0, 0)
    )
    (stage,) = stages_of(network((height, 3, 1), layer))
    for y in range(rows):
        read = [row for row in range(y * stride - padding[0], y * stride - padding[0] + kernel) if 0 <= row < height]
        beyond = y * stride - padding[0] >= height
        assert rows_needed(stage, y) == (read[-1] + 1 if read else height if beyond else 1)


def test_patches():
    def of(stage, lanes, words):
        return patches_of(stage, lanes, words)

    narrow, middle, last = example()[0]
    assert of(narrow, 4, 2) == Patches(WindowMode.NARROW, (1, 1), 3, 1, 3)
    assert of(narrow, 4, 2).cycles == 3
    assert of(narrow, 1, 2).mode == WindowMode.WIDE  # two channels are more than a lane
    assert of(middle, 4, 2) == Patches(WindowMode.DEPTHWISE, (2, 1), 1, 2, 1)
    assert of(middle, 4, 2).cycles == 4
    assert of(last, 4, 2) == Patches(WindowMode.WIDE, (1, 1), 9, 3, 14)
    assert of(last, 4, 2).cycles == 27


def test_cycles_count_every_stage():
    stages, _, _ = example()
    cycles, report = cycles_of(stages, CONFIG)
    assert [stage.name for stage in report] == ["a", "b + c", "d"]
    assert [stage.busy for stage in report] == [4 * 5 * 3 * 2, 3 * 3 * 1 * 3, 14 * 2]
    ends = 0
    for stage in report:
        assert ends < stage.begin <= stage.end - stage.busy // len(stages)
        ends = stage.end
    assert cycles > ends
    assert cycles_of(stages[:1], CONFIG)[0] < cycles


def test_little_room_for_patches_costs_cycles():
    """The window generator runs ahead of the array as far as the patch buffer lets it."""
    layer = convolution("c", "x", (3, 3, 5), channels_in=9, kernel=(3, 3))
    stages = stages_of(network((5, 5, 9), layer))
    few, many = (cycles_of(stages, replace(CONFIG, patch_depth=depth))[0] for depth in (16, 1024))
    assert few > many


def test_limits():
    stages, _, _ = example()
    assert limits(stages, CONFIG) == []
    deep = replace(CONFIG, weight_depth=16385, feature_depth=16384)
    assert limits(stages, deep) == [
        f"weights_{n}: needs 16385 words, more than the 16384 that the fill bus addresses" for n in range(4)
    ]
    (wide,) = stages_of(network((1, 1, 513), convolution("c", "x", (1, 1, 1), channels_in=513)))
    (tall,) = stages_of(network((1, 1, 1), convolution("c", "x", (1, 1, 513), channels_in=1)))
    assert limits([wide, tall], replace(CONFIG, lanes=2, words=2)) == []
    assert limits([wide], replace(CONFIG, lanes=1, words=4)) == [
        "c: input channel groups: 513, more than the 512 that a job counts"
    ]
    assert limits([wide], replace(CONFIG, lanes=1, words=1)) == [
        "c: input channel groups: 513, more than the 512 that a job counts",
        "c: patch words of a pixel: 513, more than the 256 that a job counts",
    ]
    assert limits([tall], replace(CONFIG, lanes=1, words=1)) == [
        "c: output channel groups: 513, more than the 512 that a job counts"
    ]
