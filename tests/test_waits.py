"""Where every cycle goes: by hand for stages that wait for one thing each, and in all for whole networks."""

from dataclasses import replace

import pytest
from test_order import block
from test_schedule import block_chain, pools
from test_stages import combined, convolution, depthwise, network

import boards
from gen.builders import mobilenet_v2
from gen.importer import load_tflite
from gen.passes import lower
from gen.plan import plan
from gen.schedule import cycles_of
from gen.source import resolve
from gen.waits import WAITS, Ledger, row_causes
from hw.array import MacArray

SIM = boards.get("sim")


def planned(*layers, shape, array=(4, 4)):
    return plan(network(shape, *layers), SIM, array=array, packing=False)


@pytest.mark.parametrize(
    "table, array",
    [
        (block(9), (4, 4)), (block(9), (3, 1)), (block(13, stride=2), (5, 5)), (block_chain(), (8, 4)),
        (pools(), (2, 1)), (lower(resolve(None)), (6, 2)), (lower(resolve(None)), (16, 8)),
        (lower(mobilenet_v2(0.35, 32, classes=4, seed=None)), (16, 8)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packing", [False, True])
def test_no_cycle_is_lost(table, array, packing):
    one = plan(table, SIM, array=array, packing=packing)
    assert sum(stage.cycles for stage in one.stage_cycles) == one.cycles
    for stage in one.stage_cycles:
        assert stage.busy > 0 and set(stage.waits) <= set(WAITS) and min(stage.waits.values()) > 0
        assert stage.begin + stage.busy <= stage.end + 1


@pytest.mark.parametrize("model", ["vww_96_int8", "pretrainedResnet_quant", "mobilenetv2_160_035"])
def test_no_cycle_of_a_published_network_is_lost(models_dir, model):
    one = plan(lower(load_tflite(models_dir / f"{model}.tflite"), folding=True), SIM, array=(16, 8))
    assert sum(stage.cycles for stage in one.stage_cycles) == one.cycles


def test_an_array_that_waits_for_nothing():
    """Nine patch words of one window word each, one output group: gather and array are as fast."""
    one = planned(convolution("c", "x", (6, 6, 4), channels_in=4, kernel=(3, 3), padding=(1, 1, 1, 1)), shape=(6, 6, 4))
    (stage,) = one.stage_cycles
    assert stage.busy == 36 * 9
    # A job word a row, but the first row's, which comes with the start; the last results.
    assert stage.waits["jobs"] == 5
    assert stage.waits["requantiser"] == MacArray.latency(one.config) + 1
    assert stage.waits["gather"] == 9
    assert stage.waits["fill"] == stage.begin - 9


def test_windows_that_come_slower_than_they_are_summed():
    """A 5 x 5 kernel is four windows a pixel, whose one patch word is one sum."""
    layer = depthwise("d", "x", (6, 7, 4), kernel=(5, 5), padding=(2, 2, 2, 2))
    last = convolution("c", "d", (6, 7, 4), channels_in=4)
    (stage,) = planned(layer, last, shape=(6, 7, 4)).stage_cycles
    assert stage.busy == 42
    # Three cycles of each pixel, and all four of a row's first, which waits for a job word too.
    assert (stage.waits["depthwise"], stage.waits.get("gather"), stage.waits.get("jobs")) == (42 * 3 + 6, None, None)
    # 8 x 4: nine taps go in five beats, four groups in 20 cycles a pixel, of which 18 hide behind sums.
    wide = convolution("c", "x", (6, 7, 4), channels_in=16, kernel=(3, 3), padding=(1, 1, 1, 1))
    (stage,) = planned(wide, shape=(6, 7, 16), array=(8, 4)).stage_cycles
    assert (stage.busy, stage.waits["gather"], stage.waits.get("depthwise")) == (42 * 18, 20 + 5 * 3 + 36 * 2, None)


def test_rows_on_their_way():
    """Each of two pixels needs the one before, which the requantisers have yet to make."""
    first, second = (convolution(n, s, (1, 1, 4), channels_in=4) for n, s in ("ax", "ba"))
    one = planned(first, second, shape=(1, 1, 4))
    a, b = one.stage_cycles
    assert a.end + MacArray.latency(one.config) + 1 - b.waits["requantiser"] < b.begin
    # From the array's last cycle until the row is written, in the first; in the second, the last results besides.
    assert "requantiser" not in a.waits
    assert b.waits["requantiser"] == 2 * (MacArray.latency(one.config) + 1)
    assert b.waits["fill"] > 0 and b.waits["gather"] == 1


def test_memory():
    """Six residual words before a row of pixels of one cycle each, by more lanes than the adder keeps waiting."""
    layer = convolution("c", "x", (6, 6, 4), channels_in=4)
    one = planned(layer, combined("s", "c", "x", (6, 6, 4)), shape=(6, 6, 4))
    assert one.config.residual_lanes == 4
    (stage,) = one.stage_cycles
    # All six rows are read together, a job word each.
    assert stage.waits["memory"] == 6 * 6 + 5
    assert "adder" not in stage.waits
    # With little room in the patch buffer, windows wait for it beyond what residual words take.
    wide = convolution("c", "x", (3, 3, 5), channels_in=9, kernel=(3, 3))
    one = planned(wide, shape=(5, 5, 9), array=(8, 4))
    ample, little = (
        cycles_of(one.stages, one.order, replace(one.config, patch_depth=depth))[1][0] for depth in (512, 16)
    )
    assert ample.waits.get("memory", 0) == 0 < little.waits["memory"]
    assert ample.busy == little.busy


def test_causes_of_a_row():
    """By hand: windows from cycle 100 on, which reach the array 30 cycles after their issue."""
    row = {"issue": 100, "taken": 99, "to_patch": 30}
    assert row_causes(**row, written=98, changed=True) == ([("fill", 30)], "requantiser")
    assert row_causes(**row, written=90, changed=True) == ([], "fill")
    assert row_causes(**row, written=90, changed=False) == ([], "jobs")
    words = [("fill", 19), ("memory", 11)]
    assert row_causes(**row, written=90, changed=True, residual=(69, 60, 70, 80)) == (words, "fill")
    assert row_causes(**row, written=90, changed=True, residual=(69, 68, 70, 80)) == (
        [*words, ("fill", 30)], "requantiser",
    )  # fmt: skip


def test_ledger():
    """Causes explain what they can, the latest first; the rest goes to one."""
    ledger = Ledger()
    ledger.sum(0, 4)
    ledger.wait(0, 10, [("gather", 3), ("memory", 0), ("jobs", -2), ("depthwise", 5)], "fill")
    ledger.wait(0, 2, [("gather", 3)], "fill")
    ledger.wait(1, 1, (), "requantiser")
    first, second = ledger.stage(0, "a", 1, 20), ledger.stage(1, "b", 21, 30)
    assert first.waits == {"fill": 2, "depthwise": 5, "gather": 5} and first.cycles == 16
    assert (second.busy, second.waits, second.cycles) == (0, {"requantiser": 1}, 1)
