"""What forbids two output channels to share multipliers, by stage."""

from dataclasses import replace

import numpy as np
import pytest
from test_stages import convolution, network

from gen.packing import obstacle
from gen.stages import stages_of
from hw.config import ArrayShape

FOUR = ArrayShape(lanes=4, words=1)


def stage(name, source, weights):
    """A pointwise convolution of four channels."""
    layer = convolution(name, source, (2, 2, len(weights)), channels_in=4)
    return replace(layer, weights=np.array(weights, np.int8).reshape(-1, 1, 1, 4))


def test_every_stage_with_such_weights_is_named():
    bad, good = [[-128] * 4] * 4, [[-127, 127, -128, 0], [1, 2, 3, -128]] * 2
    stages = stages_of(network((2, 2, 4), stage("a", "x", bad), stage("b", "a", good), stage("c", "b", bad)))
    assert obstacle(stages, FOUR) == "weights of -128 would meet in a, c"
    assert obstacle(stages[1:2], FOUR) is None


@pytest.mark.parametrize("lanes", [1, 3, 5])
def test_an_odd_number_of_lanes(lanes):
    stages = stages_of(network((2, 2, 4), stage("a", "x", [[1] * 4] * 4)))
    assert obstacle(stages, ArrayShape(lanes=lanes, words=2)) == f"N is odd, {lanes}"


@pytest.mark.parametrize("lanes, words", [(2, 1), (2, 3), (4, 1), (6, 2)])
def test_which_channels_and_rows_meet(lanes, words):
    """Channels 0 and 1 do, 2 and 3 do, and 1 and 2 never; so do rows."""
    array = ArrayShape(lanes=lanes, words=words)
    one, low = [1] * 4, [-128, 0, 0, 0]
    for weights, shared in (
        ([one, one, low, low], False), ([one, low, low, one], True),
        ([one, one, [-128, -128, 0, 0], one], False), ([one, one, [0, -128, -128, 0], one], True),
    ):  # fmt: skip
        stages = stages_of(network((2, 2, 4), stage("a", "x", weights)))
        assert (obstacle(stages, array) is None) == shared
