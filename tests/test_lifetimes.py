"""Lifetimes: real plans pass the check, and whatever breaks one is found, by stage, row and tensor."""

from dataclasses import replace

import pytest
from test_order import block, rows
from test_stages import combined, convolution, int8, network

import boards
from gen.builders import mobilenet_v2
from gen.errors import GenError
from gen.importer import load_tflite
from gen.layout import Placement, place
from gen.lifetimes import check
from gen.order import Row, kept_rows, order_of
from gen.passes import lower
from gen.plan import plan
from gen.source import resolve
from gen.stages import results_of, stages_of
from hw.config import ArrayShape

SIM = boards.get("sim")


def assert_sound(planned):
    check(planned.stages, planned.order, planned.places, results_of(planned.table))


@pytest.mark.parametrize("array", [(2, 2), (6, 3), (16, 8), (5, 5)])
def test_digits(array):
    assert_sound(plan(lower(resolve(None)), SIM, array=array))


@pytest.mark.parametrize("array", [(12, 6), (16, 8)])
def test_a_builder_with_rings_and_residuals(array, every_ring):
    planned = plan(lower(mobilenet_v2(0.35, 64, classes=4, seed=None)), SIM, array=array)
    rings = [name for name, where in planned.places.items() if where.kept]
    assert len(rings) > 5 and sum(stage.residual is not None for stage in planned.stages) > 5
    assert_sound(planned)
    # The rings matter: with half of a window fewer, rows are lost.
    for name in rings:
        shorter = planned.places | {name: replace(planned.places[name], kept=3)}
        with pytest.raises(GenError, match=f"reads row .* of {name}, but finds row .* of {name} there$"):
            check(planned.stages, planned.order, shorter, ())


@pytest.mark.parametrize(
    "model", ["vww_96_int8", "pretrainedResnet_quant", "mobilenetv2_160_035", "kws_ref_model", "person_detect"]
)
def test_published_networks(models_dir, model):
    assert_sound(plan(lower(load_tflite(models_dir / f"{model}.tflite")), SIM, array=(16, 8)))


def parts(table, lanes=4):
    """What :func:`check` takes, for a table on an array of so many lanes."""
    stages = stages_of(table)
    results = results_of(table)
    kept = kept_rows(stages, results)
    order = order_of(stages, kept)
    places, _ = place(stages, ArrayShape(lanes=lanes, words=1), order, kept, results)
    return stages, order, places, results


@pytest.fixture
def ring():
    """A residual block whose wide tensor is a ring: stages ``e`` and ``d + p + s``."""
    stages, order, places, results = parts(block(9))
    assert places["e"].kept == 6
    check(stages, order, places, results)
    return stages, order, places, results


def test_a_ring_that_is_too_small(ring):
    """By hand: rows 0 to 4 come before row 0 is used, and row 3 lies where row 0 did."""
    stages, order, places, results = ring
    places["e"] = replace(places["e"], kept=3)
    with pytest.raises(GenError, match=r"^d \+ p \+ s, row 0: reads row 0 of e, but finds row 3 of e there$"):
        check(stages, order, places, results)


def test_a_ring_that_is_filled_too_early(ring):
    stages, order, places, results = ring
    assert order[:9] == rows("00 01 02 03 04 10 05 11 06")
    order[6:9] = rows("05 06 11")
    with pytest.raises(GenError, match=r"^d \+ p \+ s, row 1: reads row 0 of e, but finds row 6 of e there$"):
        check(stages, order, places, results)


def test_a_row_that_comes_too_late(ring):
    stages, order, places, results = ring
    assert (order[12], order[17]) == (Row(0, 8), Row(1, 8))
    order[12], order[17] = order[17], order[12]
    with pytest.raises(GenError, match=r"^d \+ p \+ s, row 8: reads row 8 of e, but finds row 2 of e there$"):
        check(stages, order, places, results)


def test_rows_that_are_missing_or_twice(ring):
    stages, order, places, results = ring
    for wrong in (order[:-1], [*order, order[3]], [*order[:-1], order[0]]):
        with pytest.raises(GenError, match="^the order of rows has not every row of every stage once$"):
            check(stages, wrong, places, results)


def test_a_residual_that_is_overwritten(ring):
    """``e`` made over the input: the rows that it still needs for itself go first, then those to be added."""
    stages, order, places, results = ring
    places["e"] = replace(places["e"], base=places["x"].base)
    with pytest.raises(GenError, match=r"^e, row \d, once it is written: reads row \d of x, but finds row \d of e"):
        check(stages, order, places, results)
    # A tensor that only the adder reads: the sum's source lies elsewhere.
    first = convolution("a", "x", (5, 5, 4), channels_in=4)
    layers = [first, convolution("b", "a", (5, 5, 4), channels_in=4), convolution("c", "b", (5, 5, 4), channels_in=4)]
    stages, order, places, results = parts(network((5, 5, 4), *layers, combined("s", "a", "c", (5, 5, 4))))
    assert [stage.name for stage in stages] == ["a", "b", "c + s"]
    check(stages, order, places, results)
    places["b"] = replace(places["b"], base=places["a"].base + places["a"].words - 1)
    places["s"] = replace(places["s"], base=places["b"].base + places["b"].words)
    with pytest.raises(GenError) as caught:
        check(stages, order, places, results)
    # Rows 3 and 4 of a lie in its last group of three, of whose columns 3 and 4 the last word is.
    assert str(caught.value) == "b, row 3: reads row 3 of a, but finds row 0 of b there"


def test_a_row_that_overwrites_what_it_reads():
    """In place, a pointwise layer would be right row by row, but not pixel by pixel: pixels to come are read late."""
    stages, order, places, results = parts(network((4, 4, 4), convolution("a", "x", (4, 4, 4), channels_in=4)))
    places["a"] = replace(places["a"], base=places["x"].base)
    with pytest.raises(GenError) as caught:
        check(stages, order, places, results)
    assert str(caught.value) == "a, row 0, once it is written: reads row 0 of x, but finds row 0 of a there"


def test_two_inputs_in_one_place():
    a, b = convolution("a", "x", (4, 4, 3), channels_in=3), convolution("b", "y", (4, 4, 3), channels_in=3)
    table = network((), a, b, outputs=("a", "b"), inputs={"x": int8(4, 4, 3), "y": int8(4, 4, 3)})
    stages, order, places, results = parts(table)
    check(stages, order, places, results)
    places["y"] = replace(places["y"], base=places["x"].base)
    with pytest.raises(GenError) as caught:
        check(stages, order, places, results)
    assert str(caught.value) == "a, row 0: reads row 0 of x, but finds row 0 of y there"
    # The host writes whole groups of three rows, so what lies in the rest of a place is lost, too.
    places["y"] = replace(places["x"], base=places["x"].base + places["x"].row_pitch)
    with pytest.raises(GenError, match="^a, row 3: reads row 3 of x, but finds row 0 of y there$"):
        check(stages, order, places, results)


def test_results_that_do_not_last():
    """The host reads at the end; a tensor that nobody else needs is safe only if it is a result."""
    layers = [convolution(name, source, (4, 4, 4), channels_in=4) for name, source in ("ax", "ba", "cb")]
    stages, order, places, results = parts(network((4, 4, 4), *layers))
    assert (places["c"].base, results) == (places["a"].base, {"c"})
    check(stages, order, places, results)
    with pytest.raises(GenError, match="^the host: reads row 0 of a, but finds row 0 of c there$"):
        check(stages, order, places, {"a", "c"})
    with pytest.raises(GenError, match="^the host: reads row 0 of x, but finds row 0 of b there$"):
        check(stages, order, places, {"x"})


def test_a_window_over_rows_that_nobody_made():
    """Row 0 of a 3x3 layer before row 1 of its source."""
    layers = [
        convolution("a", "x", (4, 4, 4), channels_in=4),
        convolution("b", "a", (4, 4, 4), channels_in=4, kernel=(3, 3), padding=(1, 1, 1, 1)),
    ]
    stages, order, places, results = parts(network((4, 4, 4), *layers))
    order[1:5] = rows("10 01 02 03")
    with pytest.raises(GenError) as caught:
        check(stages, order, places, results)
    assert str(caught.value) == "b, row 0: reads row 1 of a, but finds nothing there"


def test_halves():
    """A narrow input takes six words of nine rows; taken for nine, the last three meet what lies behind."""
    layer = convolution("a", "x", (8, 9, 8), channels_in=3, kernel=(3, 3), padding=(1, 1, 1, 1))
    layer = replace(layer, output=replace(layer.output, shape=(9, 9, 8)))
    stages, order, places, results = parts(network((9, 9, 3), layer), lanes=8)
    assert (places["x"].halves, places["x"].words, places["a"].base) == (2, 6, 6)
    check(stages, order, places, results)
    places["x"] = replace(places["x"], halves=1)
    with pytest.raises(GenError, match="^a, row 5: reads row 6 of x, but finds row 0 of a there$"):
        check(stages, order, places, results)


def test_a_write_outside_of_its_place(ring):
    """A placement whose own formula leaves its words is no placement."""

    class Crooked(Placement):
        row_pitch = 7

        @property
        def words(self):
            return 13

    stages, order, places, results = ring
    base = places["s"].base + 100
    places["s"] = Crooked(base, places["s"].shape, places["s"].groups)
    with pytest.raises(GenError, match=rf"^d \+ p \+ s, row 6: writes s at words {base + 14} to {base + 17}, outside"):
        check(stages, order, places, results)
