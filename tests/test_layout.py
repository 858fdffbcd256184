"""Layout: every tensor whole and apart from the others, every weight where its activation comes."""

from dataclasses import replace

import numpy as np
import pytest
from random_tables import CORE_KINDS, random_table
from test_stages import classifier, convolution, depthwise, int8, network, run_stage, windows

from gen.contents import feature_contents, memory_contents, words_to_bytes
from gen.errors import GenError
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
from gen.passes import lower
from gen.stages import results_of, sources_of, stages_of
from gen.table import Layer
from hw.config import CoreConfig
from hw.jobs import WindowMode


def dimensions(lanes, words=1, **fields):
    """A core of which only these dimensions matter."""
    others = dict.fromkeys(
        (
            "accumulator_bits", "depthwise_accumulator_bits", "window_bits", "depthwise_window_bits",
            "feature_depth", "patch_depth", "weight_depth", "scale_depth", "coefficient_depth",
            "depthwise_scale_depth", "window_program_depth", "array_program_depth",
        ),
        32,
    )  # fmt: skip
    return CoreConfig(
        lanes=lanes, words=words, **(others | {"bias_bits": 32, "multiplier_bits": 33, "hard_requantisers": 0} | fields)
    )


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
    assert placement.half_rows % 3 == 0
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
    places, _ = place(stages_of(network(size, layer)), lanes, {"c"})
    assert (places["x"].halves, places["c"].halves) == (halves, 1)


def test_tensors_that_others_read_whole_are_not_halved():
    size = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    first = convolution("a", "x", (9, 9, 2), channels_in=3, **size)
    for other in (
        depthwise("b", "x", (9, 9, 3), padding=(1, 1, 1, 1)),
        convolution("b", "x", (9, 9, 2), channels_in=3),
    ):
        places, _ = place(stages_of(network((9, 9, 3), first, other, outputs=("a", "b"))), 8, {"a", "b"})
        assert places["x"].halves == 1
    second = convolution("b", "a", (9, 9, 2), channels_in=2, **size)
    places, _ = place(stages_of(network((9, 9, 3), first, second)), 8, {"b"})
    assert (places["x"].halves, places["a"].halves) == (2, 1)


def assert_apart(stages, kept, places, depth):
    """No two tensors share a word while both are needed."""
    made = dict.fromkeys(sources_of(stages), -1) | {stage.output: n for n, stage in enumerate(stages)}
    last = dict(made) | {stage.source: n for n, stage in enumerate(stages)} | dict.fromkeys(kept, len(stages))
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
    table = lower(random_table(rng, kinds=CORE_KINDS, layers=7, paddings=("valid",), max_size=20))
    kept = results_of(table)
    try:
        stages = stages_of(table)
    except GenError:
        # A window wider than the map, hence a pool with padding.
        assert any(layer.operator == "average_pool2d" and any(layer.padding) for layer in table.layers)
        return
    if seed % 2:
        kept = kept | {stages[len(stages) // 2].output}
    places, depth = place(stages, 4, kept)
    assert_apart(stages, kept, places, depth)


def test_tensors_that_nobody_reads_still_have_a_place_of_their_own():
    same = {"channels_in": 4, "kernel": (3, 3), "padding": (1, 1, 1, 1)}
    layers = [convolution(name, source, (6, 6, 4), **same) for name, source in ("ax", "ba", "ca", "dc")]
    stages = stages_of(network((6, 6, 4), *layers))
    places, depth = place(stages, 4, {"d"})
    assert_apart(stages, {"d"}, places, depth)


def test_freed_words_are_used_again():
    layers = [convolution(name, source, (6, 6, 4), channels_in=4) for name, source in ("ax", "ba", "cb", "dc", "ed")]
    places, depth = place(stages_of(network((6, 6, 4), *layers)), 4, {"e"})
    assert depth == 2 * places["x"].words


def several_inputs():
    a, b = convolution("a", "x", (4, 4, 3), channels_in=3), convolution("b", "y", (4, 4, 3), channels_in=3)
    return network((), a, b, outputs=("a", "b"), inputs={"x": int8(4, 4, 3), "y": int8(4, 4, 3)})


def test_all_inputs_are_there_from_the_start():
    stages = stages_of(several_inputs())
    places, depth = place(stages, 4, {"a", "b"})
    assert_apart(stages, {"a", "b"}, places, depth)


def patch_bytes(stage, x, lanes, words):
    """What the array reads for each pixel, in the engines' order: (rows, columns, patch words, lanes * words).

    Depthwise results, or one input word after another of each window (wide), or the windows' bytes packed (narrow).
    """
    patches = patches_of(stage, lanes, words)
    if stage.front is not None:
        sums = np.einsum("yxijc,ijc->yxc", windows(x, stage, stage.kernel), stage.window_weights.astype(np.int64))
        shown = stage.window_scaling.results(sums + stage.window_scaling.bias)[:, :, None, None]
        down, across = 1, 1
    else:
        down, across = (1, 1) if stage.kernel == (1, 1) else (3 * patches.tiles[0], 3 * patches.tiles[1])
        # What hangs over the kernel meets weights of 0, whatever it shows.
        wider = replace(stage, padding=tuple(np.add(stage.padding, (0, down, 0, across))))
        shown = windows(x, wider, (down, across))
    made = []
    for y, column in np.ndindex(*stage.patch_shape[:2]):
        patch = bytearray()
        window = shown[y, column].astype(np.int8)
        groups = [window] if patches.mode == WindowMode.NARROW else np.split(padded(window, lanes), patches.groups, -1)
        for group in groups:
            for top, left in np.ndindex(-(-down // 3), -(-across // 3)):
                patch += group[3 * top : 3 * top + 3, 3 * left : 3 * left + 3].tobytes()
                if patches.mode == WindowMode.NARROW:
                    patch += bytes(-len(patch) % (lanes * words))
        made.append(np.frombuffer(bytes(patch).ljust(patches.words * lanes * words, b"\x55"), np.int8))
    return np.array(made).reshape(*stage.patch_shape[:2], patches.words, lanes * words)


def padded(window, lanes):
    """The last axis filled up to whole words with what weights of 0 meet."""
    return np.pad(window, [(0, 0)] * (window.ndim - 1) + [(0, -window.shape[-1] % lanes)], constant_values=99)


@pytest.mark.parametrize("lanes, words", [(1, 1), (2, 1), (2, 4), (3, 2), (4, 2), (8, 1), (8, 2)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 2), (5, 5), (1, 3), (4, 2), (7, 3)])
@pytest.mark.parametrize("channels", (1, 3, 4, 5, 17))
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


def assert_products(stage, x, lanes, words):
    """Each column's weights, times the patches as they come, give the stage's sums, group by group."""
    columns = weight_words(stage, lanes, words).astype(np.int64)
    patches = patch_bytes(stage, x, lanes, words).astype(np.int64)
    groups = -(-stage.output_shape[2] // lanes)
    assert columns.shape == (lanes, groups * patches.shape[2], lanes * words)
    banks = columns.reshape(lanes, groups, patches.shape[2], lanes * words)
    sums = np.einsum("yxwk,ngwk->yxgn", patches, banks).reshape(*stage.patch_shape[:2], -1)
    assert not sums[..., stage.output_shape[2] :].any()
    sums = sums[..., : stage.output_shape[2]]
    made = stage.scaling.results(sums + stage.scaling.bias)
    assert np.array_equal(made.reshape(stage.output_shape), run_stage(stage, x))


def test_window_weights():
    (stage,) = stages_of(network((9, 9, 5), depthwise("d", "x", (5, 6, 5), kernel=(5, 4))))
    words = window_words(stage, 4, 1)
    assert words.shape == (2 * 2 * 2, 4, 9)
    for row, column, c in np.ndindex(5, 4, 5):
        tile = row // 3 * 2 + column // 3
        assert words[c // 4 * 4 + tile, c % 4, row % 3 * 3 + column % 3] == stage.window_weights[row, column, c]
    assert np.count_nonzero(words) == np.count_nonzero(stage.window_weights)


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
    contents = memory_contents(stages, dimensions(2, 1, bias_bits=12))
    assert {name: len(words) for name, words in contents.items()} == {
        "coefficients": 2, "depthwise_bias": 2, "depthwise_scale": 2,
        "weights_0": 6, "weights_1": 6, "bias_0": 3, "bias_1": 3, "scale_0": 3, "scale_1": 3,
    }  # fmt: skip
    assert contents["bias_1"] == [int(stage.scaling.bias[1]) & 0xFFF, int(stage.scaling.bias[3]) & 0xFFF, 0]
    assert contents["scale_0"][2] == int(stage.scaling.multiplier[4]) | int(-stage.scaling.shift[4]) << 33
    bias = stage.window_scaling.bias
    assert contents["depthwise_bias"] == [int(bias[0]) & 0xFFF | (int(bias[1]) & 0xFFF) << 12, int(bias[2]) & 0xFFF]
    assert contents["weights_0"][0] == int.from_bytes(stage.weights[0, 0, 0, :2].tobytes(), "little")
