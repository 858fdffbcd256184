"""SSDLite from the picture to the boxes on it: planned, simulated with several outputs, decoded and drawn."""

import numpy as np
import pytest

import boards
from gen.builders import build
from gen.detection import Detections, detect, feature_maps
from gen.passes import lower
from gen.picture import draw_boxes, save_png
from gen.plan import plan
from gen.simulate import simulate
from gen.stages import host_layers, results_of
from sim import golden

SPEC = "ssdlite_mobilenet_v2:alpha=0.35,resolution={resolution},classes=2,concatenated={concatenated}"


def detector(resolution, concatenated="false"):
    return lower(build(SPEC.format(resolution=resolution, concatenated=concatenated)), folding=True)


def picture(size):
    """A bright disc and a red square on grey, uint8 (size, size, 3)."""
    y, x = np.mgrid[:size, :size] / size
    image = np.full((size, size, 3), 90, np.uint8)
    image[(y - 0.3) ** 2 + (x - 0.3) ** 2 < 0.04] = (240, 240, 200)
    image[(abs(y - 0.7) < 0.15) & (abs(x - 0.65) < 0.2)] = (220, 40, 30)
    return image


def as_input(table, image):
    """The network's input of a picture: its values 0 to 255 become -1 to 1."""
    ((name, tensor),) = table.inputs.items()
    quantization = tensor.quantization
    reals = image.astype(np.float64) / 127.5 - 1
    steps = np.rint(reals / quantization.scale) + quantization.zero_point
    return {name: np.clip(steps, -128, 127).astype(np.int8)}


@pytest.mark.parametrize("resolution", [64, 96])
@pytest.mark.parametrize("concatenated", ["false", "true"])
def test_plan(resolution, concatenated):
    table = detector(resolution, concatenated)
    planned = plan(table, boards.get("sim"), array=(16, 8))
    maps = feature_maps(table)
    assert maps[0] == (resolution // 16, resolution // 16)
    assert maps[-1] == (1, 1)
    # The accelerator's work is the same; what the host concatenates, it reads head by head.
    assert results_of(table) == {f"{head}_{n}" for head in ("boxes", "classes") for n in range(1, len(maps) + 1)}
    assert len(host_layers(table)) == (2 * len(maps) + 2 if concatenated == "true" else 0)
    assert planned.cycles == plan(detector(resolution), boards.get("sim"), array=(16, 8)).cycles
    assert planned.fits


def assert_same(found: Detections, expected: Detections):
    for name in ("boxes", "labels", "scores"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.slow
@pytest.mark.cocotb
@pytest.mark.parametrize("concatenated", ["false", "true"])
def test_from_picture_to_boxes(concatenated, tmp_path):
    """What the accelerator leaves gives the golden model's boxes, and they are on the picture."""
    image = picture(64)
    table = detector(64, concatenated)
    inputs = [as_input(table, image), as_input(table, image[:, ::-1])]
    report = simulate(plan(table, boards.get("sim"), array=(16, 8)), inputs, directory=tmp_path)
    assert report["bit_exact"], report["difference"]
    assert report["cycles_measured"] == report["cycles"]
    assert len(table.outputs) == (2 if concatenated == "true" else 2 * len(feature_maps(table)))
    left = [np.load(tmp_path / f"output_{number}.npy") for number in range(len(table.outputs))]
    for number, values in enumerate(inputs):
        tensors = {name: array[number] for name, array in zip(table.outputs, left, strict=True)}
        found = detect(table, tensors, least=0.3, most=5)
        assert_same(found, detect(table, golden.run(table, values), least=0.3, most=5))
        assert 1 <= len(found) <= 5
        shown = image if number == 0 else image[:, ::-1]
        drawn = draw_boxes(shown, found.boxes, found.labels, found.scores, names=["disc", "square"], zoom=4)
        assert drawn.shape == (256, 256, 3)
        assert not np.array_equal(drawn, shown.repeat(4, axis=0).repeat(4, axis=1))
        save_png(tmp_path / f"boxes_{number}.png", drawn)
