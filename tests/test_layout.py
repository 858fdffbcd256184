"""Layout: every tensor whole and apart from the others, every weight where its activation comes."""

from dataclasses import replace

import numpy as np
import pytest
from random_tables import CORE_KINDS, random_table
from test_order import block
from test_stages import classifier, combined, convolution, depthwise, front_of, int8, network, run_stage, windows

from gen.contents import feature_contents, memory_contents, words_to_bytes
from gen.layout import (
    Placement,
    feature_words,
    patches_of,
    place,
    scale_words,
    tensor_from_words,
    weight_words,
    window_words,
)
from gen.lifetimes import check
from gen.order import kept_rows, order_of
from gen.passes import lower
from gen.stages import results_of, sources_of, stages_of
from gen.table import Layer
from hw.config import ArrayShape, CoreConfig
from hw.jobs import WindowMode


def dimensions(lanes, words=1, weight_depth=32, **fields):
    """A core of which only these dimensions matter, with as many weights in each column."""
    others = dict.fromkeys(
        (
            "accumulator_bits", "depthwise_accumulator_bits",
            "feature_depth", "patch_depth", "scale_depth", "coefficient_depth", "depthwise_scale_depth",
            "window_program_depth", "array_program_depth",
        ),
        32,
    )  # fmt: skip
    others |= {"bias_bits": 32, "multiplier_bits": 33, "depthwise_lanes": lanes, "hard_lanes": 0, "hard_columns": ()}
    others["window_bits"] = (32,) * lanes * fields.get("pixels", 1)
    others["depthwise_window_bits"] = (32,) * fields.get("depthwise_lanes", lanes)
    others["weight_depths"] = (weight_depth,) * (lanes // fields.get("outputs", 1))
    return CoreConfig(lanes=lanes, words=words, **(others | fields))


def placed(stages, lanes, results):
    """Places of all tensors, none of them a ring, and the words a bank needs."""
    return place(stages, ArrayShape(lanes=lanes, words=1), order_of(stages, {}), {}, results)


def tensor(shape, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, shape, np.int8)


@pytest.mark.parametrize("lanes", (1, 2, 3, 4, 8))
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 40), (2, 7, 5), (3, 3, 8), (4, 1, 9), (10, 11, 16)])
def test_tensors_come_back(lanes, shape):
    config = dimensions(lanes)
    placement = Placement(7, shape, -(-shape[2] // lanes))
    x = tensor(shape)
    banks = feature_words(placement, x, config)
    assert [bank.shape for bank in banks] == [(placement.words, lanes)] * 9
    assert np.array_equal(tensor_from_words(placement, banks, config), x)
    for y, column, c in np.ndindex(*shape):
        address = placement.row_address(y) + column // 3 * placement.column_pitch + c // lanes - placement.base
        assert banks[y % 3 * 3 + column % 3][address, c % lanes] == x[y, column, c]
    assert sum(np.count_nonzero(bank) for bank in banks) == np.count_nonzero(x)
    words = feature_contents(placement, x, config)
    assert all(np.array_equal(words_to_bytes(w, lanes), bank) for w, bank in zip(words, banks, strict=True))


@pytest.mark.parametrize("height", (4, 5, 6, 7, 9, 13, 96))
def test_halves(height):
    """A narrow input's lower rows lie above its upper rows, in the same words."""
    config, placement = dimensions(8), Placement(0, (height, 5, 3), 1, halves=2)
    x = tensor((height, 5, 3))
    banks = feature_words(placement, x, config)
    assert placement.words < Placement(0, (height, 5, 3), 1).words
    assert placement.rows % 3 == 0
    for y, column, c in np.ndindex(*x.shape):
        address = placement.row_address(y) + column // 3 * placement.column_pitch
        lane = 4 * placement.in_high_half(y) + c
        assert banks[y % 3 * 3 + column % 3][address, lane] == x[y, column, c]


@pytest.mark.parametrize(
    "kernel, channels, lanes, halves",
    [
        ((3, 3), 3, 8, 2), ((2, 5), 4, 8, 2), ((3, 3), 2, 4, 2), ((3, 3), 3, 4, 1), ((3, 3), 1, 3, 1),
        ((3, 3), 5, 8, 1),
        ((1, 1), 3, 8, 1), ((4, 3), 3, 8, 1), ((5, 5), 1, 8, 1),
    ],
)  # fmt: skip
def test_only_what_short_kernels_read_packed_is_halved(kernel, channels, lanes, halves):
    # A taller kernel's lower windows would cross from one half into the other.
    size = 9, 9, channels
    layer = convolution("c", "x", (10 - kernel[0], 10 - kernel[1], 2), channels_in=channels, kernel=kernel)
    places, _ = placed(stages_of(network(size, layer)), lanes, {"c"})
    assert (places["x"].halves, places["c"].halves) == (halves, 1)


def test_tensors_that_others_read_whole_are_not_halved():
    size = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    first = convolution("a", "x", (9, 9, 2), channels_in=3, **size)
    for other in (
        depthwise("b", "x", (9, 9, 3), padding=(1, 1, 1, 1)),
        convolution("b", "x", (9, 9, 2), channels_in=3),
    ):
        places, _ = placed(stages_of(network((9, 9, 3), first, other, outputs=("a", "b"))), 8, {"a", "b"})
        assert places["x"].halves == 1
    second = convolution("b", "a", (9, 9, 2), channels_in=2, **size)
    places, _ = placed(stages_of(network((9, 9, 3), first, second)), 8, {"b"})
    assert (places["x"].halves, places["a"].halves) == (2, 1)
    # The adder takes whole words.
    total = combined("s", "a", "x", (9, 9, 3))
    first = convolution("a", "x", (9, 9, 3), channels_in=3, **size)
    stages = stages_of(network((9, 9, 3), first, total))
    assert [(stage.name, stage.residual) for stage in stages] == [("a + s", "x")]
    places, _ = placed(stages, 8, {"s"})
    assert places["x"].halves == 1


def assert_apart(stages, results, places, depth, *, order=None):
    """No two tensors share a word while both are needed: from the row that begins one to the last that reads it."""
    order = order or order_of(stages, {})
    made = dict.fromkeys(sources_of(stages), -1)
    last = {}
    for number, (at, _) in enumerate(order):
        stage = stages[at]
        made.setdefault(stage.output, number)
        for name in (stage.output, stage.source, stage.residual):
            last[name] = number
    last |= dict.fromkeys(results, len(order))
    assert set(places) == set(made)
    assert depth == max(p.base + p.words for p in places.values())
    for a in made:
        for b in made:
            live = made[a] <= last[b] and made[b] <= last[a]
            apart = (
                places[a].base + places[a].words <= places[b].base or places[b].base + places[b].words <= places[a].base
            )
            assert a == b or not live or apart, (a, b)


@pytest.mark.parametrize("seed", range(30))
def test_live_tensors_are_apart(seed):
    rng = np.random.default_rng(seed)
    kinds = (*CORE_KINDS, "residual", "max_pool2d", "depthwise_multiplier")
    table = lower(random_table(rng, kinds=kinds, layers=7, paddings=("valid",), max_size=20))
    results = results_of(table)
    stages = stages_of(table)
    if seed % 2:
        results = results | {stages[len(stages) // 2].output}
    kept = kept_rows(stages, results)
    order = order_of(stages, kept)
    places, depth = place(stages, ArrayShape(lanes=4, words=1), order, kept, results)
    assert_apart(stages, results, places, depth, order=order)
    check(stages, order, places, results)
    assert {name: places[name].rows for name in kept} == kept


def test_a_ring_has_six_rows():
    """Rows y and y + 6 share words; the tensor around it may take what it leaves."""
    stages = stages_of(block(13))
    kept = kept_rows(stages, {"s"})
    order = order_of(stages, kept)
    places, depth = place(stages, ArrayShape(lanes=4, words=1), order, kept, {"s"})
    ring = places["e"]
    assert (kept, ring.kept, ring.rows, ring.groups, ring.row_pitch) == ({"e": 6}, 6, 6, 3, 12)
    assert ring.words == 2 * 12
    for y in range(13):
        assert ring.row_address(y) == ring.base + (12 if y % 6 >= 3 else 0)
        assert not ring.in_high_half(y)
    # Five groups of three rows of input, as many of output, two of the ring.
    assert depth == 5 * 4 + 5 * 4 + 2 * 12
    assert_apart(stages, {"s"}, places, depth, order=order)


def test_what_is_added_stays_until_then():
    a, b, c = (convolution(name, source, (6, 6, 4), channels_in=4) for name, source in ("ax", "ba", "cb"))
    stages = stages_of(network((6, 6, 4), a, b, c, combined("s", "c", "a", (6, 6, 4))))
    places, depth = placed(stages, 4, {"s"})
    assert_apart(stages, {"s"}, places, depth)
    # x, then b in its place, a beside both, and s beside a and b.
    assert [places[name].base // places["x"].words for name in "xabs"] == [0, 1, 0, 2]
    assert depth == 3 * places["x"].words


def test_tensors_that_nobody_reads_still_have_a_place_of_their_own():
    same = {"channels_in": 4, "kernel": (3, 3), "padding": (1, 1, 1, 1)}
    layers = [convolution(name, source, (6, 6, 4), **same) for name, source in ("ax", "ba", "ca", "dc")]
    stages = stages_of(network((6, 6, 4), *layers))
    places, depth = placed(stages, 4, {"d"})
    assert_apart(stages, {"d"}, places, depth)


def test_freed_words_are_used_again():
    layers = [convolution(name, source, (6, 6, 4), channels_in=4) for name, source in ("ax", "ba", "cb", "dc", "ed")]
    places, depth = placed(stages_of(network((6, 6, 4), *layers)), 4, {"e"})
    assert depth == 2 * places["x"].words


def several_inputs():
    a, b = convolution("a", "x", (4, 4, 3), channels_in=3), convolution("b", "y", (4, 4, 3), channels_in=3)
    return network((), a, b, outputs=("a", "b"), inputs={"x": int8(4, 4, 3), "y": int8(4, 4, 3)})


def test_all_inputs_are_there_from_the_start():
    stages = stages_of(several_inputs())
    places, depth = placed(stages, 4, {"a", "b"})
    assert_apart(stages, {"a", "b"}, places, depth)


def patch_bytes(stage, x, array):
    """What the array reads for each pixel, in the engines' order: (rows, columns, patch words, its part of a word).

    Depthwise results, or one input word after another of each window (wide), or the windows' bytes column by column:
    all of them in patch words, or as many as a feature word holds (narrow).
    """
    patches, lanes = patches_of(stage, array), array.lanes
    part = array.array_rows // patches.pixels
    if stage.front is not None:
        shown = front_of(stage, x)[:, :, None, None]
        down, across = 1, 1
    else:
        (down, across), step = patches.tiles, patches.step
        down, across = (1, 1) if stage.kernel == (1, 1) else (3 * down, step * (across - 1) + 3)
        # What hangs over the kernel meets weights of 0, whatever it shows.
        wider = replace(stage, padding=tuple(np.add(stage.padding, (0, down, 0, across))))
        shown = windows(x, wider, (down, across))
    made = []
    size = len(stage.region.rows), len(stage.region.columns)
    for y, column in np.ndindex(*size):
        patch = bytearray()
        window = shown[y, column].astype(np.int8)
        if patches.mode == WindowMode.NARROW:
            for top, left in np.ndindex(*patches.tiles):
                piece = window[3 * top : 3 * top + 3, step * left : step * left + 3].transpose(1, 0, 2).tobytes()
                length = patches.beats * part if patches.whole else lanes
                patch += piece[:length].ljust(length, b"\x33")
        else:
            for group in np.split(padded(window, lanes), patches.groups, -1):
                for top, left in np.ndindex(-(-down // 3), -(-across // 3)):
                    patch += group[3 * top : 3 * top + 3, 3 * left : 3 * left + 3].tobytes()
        made.append(np.frombuffer(bytes(patch).ljust(patches.words * part, b"\x55"), np.int8))
    shown = np.array(made).reshape(*size, patches.words, part)
    # Whatever a longer sum reads behind its patch, its last word in fact, meets weights of 0.
    return np.concatenate([shown, *[shown[:, :, -1:]] * (patches.sum_words - patches.words)], axis=2)


def padded(window, lanes):
    """The last axis filled up to whole words with what weights of 0 meet."""
    return np.pad(window, [(0, 0)] * (window.ndim - 1) + [(0, -window.shape[-1] % lanes)], constant_values=99)


@pytest.mark.parametrize("lanes, words", [(1, 1), (2, 1), (2, 4), (3, 2), (4, 2), (8, 1), (8, 2), (8, 4), (16, 2)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 2), (5, 5), (1, 3), (4, 2), (7, 3), (10, 4)])
@pytest.mark.parametrize("channels", (1, 2, 3, 4, 5, 17))
def test_weights_meet_their_activations(lanes, words, kernel, channels):
    sides = tuple(side // 2 for k in kernel for side in (k - 1, k))
    layer = convolution("c", "x", (5, 4, 7), channels_in=channels, kernel=kernel, padding=sides)
    (stage,) = stages_of(network((5, 4, channels), layer))
    assert_products(stage, tensor((5, 4, channels)), lanes, words)


@pytest.mark.parametrize("lanes, words", [(2, 1), (4, 2), (3, 4)])
def test_weights_meet_depthwise_results_and_whole_maps(lanes, words):
    front = depthwise("d", "x", (3, 4, 9), padding=(1, 1, 1, 1))
    (stage,) = stages_of(network((3, 4, 9), front, convolution("c", "d", (3, 4, 5), channels_in=9)))
    assert_products(stage, tensor((3, 4, 9)), lanes, words)
    (stage,) = stages_of(network((3, 4, 9), classifier("fc", "x", 108, 6)))
    assert_products(stage, tensor((3, 4, 9)), lanes, words)
    (stage,) = stages_of(network((3, 4, 9), Layer("m", "mean", ("x",), int8(9))))
    assert_products(stage, tensor((3, 4, 9)), lanes, words)


@pytest.mark.parametrize("lanes, words", [(2, 2), (3, 4), (4, 4), (8, 2), (2, 6)])
@pytest.mark.parametrize("kernel, channels", [((1, 1), 3), ((1, 1), 17), ((3, 3), 5), ((3, 3), 17), ((10, 4), 1)])
def test_weights_meet_the_activations_of_two_pixels(lanes, words, kernel, channels):
    """Each half of a patch word has all weights of its pixel, in stages in which that saves words; and nothing else."""
    sides = tuple(side // 2 for k in kernel for side in (k - 1, k))
    for width in (1, 4, 5):
        layer = convolution("c", "x", (5, width, 7), channels_in=channels, kernel=kernel, padding=sides)
        (stage,) = stages_of(network((5, width, channels), layer))
        one, two = (patches_of(stage, ArrayShape(lanes=lanes, words=words, pixels=n)) for n in (1, 2))
        assert two == one if two.pixels == 1 else -(-width // 2) * two.words < width * one.words
        assert_products(stage, tensor((5, width, channels)), lanes, words, pixels=2)


def assert_products(stage, x, lanes, words, *, residual_lanes=0, pixels=1):
    """Each column's weights, times the patches as they come, give the stage's sums, group by group."""
    array = ArrayShape(lanes=lanes, words=words, residual_lanes=residual_lanes, pixels=pixels)
    columns = weight_words(stage, array).astype(np.int64)
    patches = patch_bytes(stage, x, array).astype(np.int64)
    groups = -(-stage.output_shape[2] // lanes)
    assert columns.shape == (lanes, groups * patches.shape[2], lanes * words)
    banks = columns.reshape(lanes, groups, patches.shape[2], -1, patches.shape[3])
    alone = replace(stage, sum=None, residual=None, residual_scaling=None)
    for part in range(patches_of(stage, array).pixels):
        sums = np.einsum("yxwk,ngwk->yxgn", patches, banks[..., part, :]).reshape(*patches.shape[:2], -1)
        assert not sums[..., stage.output_shape[2] :].any()
        sums = sums[..., : stage.output_shape[2]]
        made = stage.scaling.results(sums + stage.scaling.bias)
        assert np.array_equal(made, run_stage(alone, x))


@pytest.mark.parametrize(
    "lanes, words, residual_lanes, beats, needed",
    [(4, 2, 1, 4, 2), (4, 1, 2, 2, 3), (6, 1, 6, 1, 2), (8, 4, 1, 8, 1)],
)
def test_sums_that_keep_results_apart(lanes, words, residual_lanes, beats, needed):
    """A sum whose results are added takes as many words as the adder takes cycles; the others do not."""
    front = depthwise("d", "x", (3, 4, 9), padding=(1, 1, 1, 1))
    point = convolution("c", "d", (3, 4, 9), channels_in=9)
    (stage,) = stages_of(network((3, 4, 9), front, point, combined("s", "c", "x", (3, 4, 9))))
    array = ArrayShape(lanes=lanes, words=words, residual_lanes=residual_lanes)
    patches = patches_of(stage, array)
    assert (patches.words, patches.sum_words) == (needed, max(needed, beats))
    assert_products(stage, tensor((3, 4, 9)), lanes, words, residual_lanes=residual_lanes)
    (plain,) = stages_of(network((3, 4, 9), front, point))
    assert patches_of(plain, array).sum_words == needed


@pytest.mark.parametrize("lanes, words", [(1, 1), (2, 1), (4, 2)])
def test_weights_meet_pools_of_every_kind(lanes, words):
    x = tensor((5, 6, 5))
    for pool in (
        Layer("p", "max_pool2d", ("x",), int8(3, 3, 5), kernel=(2, 3), stride=(2, 2), padding=(1, 0, 1, 0)),
        Layer("p", "average_pool2d", ("x",), int8(5, 6, 5), kernel=(3, 3), padding=(1, 1, 1, 1)),
    ):
        point = convolution("c", "p", (*pool.output.shape[:2], 3), channels_in=5)
        for stage in stages_of(network((5, 6, 5), pool, point)):
            assert_products(stage, x, lanes, words)


def test_window_weights():
    (stage,) = stages_of(network((9, 9, 5), depthwise("d", "x", (5, 6, 5), kernel=(5, 4))))
    words = window_words(stage, ArrayShape(lanes=4, words=1))
    assert words.shape == (2 * 2 * 2, 4, 9)
    for row, column, c in np.ndindex(5, 4, 5):
        tile = row // 3 * 2 + column // 3
        assert words[c // 4 * 4 + tile, c % 4, row % 3 * 3 + column % 3] == stage.window_weights[row, column, c]
    assert np.count_nonzero(words) == np.count_nonzero(stage.window_weights)


@pytest.mark.parametrize("depthwise_lanes", [1, 2])
def test_window_weights_in_parts(depthwise_lanes):
    """A channel group's windows for its first channels, then for the next; likewise biases and scales."""
    (stage,) = stages_of(network((9, 9, 5), depthwise("d", "x", (5, 6, 5), kernel=(5, 4))))
    config = dimensions(4, depthwise_lanes=depthwise_lanes)
    patches, words = patches_of(stage, config), window_words(stage, config)
    assert (patches.passes, patches.cycles) == (8 // depthwise_lanes, 4 * 8 // depthwise_lanes)
    assert words.shape == (patches.cycles, depthwise_lanes, 9)
    for row, column, c in np.ndindex(5, 4, 5):
        at, lane = divmod(c, depthwise_lanes)
        word = words[4 * at + row // 3 * 2 + column // 3, lane]
        assert word[row % 3 * 3 + column % 3] == stage.window_weights[row, column, c]
    assert np.count_nonzero(words) == np.count_nonzero(stage.window_weights)
    biases = np.zeros(8, np.int64)
    biases[:5] = stage.window_scaling.bias & 0xFFFFFFFF
    assert memory_contents([stage], config)["depthwise_bias"] == [
        sum(int(bias) << 32 * n for n, bias in enumerate(part)) for part in biases.reshape(-1, depthwise_lanes)
    ]


def test_window_weights_of_windows_that_repeat():
    """As many windows a channel group, one behind the other, each with its own weight in the first position."""
    (stage,) = stages_of(network((9, 9, 5), depthwise("d", "x", (9, 9, 5), kernel=(1, 1))))
    weights = np.random.default_rng(1).integers(1, 127, (4, 1, 1, 5), np.int8)
    stage = replace(stage, repeats=4, window_weights=weights)
    array = ArrayShape(lanes=3, words=1)
    patches, words = patches_of(stage, array), window_words(stage, array)
    assert (patches.mode, patches.tiles, patches.groups, patches.cycles) == (WindowMode.DEPTHWISE, (1, 4), 2, 8)
    assert words.shape == (8, 3, 9)
    for n in range(4):
        for c in range(5):
            assert words[c // 3 * 4 + n, c % 3].tolist() == [weights[n, 0, 0, c]] + [0] * 8
    assert np.count_nonzero(words) == 20


def test_scales():
    scaling = replace(
        stages_of(network((1, 1, 1), convolution("c", "x", (1, 1, 3), channels_in=1)))[0].scaling,
        bias=np.array([5, -6, 7]),
        multiplier=np.array([2**30, 2**31 - 1, 2**30 + 1]),
        shift=np.array([2, 0, -31]),
    )
    bias, multiplier, shift = scale_words(scaling, 2)
    assert bias.tolist() == [[5, -6], [7, 0]]
    assert multiplier.tolist() == [[2**32, 2**31 - 1], [2**30 + 1, 0]]
    assert shift.tolist() == [[0, 0], [31, 0]]


def test_memory_contents():
    front = depthwise("d", "x", (3, 4, 3), padding=(1, 1, 1, 1))
    stages = stages_of(network((3, 4, 3), front, convolution("c", "d", (3, 4, 5), channels_in=3)))
    (stage,) = stages
    contents = memory_contents(stages, dimensions(2, bias_bits=12))
    assert {name: len(words) for name, words in contents.items()} == {
        "coefficients": 2, "depthwise_bias": 2, "depthwise_scale": 2,
        "weights_0": 6, "weights_1": 6, "bias_0": 3, "bias_1": 3, "scale_0": 3, "scale_1": 3,
    }  # fmt: skip
    assert contents["bias_1"] == [int(stage.scaling.bias[1]) & 0xFFF, int(stage.scaling.bias[3]) & 0xFFF, 0]
    assert contents["scale_0"][2] == int(stage.scaling.multiplier[4]) | int(-stage.scaling.shift[4]) << 33
    bias = stage.window_scaling.bias
    assert contents["depthwise_bias"] == [int(bias[0]) & 0xFFF | (int(bias[1]) & 0xFFF) << 12, int(bias[2]) & 0xFFF]
    assert contents["weights_0"][0] == int.from_bytes(stage.weights[0, 0, 0, :2].tobytes(), "little")


def test_memory_contents_of_the_residual_adder():
    """Word 0 is nobody's; each sum has the next, its fields in the order that hw.residual documents."""
    source = replace(int8(3, 4, 3).quantization, scale=0.25, zero_point=-7)
    layers, name = [], "x"
    for n in range(2):
        middle = convolution(f"c{n}", name, (3, 4, 3), channels_in=3)
        layers += [
            replace(middle, output=replace(middle.output, quantization=source)),
            combined(f"s{n}", f"c{n}", name, (3, 4, 3), operator=("add", "sub")[n], clamp=(-90, 100 + n)),
        ]
        name = f"s{n}"
    stages = stages_of(network((3, 4, 3), *layers))
    assert [stage.name for stage in stages] == ["c0 + s0", "c1 + s1"]
    config = dimensions(2, residual_lanes=1, residual_scale_depth=3)
    contents = memory_contents(stages, config)
    # 0.25 and 0.5 over 1, then 1 over 2**20; in the second sum 0.25 and 1 over 2, then 2 over 2**20.
    half, small = 1 << 30, 1 << 30 | 19 << 31
    assert contents["residual_zero_points"] == [0, 7 | (-3 & 0x1FF) << 9, 7 | 5 << 9 | 1 << 18]
    assert contents["residual_input_scales"] == [
        0, half | 1 << 31 | half << 36, half | 2 << 31 | half << 36
    ]  # fmt: skip
    assert contents["residual_output_scale"] == [0, small, 1 << 30 | 18 << 31]
    assert contents["residual_bounds"] == [0, *(0xFB | (-90 & 0xFF) << 8 | high << 16 for high in (100, 101))]
    assert not any(name.startswith("residual") for name in memory_contents(stages[:1], dimensions(2)))
