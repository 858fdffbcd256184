"""The built-in digits network: what it is made of, how well it reads, and the pictures it is shown with."""

import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from gen import digits
from gen.importer import load_tflite
from sim import golden


@pytest.fixture(scope="module")
def table():
    return load_tflite(digits.model_path())


@pytest.fixture(scope="module")
def tensors(table):
    """Every tensor of every held-out scan on the golden model, by name, the scans on axis 0."""
    (name,) = table.inputs
    runs = [golden.run(table, {name: scan}) for scan in digits.held_out()[0]]
    return {tensor: np.stack([run[tensor] for run in runs]) for tensor in runs[0]}


def test_held_out_scans_cover_all_digits():
    scans, labels = digits.held_out()
    assert scans.shape == (360, 8, 8, 1) and scans.dtype == np.int8
    assert labels.shape == (360,) and set(labels) == set(range(10))


def test_held_out_scans_are_the_last_of_the_data_set(table):
    datasets = pytest.importorskip("sklearn.datasets")
    values, labels = datasets.load_digits(return_X_y=True)
    (source,) = table.inputs.values()
    scans = np.round(values.reshape(-1, 8, 8, 1).astype(np.float32) / source.quantization.scale)
    scans, labels = scans[-360:] + source.quantization.zero_point, labels[-360:]
    assert np.array_equal(digits.held_out()[0], scans)
    assert np.array_equal(digits.held_out()[1], labels)


def test_structure(table):
    rows = [(layer.operator, layer.output.shape[-1], layer.stride[0]) for layer in table.layers]
    assert rows == [
        ("conv2d", 16, 1),
        ("depthwise_conv2d", 16, 1),
        ("conv2d", 24, 1),
        ("depthwise_conv2d", 24, 2),
        ("conv2d", 48, 1),
        ("depthwise_conv2d", 48, 1),
        ("conv2d", 48, 1),
        ("depthwise_conv2d", 48, 2),
        ("conv2d", 64, 1),
        ("average_pool2d", 64, 2),
        ("fully_connected", 10, 1),
        ("softmax", 10, 1),
    ]
    kernels = [layer.kernel for layer in table.layers if "conv" in layer.operator]
    assert kernels == [(3, 3)] + [(3, 3), (1, 1)] * 4
    # SAME padding: a 3x3 window at stride 2 on an even size pads below and to the right only.
    assert {(layer.stride, layer.padding) for layer in table.layers if layer.kernel == (3, 3)} == {
        ((1, 1), (1, 1, 1, 1)),
        ((2, 2), (0, 1, 0, 1)),
    }


def test_every_convolution_has_relu6_and_a_scale_per_channel(table):
    for layer in table.layers:
        convolution = "conv" in layer.operator
        assert layer.activation == ("relu6" if convolution else "none"), layer.name
        assert not convolution or len(set(layer.weight_scales)) > 1, layer.name


def test_fits_small_devices(table):
    assert table.parameters < 20_000
    assert table.macs < 150_000


def test_reads_97_percent_of_the_held_out_scans(table, tensors):
    right = tensors[table.outputs[0]].argmax(axis=1) == digits.held_out()[1]
    assert right.mean() >= 0.97


def test_scores_equal_the_reference_kernels(table, tensors):
    pytest.importorskip("ai_edge_litert")
    from oracle import run_reference

    model = digits.model_path().read_bytes()
    for index in range(360):
        reference = run_reference(model, [tensors[next(iter(table.inputs))][index]])
        found = [array.reshape(-1) for array in reference.values() if array.dtype == np.int8]
        for layer in table.layers:
            expected = tensors[layer.name][index].reshape(-1)
            assert any(np.array_equal(expected, array) for array in found), f"scan {index}: {layer.name}"


def test_real_digits_reach_both_clamp_ends_in_every_relu6_layer(table, tensors):
    relu6 = [layer for layer in table.layers if layer.activation == "relu6"]
    assert len(relu6) == 9
    for layer in relu6:
        lo, hi = layer.clamp
        made = tensors[layer.name]
        assert (made == lo).mean() > 0.1, layer.name
        assert (made == hi).mean() > 0.001, layer.name


def test_both_clamp_ends_cut_something_off(table, tensors):
    for layer in table.layers:
        if layer.activation != "relu6":
            continue
        sums = np.stack([golden.accumulators(table, layer, x) for x in tensors[layer.inputs[0]][::6]])
        scaled = golden.multiply_by_quantized_multiplier(sums, *golden.layer_multipliers(table, layer))
        scaled += layer.output.quantization.zero_point
        assert scaled.min() < layer.clamp[0] and scaled.max() > layer.clamp[1], layer.name


def test_the_upper_clamp_is_six(table):
    for layer in table.layers:
        if layer.activation == "relu6":
            quantization = layer.output.quantization
            assert (layer.clamp[1] - quantization.zero_point) * quantization.scale == pytest.approx(6, rel=1e-6)


def test_draw_without_colour():
    scan = np.full((8, 8), -128, np.int8)
    scan[0, 0] = scan[1, 1] = scan[2, 2] = scan[3, 2] = 127
    scores = np.full(10, -128, np.int8)
    scores[[7, 1, 3]] = 64, -64, -128 + 13
    assert [line.rstrip() for line in digits.draw(scan[..., None], scores).plain.split("\n")] == [
        "▀▄        7 ███████████████       75.0%",
        "  █       1 █████                 25.0%",
        "          3 █                      5.1%",
        "          0                        0.0%",
    ]


def test_draw_shows_grey_levels():
    scan = np.full((8, 8), -128, np.int8)
    scan[0, 0], scan[1, 0] = 72, -28
    picture = digits.draw(scan, np.zeros(10))
    assert picture.plain[0] == "▀"
    assert str(picture.get_style_at_offset(Console(), 0)) == "rgb(200,200,200) on rgb(100,100,100)"


def test_draw_takes_probabilities():
    scan = np.zeros((8, 8), np.int8)
    q = np.arange(-128, 122, 25, dtype=np.int8)
    assert digits.draw(scan, q) == digits.draw(scan, (q + 128.0) / 256)


def test_import_needs_no_training_tools():
    code = "import sys, gen.digits; print(sorted({'tensorflow', 'keras', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
