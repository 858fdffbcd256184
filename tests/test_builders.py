"""Builders, their random weights, and the cost functions, against published figures."""

import numpy as np
import pytest

from gen import costs
from gen.builders import build, mobilenet_v1, mobilenet_v2, ssdlite_mobilenet_v2
from gen.detection import ANCHORS, anchors, detect, feature_maps, head_outputs
from gen.errors import GenError
from gen.importer import load_tflite
from gen.inputs import random_inputs
from gen.passes import lower
from gen.table import WEIGHTED
from sim import golden


def test_cost_of_a_convolution_in_six_by_six():
    assert costs.standard(3, 3, 5, size=4) == 2160
    assert costs.depthwise(3, 3, size=4) == 432
    assert costs.pointwise(3, 5, size=4) == 240
    assert costs.separable(3, 3, 5, size=4) == 672
    assert round(costs.separable_ratio(3, 5), 2) == 0.31
    assert costs.separable_ratio(3, 5) == pytest.approx(672 / 2160)


def test_cost_per_position():
    assert costs.depthwise(3, 64) == 576
    assert costs.pointwise(64, 64) == 4096
    assert costs.separable(3, 144, 144) == 22032
    assert costs.inverted_residual(3, 24, 144, 24) == 8208


#: Million mult-adds that the papers give, rounded one way or the other.
PUBLISHED_MILLIONS = {
    (1.0, 224): 569,
    (0.75, 224): 325,
    (0.5, 224): 149,
    (0.25, 224): 41,
    (1.0, 192): 418,
    (1.0, 160): 290,
    (1.0, 128): 186,
}
PUBLISHED_MILLION_PARAMETERS = {1.0: 4.2, 0.75: 2.6, 0.5: 1.3, 0.25: 0.5}


@pytest.mark.parametrize("resolution", (224, 192, 160, 128))
@pytest.mark.parametrize("alpha", (1.0, 0.75, 0.5, 0.25))
def test_mobilenet_v1_costs_what_the_paper_says(alpha, resolution):
    table = mobilenet_v1(alpha, resolution, seed=None)
    # By hand: the map is halved by conv1 and by four of the depthwise layers.
    c = [int(channels * alpha) for channels in (32, 64, 128, 256, 512, 1024)]
    s = [resolution // 2**halvings for halvings in range(1, 6)]
    by_hand = costs.standard(3, 3, c[0], s[0]) + costs.separable(3, c[0], c[1], s[0])
    for stage in range(1, 5):
        by_hand += costs.separable(3, c[stage], c[stage + 1], s[stage])
        by_hand += {1: 1, 2: 1, 3: 5, 4: 1}[stage] * costs.separable(3, c[stage + 1], c[stage + 1], s[stage])
    assert table.macs == by_hand + c[5] * 1000
    if (alpha, resolution) in PUBLISHED_MILLIONS:
        assert abs(table.macs / 1e6 - PUBLISHED_MILLIONS[alpha, resolution]) < 1
    assert abs(costs.keras_parameters(table).total / 1e6 - PUBLISHED_MILLION_PARAMETERS[alpha]) < 0.06
    assert sum(layer.operator in WEIGHTED for layer in table.layers) == 28


def test_mobilenet_v1_counts_parameters_as_keras_does():
    assert costs.keras_parameters(mobilenet_v1(seed=None)).total == 4_253_864
    assert costs.keras_parameters(mobilenet_v1(seed=None)).non_trainable == 21_888


def test_cifar10_variant():
    table = mobilenet_v1(0.5, 32, classes=10, seed=None)
    parameters = costs.keras_parameters(table)
    assert (parameters.total, parameters.trainable, parameters.non_trainable) == (834_666, 823_722, 10_944)
    shapes = [layer.output.shape for layer in table.layers]
    assert shapes[:5] == [(16, 16, 16), (16, 16, 16), (16, 16, 32), (8, 8, 32), (8, 8, 64)]
    assert shapes[-4:] == [(1, 1, 512), (1, 1, 512), (10,), (10,)]


def test_stride_two_pads_an_even_map_below_and_right_only():
    table = mobilenet_v1(0.25, 96, classes=2, seed=None)
    assert table["conv1"].padding == (0, 1, 0, 1)
    assert table["conv_dw_1"].padding == (1, 1, 1, 1)
    assert table["conv_dw_2"].padding == (0, 1, 0, 1)
    assert table["conv_dw_12"].padding == (0, 1, 0, 1)
    assert mobilenet_v1(0.25, 97, classes=2, seed=None)["conv1"].padding == (1, 1, 1, 1)


def test_width_multiplier_truncates():
    table = mobilenet_v1(0.3, 32, classes=4, channels_in=1, seed=None)
    assert [table[name].output.shape[-1] for name in ("conv1", "conv_pw_1", "conv_pw_13")] == [9, 19, 307]
    assert table["conv1"].weights.shape == (9, 3, 3, 1)


#: Million multiply-accumulates by resolution, cut to whole ones, and million parameters, as the authors' code has them:
#: tensorflow/models, research/slim/nets/mobilenet/README.md.
PUBLISHED_V2 = {
    1.4: ({224: 582}, 6.06),
    1.3: ({224: 509}, 5.34),
    1.0: ({224: 300, 192: 221, 160: 154, 128: 99, 96: 56}, 3.47),
    0.75: ({224: 209, 192: 153, 160: 107, 128: 69, 96: 39}, 2.61),
    0.5: ({224: 97, 192: 71, 160: 50, 128: 32, 96: 18}, 1.95),
    0.35: ({224: 59, 192: 43, 160: 30, 128: 20, 96: 11}, 1.66),
}


@pytest.mark.parametrize("alpha", PUBLISHED_V2)
def test_mobilenet_v2_costs_what_its_authors_say(alpha):
    millions, million_parameters = PUBLISHED_V2[alpha]
    for resolution, macs in millions.items():
        assert int(mobilenet_v2(alpha, resolution, seed=None).macs / 1e6) == macs
    assert abs(mobilenet_v2(alpha, seed=None).parameters / 1e6 - million_parameters) < 0.03


def test_mobilenet_v2_counts_parameters_as_keras_does():
    table = mobilenet_v2(seed=None)
    assert costs.keras_parameters(table).total == 3_538_984
    assert costs.keras_parameters(table).non_trainable == 34_112
    assert (table.name, table.macs) == ("mobilenet_v2_1_224_1000", 300_774_272)


def test_an_inverted_residual_costs_less_than_a_wide_separable_convolution():
    table = mobilenet_v2(seed=None)
    block = [layer for layer in table.layers if layer.name.startswith("block_3_") and layer.operator in WEIGHTED]
    assert [layer.weights.shape for layer in block] == [(144, 1, 1, 24), (3, 3, 144), (24, 1, 1, 144)]
    assert sum(layer.macs for layer in block) == 56**2 * 8208
    assert costs.separable(3, 144, 144) == 22032


def structure(table):
    """What the layers of a network's feature maps are, and which of them the adds join."""
    layers = [
        layer for layer in lower(table).layers if len(layer.output.shape) == 3 and layer.output.shape[:2] != (1, 1)
    ]
    layers = [layer for layer in layers if layer.operator in ("conv2d", "depthwise_conv2d", "add")]
    numbers = {layer.name: number for number, layer in enumerate(layers)}
    return [
        (
            *(layer.operator, layer.output.shape, layer.kernel, layer.stride, layer.padding, layer.activation),
            {numbers[name] for name in layer.inputs} if layer.operator == "add" else None,
        )
        for layer in layers
    ]


@pytest.mark.parametrize(
    "model, parameters",
    [("tf2_mobilenet_v2_1.0_224_ptq", (1.0, 224, 1001)), ("mobilenetv2_160_035", (0.35, 160, 2))],
)
def test_mobilenet_v2_is_the_published_network(models_dir, model, parameters):
    published = structure(load_tflite(models_dir / f"{model}.tflite"))
    assert structure(mobilenet_v2(*parameters, seed=None)) == published
    assert len(published) == 1 + 2 + 16 * 3 + 10 + 1


@pytest.mark.parametrize(
    "alpha, channels",
    [
        (1.0, [32, 16, 24, 32, 64, 96, 160, 320, 1280]),
        (1.4, [48, 24, 32, 48, 88, 136, 224, 448, 1792]),
        (0.35, [16, 8, 8, 16, 24, 32, 56, 112, 1280]),
        (1 / 32, [8, 8, 8, 8, 8, 8, 8, 16, 1280]),
    ],
)
def test_channels_are_multiples_of_eight_near_what_was_asked_for(alpha, channels):
    table = mobilenet_v2(alpha, 32, classes=4, seed=None)
    projections = [f"block_{number}_project" for number in (1, 2, 4, 7, 11, 14, 17)]
    assert [table[name].output.shape[-1] for name in ("conv1", *projections, "conv_last")] == channels


def test_residuals_join_where_stride_and_channels_allow():
    def added(table):
        return {layer.name: layer.inputs for layer in table.layers if layer.operator == "add"}

    names = [f"block_{number}" for number in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]
    adds = added(mobilenet_v2(0.5, 32, classes=4, seed=None))
    assert list(adds) == [f"{name}_add" for name in names]
    assert adds["block_8_add"] == ("block_7_project", "block_8_project")
    assert adds["block_9_add"] == ("block_8_add", "block_9_project")
    # Where all have 8 channels, more can be added, even the stem's.
    adds = added(mobilenet_v2(1 / 32, 32, classes=4, seed=None))
    assert adds["block_1_add"] == ("conv1", "block_1_project")
    assert {"block_11_add", "block_1_add"} < adds.keys() and not {"block_2_add", "block_14_add"} & adds.keys()


def test_a_residuals_scale_grows_with_what_is_added():
    table = mobilenet_v2(0.5, 32, classes=4, seed=None)
    scales = [
        table[f"block_{number}"].output.quantization.scale for number in ("7_project", "8_add", "9_add", "10_add")
    ]
    assert scales == pytest.approx([0.2, 0.2 * 2**0.5, 0.2 * 3**0.5, 0.2 * 2])
    assert table["block_11_project"].output.quantization.scale == pytest.approx(0.2)


def test_expansion():
    table = mobilenet_v2(0.5, 32, classes=4, expansion=3, seed=None)
    assert table["block_1_depthwise"].output.shape[-1] == table["conv1"].output.shape[-1] == 16
    assert table["block_2_expand"].output.shape[-1] == table["block_2_depthwise"].output.shape[-1] == 3 * 8
    table = mobilenet_v2(0.5, 32, classes=4, expansion=1, seed=None)
    assert not [layer.name for layer in table.layers if layer.name.endswith("expand")]
    assert table["block_9_depthwise"].inputs == ("block_8_add",)
    assert sum(layer.operator == "add" for layer in table.layers) == 10


def test_ssdlite_costs_about_what_the_paper_says():
    """Table 6: 0.8 billion multiply-adds, 4.3 million parameters. The authors' detector has fewer anchors in map 1."""
    table = ssdlite_mobilenet_v2(seed=None)
    assert abs(table.macs / 1e9 - 0.8) < 0.05
    assert abs(table.parameters / 1e6 - 4.3) < 0.2
    assert (table.macs, table.parameters) == (847_582_144, 4_458_772)


def test_ssdlite_detects_on_six_maps():
    table = ssdlite_mobilenet_v2(seed=None)
    sizes = [20, 10, 5, 3, 2, 1]
    assert feature_maps(table) == [(size, size) for size in sizes]
    assert len(anchors(feature_maps(table))) == 3234
    assert table.outputs == tuple(f"{head}_{number}" for number in range(1, 7) for head in ("classes", "boxes"))
    sources = ["block_14_expand", "conv_last", *(f"extra_{number}" for number in range(3, 7))]
    channels = [576, 1280, 512, 256, 256, 128]
    for number, (size, source, depth) in enumerate(zip(sizes, sources, channels, strict=True), start=1):
        assert table.tensor(source).shape == (size, size, depth)
        for head, numbers in (("classes", 81), ("boxes", 4)):
            layer, depthwise = table[f"{head}_{number}"], table[f"{head}_{number}_depthwise"]
            assert layer.output.shape == (size, size, ANCHORS * numbers)
            assert (layer.kernel, layer.activation, layer.inputs) == ((1, 1), "none", (depthwise.name,))
            assert (depthwise.operator, depthwise.kernel, depthwise.stride) == ("depthwise_conv2d", (3, 3), (1, 1))
            assert (depthwise.activation, depthwise.inputs) == ("relu6", (source,))
            assert layer.output.quantization == table[f"{head}_1"].output.quantization
    # Nothing but the heads reads an expansion twice: the backbone is as it was.
    backbone = [layer for layer in table.layers if layer.name.startswith("block")]
    plain = mobilenet_v2(1.0, 320, seed=None)
    assert [(layer.name, layer.inputs, layer.output) for layer in backbone] == [
        (layer.name, layer.inputs, layer.output) for layer in plain.layers if layer.name.startswith("block")
    ]


def test_ssdlite_extra_maps_are_narrow_then_wide():
    table = ssdlite_mobilenet_v2(seed=None)
    shapes = [table[f"extra_4{part}"].output.shape for part in ("_reduce", "_depthwise", "")]
    assert shapes == [(5, 5, 128), (3, 3, 128), (3, 3, 256)]
    assert table["extra_4_depthwise"].operator == "depthwise_conv2d"
    assert table["extra_4_reduce"].inputs == ("extra_3",)


@pytest.mark.parametrize(
    "resolution, most, sizes",
    [
        (96, 6, [6, 3, 2, 1]),
        (96, 3, [6, 3, 2]),
        (320, 2, [20, 10]),
        (33, 6, [3, 2, 1]),
        (32, 6, [2, 1]),
        (1, 6, [1, 1]),
    ],
)
def test_ssdlite_stops_at_one_pixel(resolution, most, sizes):
    table = ssdlite_mobilenet_v2(0.35, resolution, classes=2, maps=most, seed=None)
    assert feature_maps(table) == [(size, size) for size in sizes]
    assert len(table.outputs) == 2 * len(sizes)


def test_small_ssdlite_detects_and_concatenates():
    spec = "ssdlite_mobilenet_v2:alpha=0.35,resolution=96,classes=3"
    apart, together = build(spec), build(f"{spec},concatenated=true")
    assert apart.macs == together.macs < 12e6
    assert [together.tensor(name).shape for name in together.outputs] == [(300, 4), (300, 4)]
    (image,) = random_inputs(apart, 1, seed=3)
    tensors, concatenated = golden.run(apart, image), golden.run(together, image)
    outputs = {name: concatenated[name] for name in ("classes", "boxes")}
    for one, other in zip(head_outputs(apart, tensors), head_outputs(together, outputs), strict=True):
        assert np.array_equal(one, other)
    for name in apart.outputs:
        assert 40 < tensors[name].std() < 100, name
    found = detect(together, outputs, least=0.5)
    assert 0 < len(found) <= 200
    assert (np.diff(found.scores) <= 0).all() and found.scores.min() >= 0.5
    assert set(found.labels) == {0, 1, 2}
    assert found.boxes.min() >= 0 and found.boxes.max() <= 1


@pytest.mark.parametrize(
    "build_it",
    [
        lambda: mobilenet_v1(0.25, 64, classes=10, seed=5),
        lambda: mobilenet_v2(0.35, 96, classes=10, seed=5),
        lambda: ssdlite_mobilenet_v2(0.35, 96, classes=2, maps=2, seed=5),
    ],
    ids=["mobilenet_v1", "mobilenet_v2", "ssdlite_mobilenet_v2"],
)
def test_activations_use_their_range_and_follow_the_input(build_it):
    table = build_it()
    first, second = (golden.run(table, sample) for sample in random_inputs(table, 2, seed=77))
    for layer in table.layers:
        x = first[layer.name]
        if layer.activation == "relu6":
            assert (layer.output.quantization.zero_point, layer.clamp) == (-128, (-128, 127))
            assert 0.02 < np.mean(x == -128) < 0.3, layer.name
            assert 0.001 < np.mean(x == 127) < 0.1, layer.name
            assert np.mean(x != second[layer.name]) > 0.5, layer.name
        elif layer.name.endswith(("project", "add")):
            assert abs(x.mean()) < 12 and 60 < x.std() < 80, layer.name
            assert 0.01 < np.mean(x == -128) < 0.1 and 0.01 < np.mean(x == 127) < 0.1, layer.name
            assert np.mean(x != second[layer.name]) > 0.5, layer.name
    for name in {"classifier", "classes_1", "boxes_1", "classes_2", "boxes_2"} & first.keys():
        assert len(np.unique(first[name])) > 4


@pytest.mark.parametrize("builder", ("mobilenet_v1", "mobilenet_v2", "ssdlite_mobilenet_v2"))
def test_the_seed_decides_the_weights(builder):
    tables = [build(f"{builder}:alpha=0.25,resolution=32,classes=3,seed={seed}") for seed in (1, 1, 2)]
    for same, layer in enumerate(tables[0].layers):
        if layer.weights is not None:
            for field in ("weights", "bias", "weight_scales"):
                assert np.array_equal(getattr(layer, field), getattr(tables[1].layers[same], field))
    assert not np.array_equal(tables[0]["conv1"].weights, tables[2]["conv1"].weights)


def test_build_without_parameters_is_the_default():
    table = build("mobilenet_v1")
    assert (table.name, table.macs) == ("mobilenet_v1_1_224_1000", 568_740_352)


@pytest.mark.parametrize(
    "spec, message",
    [
        (
            "mobilenet_v9",
            "mobilenet_v9: builder must be one of mobilenet_v1, mobilenet_v2, ssdlite_mobilenet_v2, not 'mobilenet_v9'",
        ),
        (
            "mobilenet_v1:beta=1",
            "mobilenet_v1:beta=1: parameter must be one of alpha=, resolution=, classes=, channels_in=, seed=, "
            "not 'beta=1'",
        ),
        (
            "mobilenet_v1:",
            "mobilenet_v1:: parameter must be one of alpha=, resolution=, classes=, channels_in=, seed=, not ''",
        ),
        (
            "mobilenet_v1:alpha",
            "mobilenet_v1:alpha: parameter must be one of alpha=, resolution=, classes=, channels_in=, seed=, "
            "not 'alpha'",
        ),
        ("mobilenet_v1:alpha=x", "mobilenet_v1:alpha=x: alpha must be a number, not 'x'"),
        ("mobilenet_v1:alpha=nan", "mobilenet_v1:alpha=nan: alpha must be in 0.03125..4, not nan"),
        ("mobilenet_v1:alpha=0", "mobilenet_v1:alpha=0: alpha must be in 0.03125..4, not 0.0"),
        ("mobilenet_v1:resolution=1.5", "mobilenet_v1:resolution=1.5: resolution must be an integer, not '1.5'"),
        ("mobilenet_v1:resolution=0", "mobilenet_v1:resolution=0: resolution must be in 1..1024, not 0"),
        ("mobilenet_v1:classes=4096", "mobilenet_v1:classes=4096: classes must be in 1..4095, not 4096"),
        ("mobilenet_v1:seed=-1", "mobilenet_v1:seed=-1: seed must be in 0..9223372036854775807, not -1"),
        ("mobilenet_v2:alpha=5", "mobilenet_v2:alpha=5: alpha must be in 0.03125..4, not 5.0"),
        ("mobilenet_v2:expansion=0", "mobilenet_v2:expansion=0: expansion must be in 1..16, not 0"),
        ("mobilenet_v2:channels_in=0", "mobilenet_v2:channels_in=0: channels_in must be in 1..1024, not 0"),
        ("ssdlite_mobilenet_v2:maps=1", "ssdlite_mobilenet_v2:maps=1: maps must be in 2..6, not 1"),
        ("ssdlite_mobilenet_v2:maps=7", "ssdlite_mobilenet_v2:maps=7: maps must be in 2..6, not 7"),
        (
            "ssdlite_mobilenet_v2:classes=1001",
            "ssdlite_mobilenet_v2:classes=1001: classes must be in 1..1000, not 1001",
        ),
        ("ssdlite_mobilenet_v2:expansion=1", "ssdlite_mobilenet_v2:expansion=1: expansion must be in 2..16, not 1"),
        (
            "ssdlite_mobilenet_v2:concatenated=1",
            "ssdlite_mobilenet_v2:concatenated=1: concatenated must be true or false, not '1'",
        ),
        ("mobilenet_v1:seed=1,seed=2", "mobilenet_v1:seed=1,seed=2: seed is given twice"),
    ],
)
def test_build_refuses(spec, message):
    with pytest.raises(GenError) as error:
        build(spec)
    assert str(error.value) == message
