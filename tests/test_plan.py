"""Plans: the fastest array that fits, or what does not fit, by how much, and what would."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from test_order import block
from test_stages import combined, convolution, depthwise, network

import boards
from gen.builders import mobilenet_v1, mobilenet_v2
from gen.contents import memory_contents
from gen.errors import FitError, GenError
from gen.layout import patches_of, place
from gen.order import kept_rows
from gen.passes import lower
from gen.plan import FAST_ENOUGH_US, plan
from gen.source import resolve
from gen.stages import results_of
from gen.waits import WAITS
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


@pytest.mark.parametrize(
    ("array", "board", "places"), [((16, 8), "ulx3s", True), ((24, 6), "ulx3s", True), ((6, 2), "ulx3s-12f", False)]
)
def test_arrays_have_places_where_the_parts_are_known(digits, array, board, places):
    planned = plan(digits, boards.get(board), array=array)
    assert bool(planned.places_on_die.columns) == places
    assert planned.clock_mhz_estimate == 132
    assert planned.latency_us == planned.cycles / 132


def test_large_designs_are_expected_to_be_slower(digits):
    """Two pixels at a time take fewer cycles, more LUTs, and a lower clock."""
    one, two = (plan(digits, boards.get("ulx3s"), array=(32, 8), packing=True, pixels=pixels) for pixels in (1, 2))
    assert one.cycles > two.cycles and one.resources["lut"] < two.resources["lut"]
    assert 60 < two.clock_mhz_estimate < one.clock_mhz_estimate < 132


def test_time_decides_not_cycles(models_dir):
    """Two pixels at a time take a few cycles fewer on 24x12, and so many LUTs more that the clock eats them."""
    table = lower(resolve(str(models_dir / "pretrainedResnet_quant.tflite")))
    chosen = plan(table, ULX3S, array=(24, 12), packing=True)
    other = next(candidate for candidate in chosen.candidates if not candidate.chosen)
    assert (chosen.config.pixels, other.pixels) == (1, 2) and other.fits
    assert other.cycles < chosen.cycles and other.latency_us > chosen.latency_us


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


@pytest.mark.parametrize(
    "array, way_out",
    [
        (None, "no board here is large enough; --board sim simulates it all the same"),
        ((1, 1), "no board here is large enough"),
    ],
)
def test_what_does_not_fit_is_named(array, way_out):
    """For the smallest array there are more words of weights than the fill bus addresses, so nothing simulates it."""
    table = lower(mobilenet_v1(1.0, 224, seed=None))
    with pytest.raises(GenError) as caught:
        plan(table, ULX3S, array=array)
    first, *lines = str(caught.value).splitlines()
    assert re.match(
        r"mobilenet_v1_[0-9.]+_224_1000 does not fit ulx3s \(LFE5U-85F\); closest with array \d+x\d+:$", first
    )
    (blocks,) = filter(
        None, (re.match(r"  block RAMs: needs about (\d+), (\d+) more than the 208 there are$", line) for line in lines)
    )
    assert int(blocks[1]) - int(blocks[2]) == 208
    assert lines[-1] == f"  {way_out}"


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
        plan(digits, ULX3S, array=(32, 16), packing=False)
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


@pytest.mark.parametrize("packing", (False, True))
def test_columns_hold_no_weights_of_channels_that_are_not_there(digits, packing):
    """The last stage of digits has 10 output channels: two columns of eight have its second group, packed one."""
    planned = plan(digits, ULX3S, array=(16, 8), packing=packing)
    config = planned.config
    last = patches_of(planned.stages[-1], config).sum_words
    depths = [config.weight_depth] * (1 if packing else 2)
    depths += [config.weight_depth - last] * (config.columns - len(depths))
    assert config.weight_depths == tuple(depths)
    everything = memory_contents(planned.stages, replace(config, weight_depths=(config.weight_depth,) * config.columns))
    for n, depth in enumerate(depths):
        words = everything[f"weights_{n}"]
        assert words[:depth] == planned.contents[f"weights_{n}"] and not any(words[depth:])


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
        ((4, 2), "ulx3s-12f", 1, (0, 1)),  # 8 of 28 multipliers, so ten pairs are left for three requantisers
        ((6, 3), "ulx3s-12f", 1, (0, 1, 2)),  # 18, five pairs for four
        ((12, 2), "ulx3s-12f", 1, (0,)),  # 24, two pairs for three
        ((26, 1), "ulx3s-12f", 1, ()),  # 26, a pair
        ((14, 2), "ulx3s-12f", 0, ()),  # all of them
    ],
)
def test_requantisers_get_what_the_array_leaves(digits, array, board, lanes, columns):
    planned = plan(digits, boards.get(board), array=array, packing=False)
    assert (planned.config.hard_lanes, planned.config.hard_columns) == (lanes, columns)
    assert planned.resources["mult"] == array[0] * array[1] + 2 * (lanes + len(columns)) <= 28


@pytest.mark.parametrize(
    "array, mult, lanes, columns",
    [
        ((4, 2), 28, 1, (0, 1)),  # 4 of 28 multipliers
        ((12, 4), 28, 2, ()),  # 24, two pairs for six requantisers
        ((12, 4), 34, 2, (0, 1, 2)),  # five pairs
        ((14, 2), 14, 0, ()),  # all of them
        ((16, 8), 64, 0, ()),
        ((16, 8), 82, 8, (0,)),
    ],
)
def test_two_output_channels_share_a_multiplier(digits, array, mult, lanes, columns):
    """Half as many multipliers; the rest goes to the requantisers, of which there are as many as ever."""
    planned = plan(digits, small("ulx3s-45f", mult=mult, lut=50_000), array=array, packing=True)
    config = planned.config
    assert (config.outputs, config.array_rows, config.lanes, config.columns) == (2, *array, array[1] // 2)
    assert (config.hard_lanes, config.hard_columns) == (lanes, columns)
    assert planned.resources["mult"] == array[0] * array[1] // 2 + 2 * (lanes + len(columns)) <= mult
    apart = plan(digits, SIM, array=array, packing=False)
    assert apart.config.outputs == 1 and apart.digest != planned.digest
    report = planned.report()
    assert report["packing"] and not apart.report()["packing"]
    for counted in (report["array"], apart.report()["array"]):
        assert (counted["k"], counted["n"], counted["macs_per_cycle"]) == (*array, array[0] * array[1])


@pytest.mark.parametrize("array, mult", [((8, 4), 156), ((16, 8), 156), ((16, 8), 100), ((4, 2), 4), (None, 28)])
def test_a_choice_between_sharing_and_not(digits, array, mult):
    """Free to choose, a plan shares multipliers where only that fits, and else where it comes out smaller."""
    board = small("ulx3s", mult=mult)
    left = plan(digits, board, array=array, packing=None)
    others = []
    for packing in (False, True):
        try:
            others.append(plan(digits, board, array=array, packing=packing))
        except GenError as error:
            assert not packing and f"MULT18X18D: needs about {array[0] * array[1]}" in str(error)
    best = min(others, key=lambda other: (other.latency_us > FAST_ENOUGH_US, other.resources["lut"], other.cycles))
    assert left.config == best.config
    if array and array[0] * array[1] > mult:
        assert left.config.outputs == 2 and len(others) == 1


def test_what_is_printed_of_sharing(digits):
    shared, apart = (plan(digits, SIM, array=(8, 4), packing=packing) for packing in (True, False))
    assert "array 8x4, two MACs a multiplier, " in printed(shared)
    assert "array 8x4, one MAC a multiplier, " in printed(apart)
    assert "cannot be shared" not in printed(shared) + printed(apart)
    assert "\nmultipliers cannot be shared: N is odd, 3\n" in printed(plan(digits, SIM, array=(6, 3), packing=True))
    layer = convolution("c", "x", (2, 2, 2), channels_in=4)
    table = network((2, 2, 4), replace(layer, weights=np.full((2, 1, 1, 4), -128, np.int8)))
    planned = plan(table, SIM, array=(4, 2), packing=True)
    assert "\nmultipliers cannot be shared: weights of -128 would meet in c\n" in printed(planned)


def test_the_candidates_and_the_choice(digits):
    """Each array that was looked at, as a plan of its own says; one of them is chosen, and it is said why."""
    chosen = plan(digits, ULX3S, packing=None)
    report = chosen.report()
    assert report["candidates"] == [vars(candidate) for candidate in chosen.candidates]
    (taken,) = (candidate for candidate in chosen.candidates if candidate.chosen)
    assert (taken.k, taken.n, taken.cycles) == (chosen.config.array_rows, chosen.config.lanes, chosen.cycles)
    assert len({(c.k, c.n, c.packing, c.pixels) for c in chosen.candidates}) == len(chosen.candidates) > 24
    enough = [c for c in chosen.candidates if c.fits and c.latency_us <= FAST_ENOUGH_US]
    why = f"the smallest of the {len(enough)} that fit and take at most 20 us"
    assert re.fullmatch(why + r"; \d+ more are slower, for their sums alone take longer", chosen.reason)
    assert taken.resources["lut"] == min(c.resources["lut"] for c in enough)
    for candidate in (chosen.candidates[3], chosen.candidates[-1]):
        other = plan(digits, SIM, array=(candidate.k, candidate.n), packing=candidate.packing, pixels=candidate.pixels)
        assert (other.cycles, other.resources) == (candidate.cycles, candidate.resources)
    lines = [" ".join(line.split()) for line in printed(chosen).splitlines()]
    rows = [line for line in lines if line.endswith(" chosen")]
    assert rows and rows[0].startswith(f"{taken.k}x{taken.n} {1 + taken.packing} {taken.pixels} {taken.cycles:,} ")
    assert f"chosen: {chosen.reason}" in lines


def test_candidates_that_do_not_fit(digits):
    chosen = plan(digits, small("ulx3s", lut=20_000), packing=None)
    assert chosen.fits
    large = [candidate for candidate in chosen.candidates if not candidate.fits]
    assert large and all(c.binding == "lut" and c.resources["lut"] > 20_000 for c in large)
    lines = printed(chosen).splitlines()
    assert sum(line.rstrip().endswith("does not fit") for line in lines) == len(large)


@pytest.mark.parametrize("packing", (False, None))
@pytest.mark.parametrize("network", ("digits", "mobilenet_v1:alpha=0.25,resolution=64,classes=2"))
def test_no_array_that_is_left_out_would_be_better(network, packing):
    """Against plans of all of them."""
    table, board = lower(resolve(None if network == "digits" else network)), small("ulx3s", mult=64)
    chosen = plan(table, board, packing=packing)
    seen = {(c.k, c.n, c.packing, c.pixels) for c in chosen.candidates}
    every = {}
    for n in (2, 3, 4, 5, 6, 8, 10, 12, 16):
        for k in range(n, min(128, 18 * n) + 1, n):
            if n * k > 2 * 64:
                continue
            try:
                asked = plan(table, board, array=(k, n), packing=packing)
            except FitError:
                continue
            every |= {(c.k, c.n, c.packing, c.pixels): c for c in asked.candidates if c.fits}
    fastest = min(candidate.latency_us for candidate in every.values())
    fast = [c for c in every.values() if c.latency_us <= max(1.03 * fastest, FAST_ENOUGH_US)]
    best = min(fast, key=lambda candidate: (candidate.resources["lut"], candidate.cycles))
    config = chosen.config
    assert (best.k, best.n, best.packing, best.pixels) == (
        config.array_rows, config.lanes, config.outputs > 1, config.pixels,
    )  # fmt: skip
    assert {(c.k, c.n, c.packing, c.pixels) for c in fast} <= seen
    assert len(seen) < len(every)


def test_reasons_of_a_choice(digits):
    table = lower(mobilenet_v1(0.25, 96, classes=2, seed=None))
    assert plan(digits, ULX3S, array=(8, 4), packing=True).reason == "the array that was asked for"
    assert plan(digits, ULX3S, array=(6, 3)).reason == "the array that was asked for"
    small_array = plan(table, ULX3S, array=(4, 2), packing=None)
    assert small_array.reason == "the smallest of the 2 that fit and are within 3 % of the fastest of these"
    few = small("ulx3s", mult=100)
    assert plan(table, few, array=(16, 8), packing=None).reason == "the fastest that fits"


def test_block_rams_of_the_simulated_board_never_bind(digits):
    assert plan(digits, small(ebr=1), array=(4, 2)).binding != "ebr"
    assert plan(digits, small("ulx3s", ebr=40), array=(4, 2)).binding == "ebr"


def test_every_cycle_is_printed(digits):
    planned = plan(digits, ULX3S, array=(8, 4), packing=False)
    lines = [line.split() for line in printed(planned).splitlines()]
    (total,) = (line for line in lines if line[:1] == ["total"])
    assert int(total[1]) == planned.cycles == int(total[2]) + sum(map(int, total[4:]))
    stages = planned.report()["stages"]
    assert [stage["name"] for stage in stages] == [stage.name for stage in planned.stages]
    assert sum(stage["cycles"] for stage in stages) == planned.cycles
    for stage in stages:
        assert stage["cycles"] == sum(stage[name] for name in ("busy", *WAITS))


def printed(planned):
    """A plan as ``check`` prints it."""
    console = Console(file=io.StringIO(), width=240)
    console.print(planned.explain())
    return console.file.getvalue()


def test_an_odd_number_of_channels_shares_nothing(digits):
    packing, apart = (plan(digits, SIM, array=(6, 3), packing=packing) for packing in (True, False))
    assert packing.config == apart.config and packing.config.outputs == 1
    assert packing.contents == apart.contents and packing.cycles == apart.cycles


def signed(value, bits):
    return (value & (1 << bits) - 1) - (value >> bits - 1 & 1) * (1 << bits)


@pytest.mark.parametrize("array", [(4, 2), (8, 4), (6, 6)])
@pytest.mark.parametrize("name", ["digits", "block"])
def test_what_shared_multipliers_hold(digits, array, name):
    """Operands of 18 bits that are one weight and 2**10 times another; all else is as without sharing."""
    table = digits if name == "digits" else block(9)
    packing, apart = (plan(table, SIM, array=array, packing=packing) for packing in (True, False))
    assert (packing.config.outputs, apart.config.outputs) == (2, 1)
    assert (packing.order, packing.addresses, packing.places) == (apart.order, apart.addresses, apart.places)
    assert packing.config.residual_lanes == apart.config.residual_lanes
    assert bool(packing.config.residual_lanes) == (name == "block")
    rows, columns = packing.config.array_rows, packing.config.columns
    memories = filled_memories(packing.config)
    ours, theirs = dict(packing.contents), dict(apart.contents)
    negative = 0
    for n in range(columns):
        low, high = theirs.pop(f"weights_{2 * n}"), theirs.pop(f"weights_{2 * n + 1}")
        words = ours.pop(f"weights_{n}")
        assert len(words) == len(low) == memories[f"weights_{n}"].depth
        high += [0] * (len(low) - len(high))
        assert memories[f"weights_{n}"].width == 16 * rows and all(0 <= word < 1 << 16 * rows for word in words)
        for word, first, second in zip(words, low, high, strict=True):
            for row in range(rows):
                held = word >> 16 * row & 0xFFFF
                # The multiplier's operand: between the two bytes the sign of the first, twice.
                operand = signed((held >> 8) << 10 | (held >> 7 & 1) * 0x300 | held & 0xFF, 18)
                weights = signed(first >> 8 * row & 0xFF, 8), signed(second >> 8 * row & 0xFF, 8)
                assert operand == weights[1] * 2**10 + weights[0]
                negative += weights[0] < 0  # which the byte of the second shows
    assert negative > 20
    assert ours == theirs


@pytest.mark.parametrize(
    "weights, outputs",
    [
        # Rows of K = 4: channels 0 and 1 share a multiplier, 2 and 3 do, and rows 0 and 1, 2 and 3 are summed first.
        ([[1, 2, 3, 4], [5, 6, 7, 8], [-1, -2, -3, -4], [-127] * 4], 2),
        ([[-128, -128, 3, 4], [5, 6, 7, 8], [1] * 4, [1] * 4], 1),
        ([[1, 2, -128, -128], [5, 6, 7, 8], [1] * 4, [1] * 4], 1),
        ([[1] * 4, [1] * 4, [1, 2, -128, -128], [5, 6, 7, 8]], 1),
        ([[1, -128, -128, 4], [5, 6, 7, 8], [-128, 1, 1, -128], [1] * 4], 2),
        # The second of two channels may have any two, where the first is not negative.
        ([[1, 2, 3, 0], [-128] * 4, [0] * 4, [-128] * 4], 2),
        ([[1, 2, -3, 0], [-128] * 4, [0] * 4, [-128] * 4], 1),
        ([[1, 2, 3, 0], [-127] * 4, [0, -1, 0, 0], [0, -128, 0, 0]], 1),
        ([[-128, 2, 3, 0], [-128, 1, 1, 1], [0] * 4, [0] * 4], 1),
        # Neighbours that share nothing: channels 1 and 2.
        ([[1] * 4, [-128] * 4, [-1] * 4, [5] * 4], 2),
        # A last channel has none beside it.
        ([[1] * 4, [-127] * 4, [-128, 0, -128, 0]], 2),
        ([[1] * 4, [-127] * 4, [-128, -128, 0, 0]], 1),
    ],
)
def test_weights_that_cannot_share(weights, outputs):
    """With two of -128 that would meet in a multiplier, or in a sum of two products, nothing shares."""
    weights = np.array(weights, np.int8)
    layer = convolution("c", "x", (2, 2, len(weights)), channels_in=4)
    layer = replace(layer, weights=weights.reshape(-1, 1, 1, 4))
    planned = plan(network((2, 2, 4), layer), SIM, array=(4, 4), packing=True)
    assert planned.config.outputs == outputs
    assert planned.resources["mult"] == 16 // outputs + 2 * 4  # and four requantisers
    # One stage that cannot is enough; without packing nothing shares at all.
    first = convolution("a", "x", (2, 2, 4), channels_in=4)
    table = network((2, 2, 4), first, replace(layer, inputs=("a",)))
    assert plan(table, SIM, array=(4, 4), packing=True).config.outputs == outputs
    assert plan(table, SIM, array=(4, 4), packing=False).config.outputs == 1
    # Four more rows, all of them 0.
    assert plan(table, SIM, array=(8, 4), packing=True).config.outputs == outputs


def test_sharing_makes_room_for_larger_arrays():
    """With few multipliers, a plan that shares them is faster."""
    table = lower(mobilenet_v1(0.25, 96, classes=2, seed=None))
    board = small("ulx3s", mult=40)
    packing, apart = (plan(table, board, packing=packing) for packing in (True, False))
    assert packing.fits and packing.config.outputs == 2 and packing.resources["mult"] <= 40
    assert packing.cycles < 0.75 * apart.cycles


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


@pytest.mark.parametrize(
    "channels_out, lanes",
    [
        (4, 4),  # a window for each patch word: every cycle that fewer lanes take, the array waits
        (8, 2),  # two cycles of sums for a window, so it may come in two parts
        (12, 2),  # three, which is no number of parts of four lanes
        (16, 1),
    ],
)
def test_as_many_depthwise_lanes_as_keep_the_array_busy(channels_out, lanes):
    front = depthwise("d", "x", (6, 6, 4), padding=(1, 1, 1, 1))
    behind = convolution("c", "d", (6, 6, channels_out), channels_in=4)
    planned = plan(network((6, 6, 4), front, behind), SIM, array=(4, 4))
    assert planned.config.depthwise_lanes == lanes
    assert planned.config.requantisers == 4 + lanes
    assert plan(network((6, 6, 4), replace(behind, inputs=("x",))), SIM, array=(4, 4)).config.depthwise_lanes == 0


def test_rings_save_memory(monkeypatch):
    """The tensors within the blocks of a MobileNetV2 are never whole."""
    table = lower(mobilenet_v2(0.35, 96, classes=4, seed=None))
    with_rings = plan(table, SIM, array=(16, 8))
    monkeypatch.setattr("gen.layout.kept_rows", lambda *_: {})
    without = plan(table, SIM, array=(16, 8))
    assert with_rings.config.feature_depth < 0.6 * without.config.feature_depth
    assert all(where.kept is None for where in without.places.values())


def test_a_ring_that_saves_no_block_ram_is_none():
    """All of a small network fits one block RAM a bank, and its stages need not take turns."""
    planned = plan(block(9), SIM, array=(4, 4))
    assert "e" in kept_rows(planned.stages, results_of(planned.table))
    assert all(where.kept is None for where in planned.places.values())
    assert [at for at, _ in planned.order] == sorted(at for at, _ in planned.order)


def test_every_plan_is_checked(monkeypatch):
    """A layout that loses something is a bug, and never leaves the house."""

    def overlapping(*arguments):
        places, depth = place(*arguments)
        return places | {"e": replace(places["e"], base=places["x"].base)}, depth

    plan(block(9), SIM, array=(4, 4))
    monkeypatch.setattr("gen.layout.place", overlapping)
    with pytest.raises(GenError, match=r"^e, row 0, once it is written: reads row 0 of x, but finds row 0 of e there$"):
        plan(block(9), SIM, array=(4, 4))


def test_the_same_table_gives_the_same_verilog(digits):
    first, second = (plan(lower(resolve(None)), ULX3S, array=(4, 2)) for _ in range(2))
    assert first.verilog() == second.verilog()
    assert "\nmodule core(" in first.verilog()
    assert first.digest == second.digest != plan(digits, ULX3S, array=(8, 2)).digest
