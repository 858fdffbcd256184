# amaranth: UnusedElaboratable=no

"""Requantiser and activation, against the kernels' arithmetic on unbounded integers."""

import random

import pytest
from ports import corners, drive, packed, unpacked

from hw.requantise import Activation, Requantiser

WINDOWS = range(4, 33, 2)


def high_multiply(a, b):
    """gemmlowp's SaturatingRoundingDoublingHighMul, as its C++ goes; nothing saturates, for ``b`` is not negative."""
    product = a * b
    nudged = product + (1 << 30 if product >= 0 else 1 - (1 << 30))
    return nudged // (1 << 31) if nudged >= 0 else -(-nudged // (1 << 31))


def divide_by_power_of_two(x, exponent):
    """gemmlowp's RoundingDivideByPOT, as its C++ goes."""
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + ((x & mask) > threshold)


def rescale(x, multiplier, shift):
    """TFLite's MultiplyByQuantizedMultiplier, double rounding."""
    return divide_by_power_of_two(high_multiply(x << max(shift, 0), multiplier), max(-shift, 0))


def clip(value, least, most):
    return min(max(value, least), most)


def results(cases, *, window_bits, hard, windows=(), accumulator_bits=32, bias_bits=32, multiplier_bits=33, seed=0,
            **narrowing):  # fmt: skip
    """What the requantiser makes of (sum, multiplier, shift), a case a cycle, shifts to the left folded."""
    rng = random.Random(seed)
    dut = Requantiser(
        accumulator_bits=accumulator_bits, bias_bits=bias_bits, window_bits=window_bits,
        windows=windows, multiplier_bits=multiplier_bits, hard=hard, primitives="portable", **narrowing,
    )  # fmt: skip
    latency, delay = dut.latency(window_bits, *windows), dut.scale_delay
    low, high = -(1 << accumulator_bits - 1), (1 << accumulator_bits - 1) - 1
    bias_low, bias_high = -(1 << bias_bits - 1), (1 << bias_bits - 1) - 1
    accs = [rng.randint(max(low, total - bias_high), min(high, total - bias_low)) for total, _, _ in cases]
    biases = [total - acc for (total, _, _), acc in zip(cases, accs, strict=True)]

    def noise(count, bits):
        return [rng.getrandbits(bits) for _ in range(count)]

    # Around every value that belongs to a case lie others that do not.
    seen = drive(
        dut,
        {
            "acc": accs + noise(latency, accumulator_bits - 1),
            "bias": biases + noise(latency, bias_bits - 1),
            "multiplier": noise(delay, 31) + [m << max(shift, 0) for _, m, shift in cases] + noise(latency - delay, 31),
            "shift": noise(delay, 5) + [max(-shift, 0) for _, _, shift in cases] + noise(latency - delay, 5),
        },
        ["o"],
    )
    return seen["o"][latency:]


def check(cases, *, window_bits, point=31, output_bits=11, **widths):
    """``point`` is TFLite's 31 less the zeros behind each sum; one of the output's bits is for rounding."""
    least, most = -(1 << window_bits - 1), (1 << window_bits - 1) - 1
    half = 1 << output_bits - 2
    expected = [
        clip(rescale(clip(total, least, most) << 31 - point, m, shift), -half, half) for total, m, shift in cases
    ]
    for hard in (False, True):
        got = results(cases, window_bits=window_bits, hard=hard, point=point, output_bits=output_bits, **widths)
        wrong = [(case, e, g) for case, e, g in zip(cases, expected, got, strict=True) if e != g]
        assert not wrong, f"{hard=}: {len(wrong)} of {len(cases)}, first (case, expected, got): {wrong[:3]}"
    return expected


def test_reference_follows_the_closed_form():
    rng = random.Random(1)
    for _ in range(20_000):
        x, m = rng.randint(-(2**31), 2**31 - 1) >> rng.randrange(31), rng.randint(0, 2**31 - 1)
        e = rng.randrange(32)
        t = (x * m + 2**30) >> 31
        assert rescale(x, m, -e) == ((t + (1 << e - 1) - (t < 0)) >> e if e else t)


@pytest.mark.parametrize("window_bits", WINDOWS)
def test_windows(window_bits):
    """Every width of the window, up to its ends and beyond them, with shifts that keep results in range."""
    rng = random.Random(window_bits)
    values = corners(window_bits) + [1 << window_bits - 1, -(1 << window_bits - 1) - 1, *corners(33)]
    values = [value for value in values if -(2**32) <= value <= 2**32 - 2]
    cases = []
    for total in values:
        for m in (0, 1 << 30, (1 << 31) - 1, rng.getrandbits(31)):
            cases.append((total, m, rng.choice((rng.randint(-31, 2), min(8 - window_bits, 2)))))
    for _ in range(150):
        total = rng.randint(-(1 << window_bits), (1 << window_bits) - 1)
        cases.append((total, rng.randint(1 << 30, (1 << 31) - 1), clip(8 - window_bits + rng.randint(-3, 3), -31, 2)))
    expected = check(cases, window_bits=window_bits)
    assert len(set(expected)) > 2


def test_results_that_come_together():
    """One with a small window among others with large ones is as late as they are."""
    assert Requantiser.latency(8) < Requantiser.latency(32) == Requantiser.latency(8, 32, 18)
    rng = random.Random(30)
    cases = [(rng.randint(-200, 200), rng.randint(1 << 30, (1 << 31) - 1), rng.randint(-3, 3)) for _ in range(100)]
    assert len(set(check(cases, window_bits=8, windows=(8, 32, 18), multiplier_bits=34))) > 50


def test_shifts():
    """Every shift, with results on both sides of 0, at ties, one off, and saturated both ways."""
    rng = random.Random(100)
    cases = []
    for shift in range(-31, 3):
        cases += shift_cases(shift, rng)
    check(cases, window_bits=32)


def shift_cases(shift, rng):
    cases = []
    for result in (-513, -512, -300, -2, -1, 0, 1, 2, 300, 511, 512, 513):
        # 2 x with multiplier 2**30 comes to x before the right shift: exact ties of the second rounding.
        t = (2 * result + 1 << max(-shift, 0)) >> 1
        for near in (2 * t - 2, 2 * t - 1, 2 * t, 2 * t + 1, 2 * t + 2):
            cases.append((near >> max(shift, 0), 1 << 30, shift))
            cases.append((near >> max(shift, 0), rng.randint(1 << 30, (1 << 31) - 1), shift))
    cases = [case for case in cases if -(2**31) <= case[0] << max(shift, 0) < 2**31]
    return cases + [(end >> max(shift, 0), (1 << 31) - 1, shift) for end in (-(2**31), 2**31 - 1)]


def test_ties_of_the_first_rounding():
    """Halves at bit 31, of both signs, with and without a second rounding behind them."""
    cases = []
    for e in (0, 1, 2, 5):
        for x in range(-40, 41):
            cases += [(x, 1 << 30, -e), (x, 3 << 29, -e), (x, 5 << 28, -e), (x, 1 << 29, -e)]
    expected = check(cases, window_bits=8)
    assert check([(-1, 1 << 30, 0), (1, 1 << 30, 0), (-3, 1 << 30, -1)], window_bits=8) == [0, 1, -1]
    assert min(expected) < 0 < max(expected)


def test_random_cases():
    """Sums, multipliers and shifts of real layers: 20 bits of window, 24 of accumulator."""
    rng = random.Random(2)
    cases = []
    for _ in range(1500):
        total = rng.randint(-(2**24), 2**24) >> rng.randrange(20)
        cases.append((total, rng.randint(2**30, 2**31 - 1), -rng.randint(5, 14)))
    check(cases, window_bits=20, accumulator_bits=24, bias_bits=25, multiplier_bits=31)


def test_narrow_accumulator_and_wide_bias():
    """A sum that fits the window needs no saturation; a bias may be wider than the accumulator."""
    check([(x, (1 << 31) - 1, -1) for x in range(-127, 127)], window_bits=16, accumulator_bits=6, bias_bits=8)


@pytest.mark.parametrize("point, output_bits", [(11, 29), (31, 29), (20, 16), (11, 11)])
def test_points_and_widths(point, output_bits):
    """Sums that stand for multiples of a power of two, as the residual adder's do, and results wider than a byte."""
    rng = random.Random(point * output_bits)
    cases = []
    for total in [*corners(10), *range(-255, 256, 17), *range(-5, 6)]:
        for shift in (0, 0, -1, -2, -3, -7, -20, -31):
            for m in (1 << 30, (1 << 31) - 1, rng.randint(1 << 30, (1 << 31) - 1)):
                cases.append((total, m, shift))
    # Ties of both roundings: a half at the point, and at the shift.
    for odd in range(-9, 10, 2):
        for shift in (0, -1, -4):
            cases += [(odd, 1 << point - 1, shift), (odd, 1 << min(point - shift - 1, 30), shift)]
    expected = check(cases, window_bits=10, point=point, output_bits=output_bits, accumulator_bits=8, bias_bits=10)
    half = 1 << output_bits - 2
    assert -half <= min(expected) < 0 < max(expected) <= half
    if (point, output_bits) in ((11, 11), (20, 16)):
        assert {-half, half} < set(expected)


def test_latency():
    assert [Requantiser.latency(bits) for bits in (4, 8, 20, 32)] == [11, 11, 11, 12]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"window_bits": 2}, "window_bits must be even and in 4..32, not 2"),
        ({"window_bits": 34}, "window_bits must be even and in 4..32, not 34"),
        ({"window_bits": 19}, "window_bits must be even and in 4..32, not 19"),
        ({"multiplier_bits": 30}, "multiplier_bits must be at least 31, not 30"),
        ({"multiplier_bits": 35, "hard": True}, "multiplier_bits must be at most 34, not 35"),
        ({"primitives": "vendor"}, "primitives must be one of portable, ecp5, not 'vendor'"),
    ],
)
def test_requantiser_refuses(change, message):
    parameters = {
        "accumulator_bits": 24,
        "bias_bits": 24,
        "window_bits": 20,
        "multiplier_bits": 31,
        "hard": False,
        "primitives": "portable",
    }
    with pytest.raises(ValueError) as caught:
        Requantiser(**parameters | change)
    assert str(caught.value) == message


def test_activation():
    """Zero point and both clamp ends, with bounds that change every cycle."""
    rng = random.Random(3)
    lanes = 3
    edges = [-512, -511, -256, -129, -128, -127, -1, 0, 1, 127, 128, 256, 511, 512]
    cases = []
    for n in range(1500):
        zero_point = rng.choice((-128, 127, 0, rng.randint(-128, 127)))
        lo, hi = sorted((rng.randint(-128, 127), rng.randint(-128, 127)))
        if n % 3 == 0:
            lo, hi = -128, 127
        near = [lo - zero_point, hi - zero_point]
        values = [rng.choice((rng.choice(edges), rng.randint(-512, 512), rng.choice(near) + rng.randint(-1, 1)))
                  for _ in range(lanes)]  # fmt: skip
        cases.append((values, zero_point, lo, hi))
    dut = Activation(lanes=lanes)
    seen = drive(
        dut,
        {
            "i": [0] + [packed(values, 11) for values, *_ in cases] + [0] * dut.latency,
            "bounds": [packed(bounds, 8) for _, *bounds in cases] + [0] * (dut.latency + 1),
        },
        ["o"],
    )
    expected = [[clip(value + zero_point, lo, hi) for value in values] for values, zero_point, lo, hi in cases]
    assert [unpacked(word, 8, lanes) for word in seen["o"][dut.latency + 1 :]] == expected
