# amaranth: UnusedElaboratable=no

"""A whole core in Amaranth's simulator, by itself: every word of every engine, and every cycle."""

from dataclasses import replace

import pytest
from ports import packed, simulate
from test_stages import classifier, combined, convolution, depthwise, network

import boards
from gen.contents import feature_contents
from gen.inputs import random_inputs
from gen.layout import patches_of
from gen.plan import plan
from gen.stages import sources_of
from hw.config import BANKS
from hw.core import Core
from hw.jobs import WindowMode
from sim import driver, golden

SIDES = (1, 1, 1, 1)
ENGINES = {"depthwise": "front", "array": "array", "residual": "sum"}


def small_network():
    """Windows of all kinds: narrow, depthwise with a sum behind it, wide. All channels are a multiple of four."""
    return network(
        (6, 5, 2),
        convolution("c", "x", (6, 5, 4), channels_in=2, kernel=(3, 3), padding=SIDES),
        convolution("e", "c", (6, 5, 12), channels_in=4),
        depthwise("d", "e", (6, 5, 12), padding=SIDES),
        convolution("p", "d", (6, 5, 4), channels_in=12),
        combined("s", "c", "p", (6, 5, 4)),
        classifier("f", "s", 6 * 5 * 4, 8),
    )


def convolutions():
    """Kernels of several windows: narrow ones two columns apart, wide ones whose number is odd and even."""
    return network(
        (9, 7, 1),
        convolution("c", "x", (5, 4, 36), channels_in=1, kernel=(5, 4), stride=(2, 2), padding=(2, 2, 2, 2)),
        convolution("d", "c", (3, 4, 8), channels_in=36, kernel=(3, 3), stride=(2, 1), padding=SIDES),
        convolution("e", "d", (2, 2, 8), channels_in=8, kernel=(4, 3), padding=(1, 1, 0, 0)),
    )


def expected_words(planned, tensors):
    """What each engine makes, in the order of the plan's rows; the words of two pixels of the array by turns."""
    lanes, words = planned.config.lanes, {engine: [] for engine in ENGINES}
    for at, y in planned.order:
        stage = planned.stages[at]
        for engine, attribute in ENGINES.items():
            if (layer := getattr(stage, attribute)) is not None:
                row = tensors[layer.name].reshape(*stage.output_shape[:2], -1, lanes)[y]
                together = patches_of(stage, planned.config).pixels if engine == "array" else 1
                for first in range(0, len(row), together):
                    pixels = row[first : first + together]
                    words[engine] += [packed(word, 8) for group in zip(*pixels, strict=True) for word in group]
    return words


@pytest.mark.parametrize("array, packing", [((4, 4), False), ((4, 4), True), ((4, 2), True)])
def test_every_word_and_cycle(array, packing):
    """From the host's start, with the input in memory: words are the golden model's, cycles those of the plan."""
    planned = plan(small_network(), boards.get("sim"), array=array, packing=packing)
    assert planned.config.outputs == 1 + packing
    modes = {patches_of(stage, planned.config).mode for stage in planned.stages}
    assert modes == {WindowMode.NARROW, WindowMode.WIDE, WindowMode.DEPTHWISE} and planned.config.residual_lanes
    assert_words_and_cycles(planned)


@pytest.mark.parametrize("words, beats", [(1, 9), (2, 5), (3, 3), (4, 3)])
def test_convolutions(words, beats):
    """As above, one or a few taps at a time, and of the input as many columns as a feature word holds: one of 3."""
    planned = plan(convolutions(), boards.get("sim"), array=(4 * words, 4))
    patches = [patches_of(stage, planned.config) for stage in planned.stages]
    assert [one.mode for one in patches] == [WindowMode.NARROW, WindowMode.WIDE, WindowMode.WIDE]
    assert [one.beats for one in patches[1:]] == [beats, beats]
    assert (patches[0].whole, patches[0].step) == (False, 1)
    assert planned.config.depthwise_lanes == 0
    assert_words_and_cycles(planned)


@pytest.mark.parametrize("array, pixels, lanes", [((4, 4), 1, 1), ((8, 4), 2, 1), ((12, 6), 1, 2)])
def test_channels_that_take_turns_in_the_depthwise_engine(array, pixels, lanes):
    """As above: kernels of one window and of two, in an engine of fewer lanes than a word has channels."""
    table = network(
        (6, 5, 2),
        convolution("c", "x", (6, 5, 12), channels_in=2, kernel=(3, 3), padding=SIDES),
        depthwise("d", "c", (3, 5, 12), kernel=(5, 3), stride=(2, 1), padding=(2, 2, 1, 1)),
        convolution("p", "d", (3, 5, 96), channels_in=12),
        depthwise("e", "p", (3, 5, 96), padding=SIDES),
        convolution("q", "e", (3, 5, 96), channels_in=96),
    )
    planned = plan(table, boards.get("sim"), array=array, pixels=pixels)
    assert (planned.config.depthwise_lanes, planned.config.pixels) == (lanes, pixels)
    assert_words_and_cycles(planned)


def test_patches_in_lut_ram():
    """Where one block RAM is missing, the patch buffer does without any."""
    table = network(
        (6, 5, 2),
        convolution("c", "x", (6, 5, 4), channels_in=2, kernel=(3, 3), padding=SIDES),
        depthwise("d", "c", (6, 5, 4), padding=SIDES),
        convolution("p", "d", (6, 5, 16), channels_in=4),
        convolution("q", "p", (6, 5, 8), channels_in=16),
    )
    board = boards.get("ulx3s")
    deep = plan(table, board, array=(4, 4))
    resources = dict(board.resources) | {"ebr": deep.resources["ebr"] - 1}
    planned = plan(table, replace(board, resources=resources), array=(4, 4))
    assert (deep.config.patch_depth, planned.config.patch_depth) == (512, 32)
    assert planned.resources["ebr"] < deep.resources["ebr"] and planned.resources["lut"] > deep.resources["lut"]
    assert_words_and_cycles(planned)


def assert_words_and_cycles(planned):
    """Every word of every engine, and the cycles, in Amaranth's simulator."""
    table = planned.table
    config = replace(planned.config, primitives="portable")
    (inputs,) = random_inputs(table, 1, 3)
    banks = [[0] * config.feature_depth for _ in range(BANKS)]
    for name in sources_of(planned.stages):
        base = planned.places[name].base
        for bank, words in zip(banks, feature_contents(planned.places[name], inputs[name], config), strict=True):
            bank[base : base + len(words)] = words
    dut = Core(config, init=planned.contents | {f"features_{n}": bank for n, bank in enumerate(banks)})
    seen, running = {engine: [] for engine in ENGINES}, []

    async def bench(ctx):
        frame = list(driver.start_frame())
        ctx.set(dut.o.ready, 1)
        for _ in range(planned.cycles + 200):
            ctx.set(dut.i.valid, bool(frame))
            if frame:
                ctx.set(dut.i.payload, frame[0])
                if ctx.get(dut.i.ready):
                    frame.pop(0)
            for engine, words in seen.items():
                valid, value = (ctx.get(getattr(dut, f"trace_{engine}{end}")) for end in ("_valid", ""))
                for pixel in range(valid.bit_length()):
                    words.append(value >> pixel * config.word_bits & (1 << config.word_bits) - 1)
            running.append(ctx.get(dut.trace_running))
            await ctx.tick()

    simulate(dut, bench)
    assert sum(running) == planned.cycles and not running[-1]
    wanted = expected_words(planned, golden.run(table, inputs))
    assert all(len(set(words)) > 4 for words in wanted.values() if words)
    assert seen == wanted
