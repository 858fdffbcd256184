"""Plans: the fastest array that fits, or what does not fit, by how much, and what would."""

import re
from dataclasses import replace

import numpy as np
import pytest
from test_order import block
from test_stages import combined, convolution, network

import boards
from gen.builders import mobilenet_v1, mobilenet_v2
from gen.errors import GenError
from gen.layout import place
from gen.passes import lower
from gen.plan import FAST_ENOUGH_US, plan
from gen.source import resolve
from hw.core import filled_memories

ULX3S, SIM = boards.get("ulx3s"), boards.get("sim")


@pytest.fixture(scope="module")
def digits():
    return lower(resolve(None))


def small(board="sim", **resources):
    """A board of which some resources are others."""
    board = boards.get(board)
    return replace(board, resources={**board.resources, **resources})


def test_the_smallest_that_is_fast_enough(digits):
    chosen = plan(digits, ULX3S)
    assert (chosen.fits, chosen.problems) == (True, [])
    assert (chosen.table, chosen.board) == (digits, ULX3S)
    assert chosen.latency_us <= FAST_ENOUGH_US
    for array in ((2, 2), (4, 2), (8, 4), (16, 4), (16, 8)):
        other = plan(digits, ULX3S, array=array)
        assert (other.config.array_rows, other.config.lanes) == array
        assert other.latency_us > FAST_ENOUGH_US or other.resources["lut"] >= chosen.resources["lut"]


def test_the_fastest_that_fits():
    table = lower(mobilenet_v1(0.25, 96, classes=2, seed=None))
    chosen = plan(table, ULX3S)
    assert chosen.latency_us > FAST_ENOUGH_US
    for array in ((16, 4), (16, 8), (18, 6)):
        assert chosen.cycles <= 1.03 * plan(table, SIM, array=array).cycles
    # Fewer multipliers, fewer columns.
    fewer = plan(table, small("ulx3s", mult=40))
    assert fewer.resources["mult"] <= 40
    assert fewer.cycles > chosen.cycles


def test_report(digits):
    planned = plan(digits, ULX3S, array=(16, 8))
    report = planned.report()
    macs = digits.macs
    assert report["array"] == {
        "k": 16, "n": 8, "macs_per_cycle": 128, "depthwise_lanes": 8, "requantiser_lanes": 16,
    }  # fmt: skip
    assert (report["model"], report["board"], report["device"]) == ("digits", "ulx3s", "LFE5U-85F")
    assert (report["macs"], report["live_macs"], report["cycles"]) == (macs, macs, planned.cycles)
    assert report["latency_us"] == pytest.approx(planned.cycles / report["clock_mhz"])
    assert report["fps"] == pytest.approx(1e6 / report["latency_us"])
    assert report["utilisation"] == pytest.approx(macs / planned.cycles / 128)
    # An array that copies has weights too, and so has a pool.
    assert report["weight_bytes"] >= sum(layer.weights.size for layer in digits.layers if layer.weights is not None)
    assert report["feature_bytes"] == planned.config.feature_depth * 9 * 8
    assert report["resources"].keys() == {"lut", "ff", "mult", "ebr"}
    for name, counts in report["resources"].items():
        assert counts == {"used": planned.resources[name], "available": ULX3S.resources[name]}


def test_what_does_not_fit_is_named():
    table = lower(mobilenet_v1(1.0, 224, seed=None))
    with pytest.raises(GenError) as caught:
        plan(table, ULX3S)
    first, *lines = str(caught.value).splitlines()
    assert re.match(r"mobilenet_v1_1_224_1000 does not fit ulx3s \(LFE5U-85F\); closest with array \d+x\d+:$", first)
    (blocks,) = filter(
        None, (re.match(r"  block RAMs: needs about (\d+), (\d+) more than the 208 there are$", line) for line in lines)
    )
    assert int(blocks[1]) - int(blocks[2]) == 208
    assert lines[-1] == "  no board here is large enough; --board sim simulates it all the same"


def test_a_board_that_would_do(digits):
    with pytest.raises(GenError) as caught:
        plan(digits, small("ulx3s-12f", lut=1000))
    first, *problems, last = str(caught.value).splitlines()
    assert first.startswith("digits does not fit ulx3s-12f (LFE5U-12F); closest with array ")
    needed = int(re.match(r"  LUT4: needs about (\d+), \d+ more than the 1000 there are$", problems[0])[1])
    (would,) = re.findall(r"^  it would fit ([\w-]+) \(LFE5U-\w+\) with array \d+x\d+$", last)
    assert boards.get(would).resources["lut"] >= needed


def test_block_rams_do_not_bind_the_simulated_board():
    table = lower(mobilenet_v1(0.25, 128, seed=None))
    ample = plan(table, small(ebr=0))
    assert ample.fits
    assert ample.resources["ebr"] > 0
    with pytest.raises(GenError, match="LUT4: needs about"):
        plan(table, small(lut=500))


@pytest.mark.parametrize("array", [(17, 4), (8, 16), (34, 17), (132, 12), (5, 3)])
def test_arrays_that_cannot_be_built(digits, array):
    k, n = array
    with pytest.raises(
        GenError, match=f"^array {k}x{n}: K must be a multiple of N and at most 128, N must be in 1..16$"
    ):
        plan(digits, SIM, array=array)


def test_an_array_that_does_not_fit(digits):
    with pytest.raises(GenError) as caught:
        plan(digits, ULX3S, array=(32, 16))
    assert "digits does not fit ulx3s (LFE5U-85F); closest with array 32x16:\n" in str(caught.value)
    assert "\n  MULT18X18D: needs about 512, 356 more than the 156 there are\n" in str(caught.value)


def test_jobs_that_count_too_much():
    table = network((1, 1, 1030), convolution("c", "x", (1, 1, 1), channels_in=1030))
    with pytest.raises(GenError, match="\n  c: input channel groups: 515, more than the 512 that a job counts\n"):
        plan(table, SIM, array=(8, 2))
    # Wider words hold more channels.
    assert plan(table, SIM).config.lanes > 2


def test_problems_of_the_stages_come_first():
    layer = convolution("c", "x", (3, 1, 2), channels_in=2, stride=(1, 3), padding=(0, 0, 0, 1))
    table = network((3, 3, 2), replace(layer, output=replace(layer.output, shape=(3, 2, 2))))
    with pytest.raises(GenError, match="^net: c: stride must be 1 or 2, not 3$"):
        plan(table, SIM)


def test_contents_fit_their_memories(digits):
    planned = plan(digits, ULX3S, array=(8, 4))
    memories = filled_memories(planned.config)
    for name, words in planned.contents.items():
        memory = memories[name]
        assert len(words) == memory.depth or not words, name
        assert all(0 <= word < 1 << memory.width for word in words), name
    assert planned.contents == plan(digits, ULX3S, array=(8, 4)).contents


def test_numbers_that_the_core_holds(digits):
    """No sum and no parameter of any stage is wider than its place in the core."""
    planned = plan(digits, ULX3S)
    config = planned.config
    for stage in planned.stages:
        assert stage.scaling.reach.max() < 1 << config.accumulator_bits - 1
        for scaling in filter(None, (stage.scaling, stage.window_scaling)):
            assert np.abs(scaling.bias).max() < 1 << config.bias_bits - 1
            assert (scaling.multiplier << np.maximum(scaling.shift, 0)).max() < 1 << config.multiplier_bits
        if stage.window_scaling is not None:
            assert stage.window_scaling.reach.max() < 1 << config.depthwise_accumulator_bits - 1


@pytest.mark.parametrize(
    "array, board, lanes, columns",
    [
        ((4, 2), "ulx3s-12f", 2, (0, 1)),  # 8 of 28 multipliers, so ten pairs are left for four requantisers
        ((6, 3), "ulx3s-12f", 3, (0, 1)),  # 18, five pairs for six
        ((12, 2), "ulx3s-12f", 2, ()),  # 24, two pairs for four
        ((26, 1), "ulx3s-12f", 1, ()),  # 26, a pair
        ((14, 2), "ulx3s-12f", 0, ()),  # all of them
    ],
)
def test_requantisers_get_what_the_array_leaves(digits, array, board, lanes, columns):
    planned = plan(digits, boards.get(board), array=array)
    assert (planned.config.hard_lanes, planned.config.hard_columns) == (lanes, columns)
    assert planned.resources["mult"] == array[0] * array[1] + 2 * (lanes + len(columns)) <= 28


@pytest.mark.parametrize(
    "layer, lanes",
    [
        # One patch word a sum: every cycle that the adder takes beyond one, the array waits.
        (convolution("c", "x", (6, 6, 4), channels_in=4), 4),
        # 9, more than four cycles: one lane does.
        (convolution("c", "x", (6, 6, 4), channels_in=4, kernel=(3, 3), padding=(1, 1, 1, 1)), 1),
        (convolution("c", "x", (6, 6, 4), channels_in=4, kernel=(1, 2), padding=(0, 0, 0, 1)), 1),
    ],
)
def test_as_many_residual_lanes_as_keep_the_array_busy(layer, lanes):
    planned = plan(network((6, 6, 4), layer, combined("s", "c", "x", (6, 6, 4))), SIM, array=(4, 4))
    assert planned.config.residual_lanes == lanes
    assert plan(network((6, 6, 4), layer), SIM, array=(4, 4)).config.residual_lanes == 0


def test_a_wait_that_hardly_matters_saves_lanes():
    """A hundred times as much work elsewhere."""
    big = [convolution(n, s, (30, 30, 4), channels_in=4, kernel=(3, 3), padding=(1, 1, 1, 1)) for n, s in ("ax", "ba")]
    small = convolution("c", "b", (1, 1, 4), channels_in=4, kernel=(30, 30))
    last = convolution("d", "c", (1, 1, 4), channels_in=4)
    table = network((30, 30, 4), *big, small, last, combined("s", "d", "c", (1, 1, 4)))
    assert plan(table, SIM, array=(4, 4)).config.residual_lanes == 1


def test_rings_save_memory(monkeypatch):
    """The tensors within the blocks of a MobileNetV2 are never whole."""
    table = lower(mobilenet_v2(0.35, 96, classes=4, seed=None))
    with_rings = plan(table, SIM, array=(16, 8))
    monkeypatch.setattr("gen.plan.kept_rows", lambda *_: {})
    without = plan(table, SIM, array=(16, 8))
    assert with_rings.config.feature_depth < 0.6 * without.config.feature_depth
    assert all(where.kept is None for where in without.places.values())


def test_every_plan_is_checked(monkeypatch):
    """A layout that loses something is a bug, and never leaves the house."""

    def overlapping(*arguments):
        places, depth = place(*arguments)
        return places | {"e": replace(places["e"], base=places["x"].base)}, depth

    plan(block(9), SIM, array=(4, 4))
    monkeypatch.setattr("gen.plan.place", overlapping)
    with pytest.raises(GenError, match=r"^e, row 0, once it is written: reads row 0 of x, but finds row 0 of e there$"):
        plan(block(9), SIM, array=(4, 4))


def test_the_same_table_gives_the_same_verilog(digits):
    first, second = (plan(lower(resolve(None)), ULX3S, array=(4, 2)) for _ in range(2))
    assert first.verilog() == second.verilog()
    assert "\nmodule core(" in first.verilog()
    assert first.digest == second.digest != plan(digits, ULX3S, array=(8, 2)).digest
