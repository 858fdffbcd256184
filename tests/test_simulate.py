"""Whole networks in Verilator against the golden model: every value of every layer, and every cycle."""

import re
from dataclasses import fields, replace

import numpy as np
import pytest
from random_tables import mobilenet_chain, random_input, random_table
from test_order import block
from test_stages import KINDS, REFUSED, combined, convolution, depthwise, int8, network

import boards
from gen import schedule
from gen.digits import held_out
from gen.errors import GenError
from gen.importer import load_tflite
from gen.inputs import load_inputs, random_inputs
from gen.passes import lower
from gen.plan import plan
from gen.resources import estimate
from gen.simulate import input_frames, simulate
from gen.source import resolve
from hw.places import CORE_ANYWHERE
from hw.requantise import Requantiser
from sim import golden

SIM, ULX3S = boards.get("sim"), boards.get("ulx3s")

pytestmark = pytest.mark.cocotb


def random_plan(seed, array, **options):
    """A plan of a random network, and three inputs; None where the engines refuse the network."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        options["chain"] = mobilenet_chain(rng, int(rng.integers(1, 4)))
    table = lower(random_table(rng, kinds=KINDS, name=f"random_{seed}", **options))
    try:
        planned = plan(table, SIM, array=array, pixels=1)  # others need another core
    except GenError as error:
        assert any(why in str(error) for why in (*REFUSED, "that a job counts", "that the fill bus addresses")), error
        return None
    if schedule.limits(planned.stages, planned.config):
        return None
    return planned, [random_input(rng, table) for _ in range(3)]


def on_one_core(plans):
    """The same plans, for one core that is large enough for each of them; their engines have as many lanes."""
    assert len({(one.config.residual_lanes, one.config.depthwise_lanes) for one in plans}) == 1
    largest = {
        field.name: max(getattr(one.config, field.name) for one in plans)
        for field in fields(plans[0].config)
        if field.name not in ("lanes", "words", "primitives", "hard_lanes", "hard_columns")
    }
    for name in ("weight_depths", "window_bits", "depthwise_window_bits"):
        largest[name] = tuple(map(max, zip(*(getattr(one.config, name) for one in plans), strict=True)))
    largest["packed_channels"] = tuple(sorted({n for one in plans for n in one.config.packed_channels}))
    config = plans[0].config
    hard = largest["multiplier_bits"] <= Requantiser.hard_multiplier_bits
    hard_lanes, hard_columns = config.depthwise_lanes * hard, tuple(range(config.lanes * hard))
    config = replace(config, **largest, hard_lanes=hard_lanes, hard_columns=hard_columns)
    return [on_core(one, config) for one in plans]


def on_core(one, config):
    """The plan ``one`` for a core of dimensions ``config``."""
    return replace(one, config=config, places_on_die=CORE_ANYWHERE, resources=estimate(config))


def assert_right(report, inferences):
    assert report["bit_exact"], report["difference"]
    assert "difference" not in report
    assert report["cycles_measured"] == report["cycles"]
    assert report["inferences"] == inferences


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Simulate random networks on one core, three inputs each, every second one with stalls; how many there were.

    All of them have engines of so many depthwise and residual lanes, whether they suit them or not.
    """

    def run(seeds, array, depthwise_lanes, residual_lanes):
        lanes = dict(depthwise_lanes=depthwise_lanes, residual_lanes=residual_lanes)
        monkeypatch.setattr("gen.plan._with_lanes", lambda _, array: replace(array, **lanes))
        made = {seed: random_plan(seed, array) for seed in seeds}
        made = {seed: pair for seed, pair in made.items() if pair is not None}
        plans = on_one_core([planned for planned, _ in made.values()])
        for planned, (seed, (_, inputs)) in zip(plans, made.items(), strict=True):
            stall = 0.0 if seed % 2 else 0.2
            report = simulate(plans[0], inputs, directory=tmp_path, load=planned, stall=stall, seed=seed)
            assert_right(report, 3)
        return len(made)

    return run


@pytest.mark.parametrize(
    "array, depthwise_lanes, residual_lanes, first", [((8, 4), 2, 4, 0), ((9, 3), 3, 1, 1000), ((8, 4), 1, 2, 1100)]
)
def test_random_networks(sweep, array, depthwise_lanes, residual_lanes, first):
    assert sweep(range(first, first + 10), array, depthwise_lanes, residual_lanes) >= 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "array, depthwise_lanes, residual_lanes, first",
    [
        ((1, 1), 1, 1, 2000), ((2, 2), 1, 2, 3000), ((8, 2), 2, 1, 4000), ((12, 3), 1, 3, 5000), ((4, 4), 2, 2, 6000),
        ((5, 5), 5, 1, 7000), ((24, 6), 3, 2, 8000), ((8, 8), 4, 8, 9000), ((32, 4), 4, 1, 10000),
    ],
)  # fmt: skip
def test_many_random_networks(sweep, array, depthwise_lanes, residual_lanes, first):
    assert sweep(range(first, first + 60), array, depthwise_lanes, residual_lanes) >= 40


@pytest.fixture(scope="module")
def digits():
    """The built-in network on a small array, and where it is compiled."""
    return plan(lower(resolve(None)), SIM, array=(4, 2))


@pytest.fixture(scope="module")
def scans(digits):
    return [{name: scan for name in digits.table.inputs} for scan in held_out()[0][:5]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module")
def altered(digits):
    """Digits with every layer's output channels the other way round, on one core with digits: (digits, altered)."""

    def turned(layer):
        if layer.weights is None:
            return layer
        axis = -1 if layer.operator == "depthwise_conv2d" else 0
        scales = layer.weight_scales[::-1].copy()
        return replace(layer, weights=np.flip(layer.weights, axis), bias=layer.bias[::-1].copy(), weight_scales=scales)

    table = digits.table.with_layers(turned(layer) for layer in digits.table.layers)
    return on_one_core([digits, plan(table, SIM, array=(4, 2))])


def test_new_weights_need_no_new_core(altered, scans, directory):
    """Another network of the same dimensions comes through the host port, and the core computes that one."""
    first, second = altered
    assert first.contents != second.contents
    assert_right(simulate(first, scans, directory=directory), 5)
    own = np.load(directory / "output.npy")
    assert_right(simulate(first, scans, directory=directory, load=second), 5)
    other = np.load(directory / "output.npy")
    for outputs, planned in ((own, first), (other, second)):
        (name,) = planned.table.outputs
        assert np.array_equal(outputs, [golden.run(planned.table, scan)[name] for scan in scans])
    assert not np.array_equal(own, other)


@pytest.mark.parametrize("stall", (0.0, 0.3, 0.9))
def test_host_stalls_cost_no_cycles(altered, scans, directory, stall):
    report = simulate(altered[0], scans[:2], directory=directory, stall=stall, seed=7)
    assert_right(report, 2)
    loaded = sum(map(len, input_frames(altered[0], scans[0])))
    assert report["host_load_us"] == pytest.approx(loaded * 10 / SIM.baud * 1e6)


def test_the_core_that_was_simulated_is_there(altered, scans, directory):
    simulate(altered[0], scans[:1], directory=directory)
    assert (directory / "core.v").read_text() == altered[0].verilog()


@pytest.fixture(scope="module")
def pair():
    """A depthwise separable pair, alone."""
    front = depthwise("front", "x", (4, 4, 3), padding=(1, 1, 1, 1))
    table = network((4, 4, 3), front, convolution("point", "front", (4, 4, 5), channels_in=3))
    return plan(table, SIM, array=(2, 2))


def broken(planned, directory, module, old, new):
    """The core's Verilog with the first ``old`` of a module replaced by ``new``, as a file."""
    head, begin, text = planned.verilog().partition(f"\nmodule {module}")
    assert old in text[: text.index("\nendmodule")]
    path = directory / "broken.v"
    path.write_text(head + begin + text.replace(old, new, 1))
    return path


def test_a_wrong_operator_is_found(pair, tmp_path):
    """One adder that subtracts: the report names the first wrong value, and what it should have been."""
    rtl = broken(pair, tmp_path, r"\core.depthwise.lane_0", "$signed(base) + ", "$signed(base) - ")
    inputs = random_inputs(pair.table, 2)
    report = simulate(pair, inputs, directory=tmp_path / "out", rtl=rtl)
    assert not report["bit_exact"]
    match = re.fullmatch(
        r"input 0, front: row (\d+), column (\d+), channel (\d+): expected (-?\d+), got (-?\d+) "
        r"\((\d+) of (\d+) values differ\)",
        report["difference"],
    )
    assert match, report["difference"]
    values = golden.run(pair.table, inputs[0])["front"]
    y, x, c, expected, got, wrong, all_of_them = map(int, match.groups())
    assert values[y, x, c] == expected != got
    assert 1 <= wrong <= all_of_them == values.size


def test_a_core_that_hangs_is_stopped(pair, tmp_path):
    rtl = broken(pair, tmp_path, "core", ".finished(finished)", ".finished(1'h0)")
    told = rf"(?s)the simulation of .*broken.v failed; its log is .*nothing for {4 * pair.cycles + 10_000} cycles"
    with pytest.raises(GenError, match=told):
        simulate(pair, random_inputs(pair.table, 1), directory=tmp_path / "out", rtl=rtl)
    assert not (tmp_path / "out" / "output.npy").exists()


def test_text_that_is_no_verilog(pair, tmp_path):
    (tmp_path / "text.v").write_text("module core(;")
    with pytest.raises(GenError, match=r"(?s)the simulation of .*text.v failed; its log is .*verilator.log"):
        simulate(pair, random_inputs(pair.table, 1), directory=tmp_path / "out", rtl=tmp_path / "text.v")


def test_several_inputs_and_outputs(tmp_path):
    """Two inputs, two outputs behind host operators, a flat input that the host reshapes."""
    same = {"channels_in": 3, "kernel": (3, 3), "padding": (1, 1, 1, 1)}
    shaped = replace(
        convolution("r", "y", (1, 1, 1), channels_in=1), operator="reshape", output=int8(4, 4, 3), weights=None
    )
    a, b = convolution("a", "x", (4, 4, 3), **same), convolution("b", "r", (4, 4, 2), **same)
    flat = replace(shaped, name="f", inputs=("b",), output=int8(32))
    table = network((), shaped, a, b, flat, outputs=("a", "f", "r"), inputs={"x": int8(4, 4, 3), "y": int8(48)})
    inputs = random_inputs(table, 2)
    assert_right(simulate(plan(table, SIM, array=(2, 2)), inputs, directory=tmp_path), 2)
    for number, name in enumerate(table.outputs):
        expected = [golden.run(table, values)[name] for values in inputs]
        assert np.array_equal(np.load(tmp_path / f"output_{number}.npy"), expected)


def test_a_block_with_a_ring_and_a_sum(tmp_path, every_ring):
    """The wide tensor is never whole, its sums wait for the adder, and every word of both is compared."""
    planned = plan(block(9), SIM, array=(4, 4))
    assert planned.places["e"].kept == 6 and planned.stages[-1].residual == "x"
    assert_right(simulate(planned, random_inputs(planned.table, 3), directory=tmp_path), 3)


def test_a_wrong_sum_is_found(tmp_path):
    first = convolution("a", "x", (4, 4, 3), channels_in=3)
    planned = plan(network((4, 4, 3), first, combined("s", "a", "x", (4, 4, 3))), SIM, array=(2, 2))
    (adder,) = re.findall(r"\nmodule (\S+residual\S*\.output_0) \(", planned.verilog())
    rtl = broken(planned, tmp_path, adder, "x <= total;", "x <= ~total;")
    report = simulate(planned, random_inputs(planned.table, 1), directory=tmp_path / "out", rtl=rtl)
    assert report["difference"].startswith("input 0, s: row 0, column ")


def test_visual_wake_words(models_dir, inputs_dir, tmp_path):
    """A published MobileNet, whole, on a real image."""
    planned = plan(lower(load_tflite(models_dir / "vww_96_int8.tflite")), ULX3S)
    inputs = load_inputs(planned.table, [inputs_dir / "vww_96_int8__yes_0.npy"])
    report = simulate(planned, inputs, directory=tmp_path)
    assert_right(report, 1)
    assert report["cycles"] <= 72_000
    assert report["macs"] == planned.table.macs
    scores = np.load(tmp_path / "output.npy")
    assert scores[0].argmax() == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["person_detect", "kws_ref_model", "ad01_int8", "micro_speech_quantized"])
def test_published_models(models_dir, inputs_dir, tmp_path, model):
    planned = plan(lower(load_tflite(models_dir / f"{model}.tflite")), SIM)
    paths = sorted(inputs_dir.glob(f"{model}__*.npy"))[:2]
    inputs = load_inputs(planned.table, paths) or random_inputs(planned.table, 2)
    assert_right(simulate(planned, inputs, directory=tmp_path), len(inputs))
