"""Builders, their random weights, and the cost functions, against published figures."""

import numpy as np
import pytest

from gen import costs
from gen.builders import build, mobilenet_v1
from gen.errors import GenError
from gen.inputs import random_inputs
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


def test_activations_use_their_range_and_follow_the_input():
    table = mobilenet_v1(0.25, 64, classes=10, seed=5)
    first, second = (golden.run(table, sample) for sample in random_inputs(table, 2, seed=77))
    for layer in table.layers:
        if layer.activation == "relu6":
            assert (layer.output.quantization.zero_point, layer.clamp) == (-128, (-128, 127))
            x = first[layer.name]
            assert 0.02 < np.mean(x == -128) < 0.3, layer.name
            assert 0.001 < np.mean(x == 127) < 0.1, layer.name
            assert np.mean(x != second[layer.name]) > 0.5, layer.name
    assert len(np.unique(first["classifier"])) > 4


def test_the_seed_decides_the_weights():
    tables = [build(f"mobilenet_v1:alpha=0.25,resolution=32,classes=3,seed={seed}") for seed in (1, 1, 2)]
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
        ("mobilenet_v9", "mobilenet_v9: builder must be one of mobilenet_v1, not 'mobilenet_v9'"),
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
        ("mobilenet_v1:seed=1,seed=2", "mobilenet_v1:seed=1,seed=2: seed is given twice"),
    ],
)
def test_build_refuses(spec, message):
    with pytest.raises(GenError) as error:
        build(spec)
    assert str(error.value) == message
