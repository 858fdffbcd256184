"""Random networks in Verilator: every value of every layer, and every cycle, on cores of many dimensions.

GEN_RANDOM_NETWORKS says how many. A campaign of hundreds:

    GEN_RANDOM_NETWORKS=400 pytest -m slow tests/test_random_networks.py
"""

import os
from dataclasses import replace

import numpy as np
import pytest
from drawn_tables import described, tables
from hypothesis import HealthCheck, Phase, assume, event, given, note, seed, settings
from hypothesis import strategies as st
from random_tables import random_input
from test_simulate import on_core

import boards
from gen.errors import GenError
from gen.passes import lower
from gen.plan import plan
from gen.simulate import simulate
from gen.table_file import save
from gen.table_print import describe
from gen.whereabouts import whereabouts

SIM = boards.get("sim")

#: How many networks are simulated. Compiling a core takes as long as ten of them.
EXAMPLES = int(os.environ.get("GEN_RANDOM_NETWORKS", "25"))

MULTIPLIERS = SIM.resources["mult"]

#: Arrays (N, words), in an order that soon has had small and large, odd and even ones, and patch words as long as a
#: window's taps or two windows'. The largest share multipliers, which those of an odd N cannot.
ARRAYS = [
    (int(n) + 1, int(words) + 1)
    for n, words in np.random.default_rng(5).permutation(list(np.ndindex(8, 4)))
    if (n + 1) ** 2 * (words + 1) <= MULTIPLIERS * (1 + n % 2)
]
ARRAYS[2:2], ARRAYS[5:5] = [(2, 18)], [(4, 9), (3, 9)]

#: What a core must have at least to take most of the networks; a network that needs more is left out.
ROOM = {
    "accumulator_bits": 32, "depthwise_accumulator_bits": 28, "bias_bits": 33, "multiplier_bits": 33,
    "feature_depth": 1024, "patch_depth": 2048,
    "scale_depth": 256, "coefficient_depth": 1024, "depthwise_scale_depth": 256,
    "window_program_depth": 1024, "array_program_depth": 512, "max_pool": True, "gathered_taps": 9,
    "residual_scale_depth": 16, "residual_window_bits": 32,
}  # fmt: skip

#: Networks that take longer are left out.
MOST_CYCLES = 20_000

RUN = settings(
    deadline=None,
    database=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


def planned(table, array, *, folding, packing, pixels):
    """The plan for ``table``; where the engines refuse it, the example counts for nothing."""
    lanes, words = array
    try:
        return plan(lower(table, folding=folding), SIM, array=(lanes * words, lanes), packing=packing, pixels=pixels)
    except GenError as error:
        event(f"refused: {str(error).split(': ')[-1][:40]}")
        assert str(error).startswith(table.name), error
        assume(False)


@settings(RUN, max_examples=300, derandomize=True)
@given(tables(), st.sampled_from(ARRAYS), st.booleans(), st.booleans(), st.sampled_from((None, 1, 2)))
def test_plans(table, array, folding, packing, pixels):
    """All tables can be planned or are refused by name, and a plan is the same whenever it is made."""
    note(described(table))
    first, second = (planned(table, array, folding=folding, packing=packing, pixels=pixels) for _ in range(2))
    assert first.report() == second.report()
    assert first.contents == second.contents
    assert (first.config, first.digest, first.order) == (second.config, second.digest, second.order)
    where = whereabouts(table, first.table, array[0])
    assert where.feature_bytes == first.report()["feature_bytes"]
    assert describe(where)["problems"] == []


def with_room(one, pixels):
    """A plan like ``one`` whose core is large enough for most other networks, too, and makes ``pixels`` at a time."""
    lanes = range(one.config.lanes)
    depthwise_lanes = one.config.depthwise_lanes
    engines = dict(
        hard_lanes=depthwise_lanes // 2, hard_columns=tuple(lanes[::2]),
        window_bits=(32,) * len(lanes) * pixels, depthwise_window_bits=(32,) * depthwise_lanes,
    )  # fmt: skip
    weights = dict(weight_depths=(4096,) * one.config.columns)
    packed = dict(packed_channels=tuple(range(1, one.config.narrow_channels + 1)))
    return on_core(one, replace(one.config, pixels=pixels, **ROOM, **engines, **weights, **packed))


def fits(one, room):
    """Whether a core of dimensions ``room`` can run the plan ``one``."""
    small = [name for name in (*ROOM, "weight_depth") if getattr(room, name) < getattr(one.config, name)]
    event("fits" if not small else f"too large: {', '.join(small)}")
    return not small


def assert_right(report):
    assert report["bit_exact"], report["difference"]
    assert report["cycles_measured"] == report["cycles"]
    assert report["inferences"] == 2


def check(table, one, core, folder, inputs, stall):
    """Simulate two inputs on ``core``; a network that fails is left in its folder."""
    note(described(table))
    config = core.config
    note(f"array {config.array_rows}x{config.lanes}, {config.outputs} outputs, {config.pixels} pixels, {inputs=}")
    note(f"{stall=}")
    rng = np.random.default_rng(inputs)
    drawn = [random_input(rng, table) for _ in range(2)]
    try:
        assert_right(simulate(core, drawn, directory=folder, load=one, stall=stall, seed=inputs))
    except BaseException:
        save(one.table, folder / "failed.toml")
        raise


#: What may differ besides table and array: the plan, and the host.
CHOICES = dict(
    folding=st.booleans(), inputs=st.integers(0, 2**32 - 1), stall=st.sampled_from((0.0, 0.2, 0.7))
)  # fmt: skip

#: How many cores are compiled for them all.
CORES = min(len(ARRAYS), max(3, EXAMPLES // 10))


@pytest.mark.slow
@pytest.mark.cocotb
@pytest.mark.parametrize("number", range(CORES))
def test_random_networks(number, tmp_path, monkeypatch, request):
    """One core runs them one after the other, as the host loads them; on every other with all rings there can be."""
    lanes, words = ARRAYS[number]
    pixels = 2 if words % 2 == 0 and number % 3 < 2 else 1
    if number % 2:
        request.getfixturevalue("every_ring")
    packing = lanes % 2 == 0 and (number % 2 == 0 or lanes**2 * words > MULTIPLIERS)
    divisors = [n for n in range(1, lanes + 1) if lanes % n == 0]
    engines = dict(
        residual_lanes=divisors[number % len(divisors)], depthwise_lanes=divisors[-1 - number % len(divisors)]
    )
    monkeypatch.setattr("gen.plan._with_lanes", lambda _, array: replace(array, **engines))
    cores = []

    @seed(number)
    @settings(RUN, max_examples=-(-EXAMPLES // CORES))
    @given(table=tables(), **CHOICES)
    def networks(table, folding, inputs, stall):
        one = planned(table, ARRAYS[number], folding=folding, packing=packing, pixels=pixels)
        assume(one.cycles <= MOST_CYCLES and one.config.outputs == 1 + packing)
        if not cores:
            cores.append(with_room(one, pixels))
        assume(fits(one, cores[0].config))
        check(table, on_core(one, cores[0].config), cores[0], tmp_path, inputs, stall)

    networks()


@pytest.mark.slow
@pytest.mark.cocotb
def test_networks_on_cores_of_their_own(tmp_path):
    """As above, on cores that are no larger than they need be; each is compiled, so there are few."""

    @seed(100)
    @settings(RUN, max_examples=max(2, EXAMPLES // 10))
    @given(
        table=tables(),
        array=st.sampled_from([array for array in ARRAYS if array[0] <= 4]),
        packing=st.booleans(),
        pixels=st.sampled_from((None, 1, 2)),
        **CHOICES,
    )
    def networks(table, array, folding, packing, pixels, inputs, stall):
        one = planned(table, array, folding=folding, packing=packing, pixels=pixels)
        assume(one.cycles <= MOST_CYCLES)
        check(table, one, one, tmp_path, inputs, stall)

    networks()
