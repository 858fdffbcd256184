"""Driving a component's ports open loop: a value for every input in every cycle, and what the outputs show then."""

from amaranth import ClockDomain, Module, Value
from amaranth.sim import Simulator

from hw.config import CoreConfig

__all__ = ["corners", "drive", "packed", "simulate", "small_config", "unpacked"]


def simulate(dut, *benches):
    """Run the async testbenches ``benches`` on ``dut`` to the end of all of them."""
    top = Module()
    top.domains.sync = ClockDomain()  # there even when ``dut`` has no register
    top.submodules.dut = dut
    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    for bench in benches:
        simulator.add_testbench(bench)
    simulator.run()


def drive(dut, inputs, outputs):
    """Values of the ports ``outputs`` of ``dut`` in each cycle, by name, while ``inputs`` play.

    ``inputs`` has a value a cycle for each port name; structures are integers, first field lowest.
    """
    (cycles,) = {len(values) for values in inputs.values()}
    driven = [(Value.cast(getattr(dut, name)), values) for name, values in inputs.items()]
    watched = [(Value.cast(getattr(dut, name)), []) for name in outputs]

    async def bench(ctx):
        for cycle in range(cycles):
            for port, values in driven:
                ctx.set(port, values[cycle])
            for port, values in watched:
                values.append(ctx.get(port))
            await ctx.tick()

    simulate(dut, bench)
    return {name: values for name, (_, values) in zip(outputs, watched, strict=True)}


def corners(bits):
    """Signed values of ``bits`` bits at which carries, signs and saturation turn."""
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1
    near = (least, least + 1, least // 2, -2, -1, 0, 1, 2, most // 2, most - 1, most)
    return sorted({value for value in near if least <= value <= most})


def packed(values, bits):
    """One integer of ``values``, ``bits`` bits each, the first lowest."""
    return sum((int(value) & (1 << bits) - 1) << bits * n for n, value in enumerate(values))


def unpacked(word, bits, count):
    """Inverse of :func:`packed`: ``count`` signed values."""
    half = 1 << bits - 1
    return [((word >> bits * n & 2 * half - 1) ^ half) - half for n in range(count)]


def small_config(*, weight_depth=64, **changes):
    """Dimensions of a core that simulates fast, with as many weights in each column."""
    lanes = changes.get("lanes", 2)
    depthwise_lanes = changes.get("depthwise_lanes", lanes)
    windows = [(20, 16, 18)[n % 3] for n in range(lanes)]
    dimensions = dict(
        lanes=2, words=2, depthwise_lanes=depthwise_lanes, accumulator_bits=24, depthwise_accumulator_bits=22,
        bias_bits=22, window_bits=tuple(windows * changes.get("pixels", 1)),
        depthwise_window_bits=tuple(windows[::-1][:depthwise_lanes]), multiplier_bits=33, hard_lanes=depthwise_lanes,
        hard_columns=tuple(range(0, lanes, 2)), feature_depth=256, patch_depth=16, scale_depth=32,
        coefficient_depth=64, depthwise_scale_depth=32, window_program_depth=32, array_program_depth=32,
        packed_channels=tuple(range(1, min(4, lanes) + 1)),
    )  # fmt: skip
    columns = (dimensions | changes)["lanes"] // changes.get("outputs", 1)
    return CoreConfig(**dict(weight_depths=(weight_depth,) * columns) | dimensions | changes)
