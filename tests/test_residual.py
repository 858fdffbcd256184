# amaranth: UnusedElaboratable=no

"""Residual adder, against the kernels' arithmetic on unbounded integers."""

import random

import pytest
from ports import drive, packed, small_config, unpacked
from test_requantise import clip, rescale

from hw.residual import ResidualAdder, residual_memories


def parameters(rng):
    """Random zero points, multipliers, shifts and bounds, as plausible scales make them."""
    scaled = [(rng.randint(1 << 30, (1 << 31) - 1), -rng.choice((1, 1, 2, 3, 7))) for _ in range(2)]
    scaled[rng.randrange(2)] = 1 << 30, 0  # the operand with the greater scale is exactly halved
    lo, hi = sorted((rng.randint(-128, 127), rng.randint(-128, 127)))
    if rng.random() < 0.7:
        lo, hi = -128, 127
    return {
        "zeros": [rng.choice((-128, 127, 0, rng.randint(-128, 127))) for _ in range(2)],
        "scaled": scaled,
        "output": (rng.randint(1 << 30, (1 << 31) - 1), -rng.randint(17, 21)),
        "subtract": rng.random() < 0.3,
        "bounds": (rng.randint(-128, 127), lo, hi),
    }


def memory_words(which):
    """Words of the parameters' memories, word 0 unused, from their documented fields."""
    words = {
        "residual_zero_points": [0], "residual_input_scales": [0], "residual_output_scale": [0], "residual_bounds": [0]
    }  # fmt: skip
    for p in which:
        scales = [m | -shift << 31 for m, shift in (*p["scaled"], p["output"])]
        words["residual_zero_points"].append(packed([-z for z in p["zeros"]], 9) | p["subtract"] << 18)
        words["residual_input_scales"].append(scales[0] | scales[1] << 36)
        words["residual_output_scale"].append(scales[2])
        words["residual_bounds"].append(packed(p["bounds"], 8))
    return words


def added(p, x1, x2):
    """TFLite's ADD or SUB of two int8 values."""
    a, b = (rescale((x - z) << 20, *scale) for x, z, scale in zip((x1, x2), p["zeros"], p["scaled"], strict=True))
    zero_point, lo, hi = p["bounds"]
    return clip(rescale(a - b if p["subtract"] else a + b, *p["output"]) + zero_point, lo, hi)


@pytest.mark.parametrize("lanes, residual_lanes", [(1, 1), (4, 1), (4, 2), (4, 4), (3, 1), (6, 3)])
def test_adds_and_passes(lanes, residual_lanes):
    """Words that are added, as close as may be, amid words that are not; parameters change from word to word."""
    rng = random.Random(lanes * 10 + residual_lanes)
    config = small_config(
        lanes=lanes, residual_lanes=residual_lanes, residual_scale_depth=5, residual_window_bits=30, patch_depth=16
    )
    which = [parameters(rng) for _ in range(4)]
    dut = ResidualAdder(
        config, select=dict.fromkeys(residual_memories(config), 0), init=memory_words(which), passed_bits=5
    )
    latency, cycles = dut.latency(config), 900
    names = ("i", "valid", "scale", "passed", "residual", "residual_valid")
    ports = {name: [] for name in names}
    expected, free, waiting = [], 0, []
    for cycle in range(cycles):
        words = [[rng.choice((-128, 127, rng.randint(-128, 127))) for _ in range(lanes)] for _ in range(2)]
        arrives = len(waiting) < 20 and rng.random() < 0.5
        if arrives:
            waiting.append((cycle, words[1]))
        valid = rng.random() < 0.7
        # A residual word is there once written and read again.
        add = valid and cycle >= free and waiting and cycle - waiting[0][0] > 2 and rng.random() < 0.6
        number = rng.randint(1, 4) if add else 0
        result, passed = words[0], rng.getrandbits(5)
        if add:
            free = cycle + config.residual_beats
            result = [added(which[number - 1], a, b) for a, b in zip(words[0], waiting.pop(0)[1], strict=True)]
        expected.append((result, passed, bool(add)))
        row = (packed(words[0], 8), valid, number if valid else rng.randint(0, 4), passed, packed(words[1], 8), arrives)
        for name, value in zip(names, row, strict=True):
            ports[name].append(value)
    seen = drive(dut, {name: values + [0] * latency for name, values in ports.items()}, ["o", "passed_out", "added"])
    got = [
        (unpacked(word, 8, lanes), passed, bool(flag))
        for word, passed, flag in zip(*(seen[name][latency:] for name in ("o", "passed_out", "added")), strict=True)
    ]
    wrong = [(n, e, g) for n, (e, g) in enumerate(zip(expected, got, strict=True)) if e != g]
    assert not wrong, f"{len(wrong)} of {cycles}, first (cycle, expected, got): {wrong[:2]}"
    assert sum(flag for *_, flag in expected) > 60
