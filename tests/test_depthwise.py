"""Depthwise engine and its parts, against integer sums and the kernels' requantisation."""

import random

import numpy as np
import pytest
from amaranth import Value
from ports import drive, packed, simulate, small_config, unpacked

from hw.depthwise import DepthwiseEngine, DepthwiseLane, FabricMultiplier
from sim.golden import multiply_by_quantized_multiplier

SELECT = {"coefficients": 10, "depthwise_bias": 40, "depthwise_scale": 60}


def test_fabric_multiplier_all_products():
    dut = FabricMultiplier(primitives="portable")
    products = []

    async def bench(ctx):
        for a in range(-128, 128):
            ctx.set(dut.a, a)
            for b in range(-128, 128):
                ctx.set(dut.b, b)
                products.append(ctx.get(dut.p))
                await ctx.tick()
        for _ in range(dut.latency):
            products.append(ctx.get(dut.p))
            await ctx.tick()

    simulate(dut, bench)
    assert products[dut.latency :] == [a * b for a in range(-128, 128) for b in range(-128, 128)]


def test_lane():
    """Sums over one window or many, ends of the range included, one window a cycle without a gap."""
    rng = random.Random(1)
    windows, weights, first, expected = [], [], [], []
    for count in [1, 1, 2, 3, 1, 9, 25, 1, 1] * 8:
        total = 0
        for n in range(count):
            extreme = rng.random() < 0.4
            window, weight = (
                [rng.choice((-128, 127)) if extreme else rng.randint(-128, 127) for _ in range(9)] for _ in range(2)
            )
            if rng.random() < 0.2:
                window = weight = [-128] * 9
            total += sum(a * b for a, b in zip(window, weight, strict=True))
            windows.append(packed(window, 8))
            weights.append(packed(weight, 8))
            first.append(int(n == 0))
            expected.append(total)
    dut = DepthwiseLane(accumulator_bits=23, primitives="portable")
    tail = [0] * dut.latency
    seen = drive(dut, {"window": windows + tail, "weights": weights + tail, "first": first + tail}, ["acc"])
    assert seen["acc"][dut.latency :] == expected


def test_lane_takes_maxima():
    """Twice the greatest value under a weight, over one window or many; -256 where there is none."""
    rng = random.Random(2)
    windows, weights, first, expected = [], [], [], []
    for count in [1, 1, 2, 3, 1, 4, 9, 1, 1] * 12:
        greatest = -128
        low, high = sorted(rng.choice((-128, -100, -1, 0, 127)) for _ in range(2))
        for n in range(count):
            window = [rng.choice((low, high, rng.randint(low, high))) for _ in range(9)]
            weight = [rng.choice((2, 2, 1, -128, 0, 0)) for _ in range(9)]
            if rng.random() < 0.2:
                weight = [0] * 9
            greatest = max([greatest, *(a for a, b in zip(window, weight, strict=True) if b)])
            windows.append(packed(window, 8))
            weights.append(packed(weight, 8))
            first.append(int(n == 0))
            expected.append(2 * greatest)
    dut = DepthwiseLane(accumulator_bits=10, max_pool=True, primitives="portable")
    tail = [0] * dut.latency
    ports = {"window": windows + tail, "weights": weights + tail, "first": first + tail}
    seen = drive(dut, ports | {"maximum": [1] * (len(windows) + dut.latency)}, ["acc"])
    assert seen["acc"][dut.latency :] == expected
    assert {-256, 254} < set(expected)
    # The same lane multiplies while nobody wants maxima; sums here leave 10 bits, so they wrap.
    seen = drive(dut, ports | {"maximum": [0] * (len(windows) + dut.latency)}, ["acc"])
    products = [
        sum(a * b for a, b in zip(unpacked(x, 8, 9), unpacked(w, 8, 9), strict=True))
        for x, w in zip(windows, weights, strict=True)
    ]
    total, sums = 0, []
    for product, begins in zip(products, first, strict=True):
        total = product if begins else total + product
        sums.append(unpacked(total & 0x3FF, 10, 1)[0])
    assert seen["acc"][dut.latency :] == sums


def engine_script(config, seed, count, *, maximum=False):
    """Contents of an engine's memories, values for its ports a cycle each, and (cycle, result, end) to come."""
    rng = np.random.default_rng(seed)
    lanes, depth, scales = config.depthwise_lanes, config.coefficient_depth, config.depthwise_scale_depth
    weights = rng.integers(-128, 128, (depth, lanes, 9), np.int8)
    weights[::5] = rng.choice([-128, 127], weights[::5].shape)
    if maximum:
        weights = rng.choice([0, 2], weights.shape).astype(np.int8)
    least = 1 << config.bias_bits - 2
    bias = rng.integers(-least, least, (scales, lanes)) >> rng.integers(0, 12, (scales, lanes))
    multiplier = rng.integers(1 << 30, 1 << 31, (scales, lanes))
    shift = rng.integers(6, 13, (scales, lanes))
    if maximum:
        bias, shift = bias % 64, shift % 2
    contents = {
        "coefficients": [packed(word.reshape(-1), 8) for word in weights],
        "depthwise_bias": [packed(word, config.bias_bits) for word in bias],
        "depthwise_scale": [
            packed([int(m) | int(s) << config.multiplier_bits for m, s in zip(ms, ss, strict=True)],
                   config.multiplier_bits + 5)
            for ms, ss in zip(multiplier, shift, strict=True)
        ],
    }  # fmt: skip
    latency, lead = DepthwiseEngine.latency(config), DepthwiseEngine.lead
    cycles = count + lead + latency
    ports = {name: [0] * cycles for name in ("window", "valid", "first", "last", "ends", "coefficient", "scale")}
    zero_point, lo, hi = bounds = int(rng.integers(-40, 40)), -100, 90
    ports["bounds"] = [packed(bounds, 8)] * cycles
    ports["maximum"] = [int(maximum)] * cycles
    if config.parts > 1:
        ports["part"] = rng.integers(0, config.parts, cycles).tolist()
    expected, at, part, word = [], lead, 0, []
    half = 1 << np.array(config.depthwise_window_bits) - 1
    while at < lead + count - 9:
        sums = np.full(lanes, -256 if maximum else 0, np.int64)
        number = int(rng.choice([1, 1, 2, 4]))
        scale = int(rng.integers(scales))
        ends = int(rng.integers(4))
        for tile in range(number):
            address = int(rng.integers(depth))
            whole = rng.integers(-128, 128, (9, config.lanes), np.int8)
            window = whole[:, part * lanes :][:, :lanes]
            if rng.random() < 0.2:
                window[:] = rng.choice([-128, 127])
            if config.parts > 1:
                ports["part"][at - lead] = part
            if maximum:
                sums = np.maximum(
                    sums, 2 * np.where(weights[address].T != 0, window.astype(np.int64), -128).max(axis=0)
                )
            else:
                sums += (window.astype(np.int64) * weights[address].T).sum(axis=0)
            ports["window"][at] = packed(whole.reshape(-1), 8)
            ports["valid"][at] = 1
            ports["first"][at] = int(tile == 0)
            ports["last"][at] = int(tile == number - 1)
            ports["ends"][at] = ends * (tile == number - 1)
            ports["coefficient"][at - lead] = address
            ports["scale"][at - lead] = scale
            at += 1
        total = np.clip(sums + bias[scale], -half, half - 1)
        scaled = multiply_by_quantized_multiplier(total, multiplier[scale], -shift[scale])
        word += np.clip(np.clip(scaled, -512, 512) + zero_point, lo, hi).tolist()
        part = (part + 1) % config.parts
        if part == 0:
            expected.append((at - 1 + latency, word, ends))
            word = []
        if rng.random() < 0.3:
            # A gap between results shows nothing, whatever lies on the other wires.
            ports["last"][at] = 1
            at += 1
    return contents, ports, expected


def engine_results(seen, config):
    return [
        (cycle, unpacked(word, 8, config.lanes), ends)
        for cycle, (word, valid, ends) in enumerate(zip(seen["o"], seen["o_valid"], seen["o_ends"], strict=True))
        if valid
    ]


@pytest.mark.parametrize(
    "lanes, depthwise_lanes, seed", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (2, 1, 4), (3, 1, 5), (4, 2, 6), (8, 1, 7)]
)
def test_engine(lanes, depthwise_lanes, seed):
    """Results, each the exact latency behind its last window, back to back and with gaps, in one part or in several."""
    config = small_config(lanes=lanes, depthwise_lanes=depthwise_lanes)
    contents, ports, expected = engine_script(config, seed, 250 * config.parts)
    dut = DepthwiseEngine(config, select=SELECT, init=contents)
    seen = drive(dut, ports, ["o", "o_valid", "o_ends"])
    assert engine_results(seen, config) == expected
    values = [value for _, values, _ in expected for value in values]
    assert {-100, 90} < set(values) and len(expected) > 80


@pytest.mark.parametrize("lanes, depthwise_lanes, seed", [(1, 1, 1), (3, 3, 3), (4, 1, 4)])
def test_engine_takes_maxima(lanes, depthwise_lanes, seed):
    config = small_config(lanes=lanes, depthwise_lanes=depthwise_lanes, max_pool=True)
    contents, ports, expected = engine_script(config, seed, 250 * config.parts, maximum=True)
    dut = DepthwiseEngine(config, select=SELECT, init=contents)
    seen = drive(dut, ports, ["o", "o_valid", "o_ends"])
    assert engine_results(seen, config) == expected
    values = [value for _, values, _ in expected for value in values]
    assert {-100, 90} < set(values) and len(set(values)) > 20


def test_engine_filled_over_the_bus():
    """What the host writes into the three memories is what the engine computes with."""
    config = small_config(lanes=2)
    contents, ports, expected = engine_script(config, 5, 60)
    dut = DepthwiseEngine(config, select=SELECT, init={})
    seen = {"o": [], "o_valid": [], "o_ends": []}

    async def bench(ctx):
        for name, bits in (
            ("coefficients", 72 * config.lanes),
            ("depthwise_bias", config.bias_bits * config.lanes),
            ("depthwise_scale", (config.multiplier_bits + 5) * config.lanes),
        ):
            for address, word in enumerate(contents[name]):
                for part in range(-(-bits // 36)):
                    piece = word >> 36 * part & (1 << 36) - 1
                    fill = 1 | SELECT[name] + part << 1 | address << 11 | piece << 27
                    ctx.set(Value.cast(dut.fill), fill)
                    await ctx.tick()
        ctx.set(Value.cast(dut.fill), 0)
        await ctx.tick().repeat(3)
        for cycle in range(len(ports["valid"])):
            for name, values in ports.items():
                ctx.set(Value.cast(getattr(dut, name)), values[cycle])
            for name, values in seen.items():
                values.append(ctx.get(Value.cast(getattr(dut, name))))
            await ctx.tick()

    simulate(dut, bench)
    assert engine_results(seen, config) == expected
