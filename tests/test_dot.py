# amaranth: UnusedElaboratable=no

"""Dot products against NumPy: one output channel, and two that share their multipliers."""

import numpy as np
import pytest
from ports import drive, packed, unpacked

from hw.dot import DotProduct, packable, packed_weights


def weights_of(rng, shape):
    """Random weights with many extremes, such that two channels can share multipliers."""
    first = np.where(
        rng.random(shape) < 0.3, rng.choice([-128, -127, -1, 0, 127], shape), rng.integers(-128, 128, shape)
    )
    second = np.where(
        rng.random(shape) < 0.3, rng.choice([-128, -127, -1, 0, 127], shape), rng.integers(-128, 128, shape)
    )
    pairs = first[:, : shape[1] // 2 * 2].reshape(shape[0], -1, 2)
    pairs[..., 1] = np.where((pairs == -128).all(axis=-1), -127, pairs[..., 1])
    second = np.where((second == -128) & (first < 0), -127, second)
    return first, second


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "rows, pixels",
    [(rows, pixels) for rows in (1, 2, 3, 4, 5, 6, 8, 13, 16) for pixels in (1, 2) if rows % pixels == 0],
)
def test_sums(rows, outputs, pixels):
    """Extreme and random operands, new ones every cycle; of two pixels each half of the rows, or all for the first."""
    rng = np.random.default_rng(rows * 2 + outputs)
    count = 400
    x = np.where(
        rng.random((count, rows)) < 0.4, rng.choice([-128, 127], (count, rows)), rng.integers(-128, 128, (count, rows))
    )
    first, second = weights_of(rng, (count, rows))
    assert packable(first, second)
    channels = [first, second][:outputs]
    held = [first] if outputs == 1 else packed_weights(first, second)
    dut = DotProduct(rows=rows, outputs=outputs, pixels=pixels, primitives="portable")
    latency = dut.latency(rows, outputs, pixels)
    words = [packed(np.stack([part[n] for part in held], axis=-1).reshape(-1), 8) for n in range(count)]
    ports = {"x": [packed(row, 8) for row in x] + [0] * latency, "weights": words + [0] * latency}
    joined = rng.integers(0, 2, count).tolist()
    if pixels > 1:
        ports["joined"] = [0] * (latency - 1) + joined + [0]
    seen = drive(dut, ports, ["o"])
    bits = 16 + (rows - 1).bit_length()
    got = [unpacked(word, bits, outputs * pixels) for word in seen["o"][latency:]]
    half = rows // 2
    parts = [[slice(None)], [[slice(0, half), slice(half, None)], [slice(None), slice(half, None)]]]
    expected = []
    for n, row in enumerate(x):
        shown = parts[0] if pixels == 1 else parts[1][joined[n]]
        expected.append([int(row[part] @ channel[n][part]) for part in shown for channel in channels])
    wrong = [(n, e, g) for n, (e, g) in enumerate(zip(expected, got, strict=True)) if e != g]
    assert not wrong, f"{len(wrong)} of {count}, first: {wrong[:3]}"


def test_every_pair_of_weights_and_inputs():
    """One row: all 256 inputs for weights at every corner, both channels."""
    corners = [-128, -127, -65, -64, -63, -33, -32, -31, -2, -1, 0, 1, 2, 31, 32, 63, 64, 127]
    cases = [(a, b, x) for a in corners for b in corners if not (b == -128 and a < 0) for x in range(-128, 128, 3)]
    dut = DotProduct(rows=1, outputs=2, primitives="portable")
    latency = dut.latency(1, 2)
    words = [packed(np.array(packed_weights(np.array(a), np.array(b))), 8) for a, b, _ in cases]
    seen = drive(dut, {"x": [x & 255 for *_, x in cases] + [0] * latency, "weights": words + [0] * latency}, ["o"])
    got = [tuple(unpacked(word, 16, 2)) for word in seen["o"][latency:]]
    assert got == [(a * x, b * x) for a, b, x in cases]


def test_packable():
    """What cannot share: -128 above a negative weight, and two of -128 below in a pair of rows."""
    a = np.array([[1, 2, -3, 4]])
    assert packable(a, np.array([[-128, -128, 5, -128]]))
    assert not packable(a, np.array([[1, 1, -128, 1]]))
    assert packable(np.array([[-128, 0, 0, -128]]), a) and not packable(np.array([[0, 0, -128, -128]]), np.abs(a))
    assert packable(np.array([[0, -128, -128]]), np.array([[1, 1, 1]]))


def test_latencies():
    assert [DotProduct.latency(rows, 1) for rows in (1, 2, 3, 16)] == [3, 4, 5, 7]
    assert [DotProduct.latency(rows, 2) for rows in (1, 2, 3, 16, 32)] == [6, 6, 7, 9, 10]
    assert [DotProduct.latency(rows, outputs, 2) for rows in (2, 16, 32) for outputs in (1, 2)] == [4, 7, 7, 9, 8, 10]


@pytest.mark.parametrize("outputs", [0, 3])
def test_refuses(outputs):
    with pytest.raises(ValueError) as caught:
        DotProduct(rows=2, outputs=outputs, primitives="portable")
    assert str(caught.value) == f"outputs must be 1 or 2, not {outputs}"


@pytest.mark.parametrize("rows, pixels", [(3, 2), (4, 0), (9, 3)])
def test_refuses_pixels(rows, pixels):
    with pytest.raises(ValueError) as caught:
        DotProduct(rows=rows, outputs=1, pixels=pixels, primitives="portable")
    assert str(caught.value) == f"pixels must be 1 or 2 and divide {rows} rows, not {pixels}"
