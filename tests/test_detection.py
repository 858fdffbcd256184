"""Anchors, boxes, scores and suppression, against worked cases and recomputations that share no code with them."""

from itertools import pairwise
from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.detection import (
    ANCHORS,
    Detections,
    anchor_sizes,
    anchors,
    class_scores,
    decode,
    detect,
    feature_maps,
    head_outputs,
    iou,
    postprocess,
    suppress,
)
from gen.errors import GenError
from gen.table import Layer, Quantization, Table, TensorType

#: Corners on a coarse grid, so that boxes touch, coincide and are empty often.
SIDES = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(sorted)
BOXES = st.tuples(SIDES, SIDES).map(lambda sides: [sides[0][0], sides[1][0], sides[0][1], sides[1][1]])
SCORES = st.integers(0, 6).map(lambda sixths: sixths / 6)


def overlap_by_hand(a, b):
    """IoU of two boxes with corners in whole numbers, by counting the unit squares in them."""
    squares = [{(y, x) for y in range(box[0], box[2]) for x in range(box[1], box[3])} for box in (a, b)]
    union = squares[0] | squares[1]
    return len(squares[0] & squares[1]) / len(union) if union else 0.0


def suppressed_by_hand(boxes, scores, overlap):
    """Indices kept: a box is, if no better one that is kept overlaps it too much."""
    better = sorted(range(len(boxes)), key=lambda index: (-scores[index], index))
    kept = []
    for index in better:
        if all(overlap_by_hand(boxes[index], boxes[other]) <= overlap for other in kept):
            kept.append(index)
    return kept


def test_anchor_sizes_of_six_maps():
    # Section 2.2 of the paper: scales 0.2, 0.34, ... 0.9, and sqrt(s_k * s_(k+1)) for one more square.
    scales = (0.2, 0.34, 0.48, 0.62, 0.76, 0.9, 1)
    for number, (scale, following) in enumerate(pairwise(scales)):
        expected = [
            (scale, scale),
            (scale / sqrt(2), scale * sqrt(2)),
            (scale * sqrt(2), scale / sqrt(2)),
            (scale / sqrt(3), scale * sqrt(3)),
            (scale * sqrt(3), scale / sqrt(3)),
            (sqrt(scale * following), sqrt(scale * following)),
        ]
        assert np.allclose(anchor_sizes(number, 6), expected, rtol=0, atol=1e-12)
    assert np.allclose(anchor_sizes(1, 2)[0], [0.9, 0.9])
    assert np.allclose(anchor_sizes(0, 1)[[0, -1], 0], [0.2, sqrt(0.2)])


def test_anchors_go_map_by_map_row_by_row():
    found = anchors([(2, 3), (1, 1)])
    assert found.shape == (7 * ANCHORS, 4)
    centres = [(0.25, 1 / 6), (0.25, 0.5), (0.25, 5 / 6), (0.75, 1 / 6), (0.75, 0.5), (0.75, 5 / 6), (0.5, 0.5)]
    assert np.allclose(found[:, :2], np.repeat(centres, ANCHORS, axis=0))
    assert np.array_equal(found[:, 2:].reshape(7, ANCHORS, 2), [anchor_sizes(0, 2)] * 6 + [anchor_sizes(1, 2)])
    assert anchors([]).shape == (0, 4)


def test_decode_by_hand():
    around = [[0.5, 0.4, 0.2, 0.4]] * 3
    encodings = [[0, 0, 0, 0], [10, -5, 0, 0], [0, 0, 5 * log(2), 5 * log(0.5)]]
    expected = [[0.4, 0.2, 0.6, 0.6], [0.6, 0.0, 0.8, 0.4], [0.3, 0.3, 0.7, 0.5]]
    assert np.allclose(decode(encodings, around), expected)
    assert np.allclose(decode([[1, 0, 0, 0]], [[0, 0, 1, 1]], factors=(1, 1, 1, 1)), [[0.5, -0.5, 1.5, 0.5]])


@given(st.lists(st.tuples(*[st.floats(0.01, 1)] * 8), min_size=1, max_size=8))
def test_decode_undoes_the_encoding_of_the_paper(rows):
    for y, x, height, width, *anchor in rows:
        t = [10 * (y - anchor[0]) / anchor[2], 10 * (x - anchor[1]) / anchor[3]]
        t += [5 * log(height / anchor[2]), 5 * log(width / anchor[3])]
        box = [[y - height / 2, x - width / 2, y + height / 2, x + width / 2]]
        assert np.allclose(decode([t], [anchor]), box)


def test_extreme_encodings_give_the_whole_axis():
    box = decode([[0, 0, 1e4, -1e4]], [[0.5, 0.25, 1, 1]])
    assert box.tolist() == [[-np.inf, 0.25, np.inf, 0.25]]
    assert len(postprocess(box, [[1.0]])) == 0  # it has no area
    assert postprocess(decode([[0, 0, 1e4, 0]], [[0.5, 0.5, 1, 1]]), [[1.0]]).boxes.tolist() == [[0, 0, 1, 1]]


def test_scores_by_hand():
    logits = [[0, log(3), -log(4)], [1000, 0, -1000]]
    assert np.allclose(class_scores(logits), [[0.75, 0.2], [0.5, 0]])
    assert np.allclose(class_scores(logits, "softmax"), [[3 / 4.25, 0.25 / 4.25], [0, 0]])


@given(st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=5))
def test_scores_are_the_textbook_formulas(logits):
    sigmoid = [[1 / (1 + exp(-value)) for value in row[1:]] for row in logits]
    softmax = [[exp(value) / sum(map(exp, row)) for value in row[1:]] for row in logits]
    assert np.allclose(class_scores(logits), sigmoid)
    assert np.allclose(class_scores(logits, "softmax"), softmax)


def test_iou_by_hand():
    assert iou([[0, 0, 2, 2]], [[1, 1, 3, 3], [0, 0, 1, 2], [2, 0, 3, 2], [5, 5, 6, 6]]).tolist() == [
        [1 / 7, 0.5, 0, 0]
    ]
    assert iou([[1, 1, 1, 1]], [[1, 1, 1, 1]]).tolist() == [[0]]
    assert iou(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)


@given(st.lists(BOXES, max_size=5), st.lists(BOXES, max_size=5), st.integers(-3, 3), st.integers(1, 4))
def test_iou_properties(first, second, move, scale):
    a, b = np.reshape(first, (-1, 4)), np.reshape(second, (-1, 4))
    overlaps = iou(a, b)
    assert np.allclose(overlaps, np.reshape([[overlap_by_hand(p, q) for q in second] for p in first], overlaps.shape))
    assert ((overlaps >= 0) & (overlaps <= 1)).all()
    assert np.array_equal(overlaps, iou(b, a).T)
    assert np.array_equal(np.diag(iou(a, a)), np.minimum((a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]), 1))
    assert np.allclose(overlaps, iou(a * scale + move, b * scale + move))


def test_suppress_by_hand():
    boxes = [[0, 0, 4, 4], [0, 0, 4, 3], [0, 2, 4, 5], [5, 5, 6, 6]]
    assert suppress(boxes, [0.5, 0.9, 0.6, 0.1]).tolist() == [1, 2, 3]
    # The second overlaps the first too much, the third only the second: it stays, as the second is gone.
    assert suppress(boxes, [0.9, 0.8, 0.7, 0.1], overlap=0.45).tolist() == [0, 2, 3]
    assert suppress(boxes[:2], [0.5, 0.5], overlap=0.74).tolist() == [0]
    assert suppress(boxes[:2], [0.5, 0.5], overlap=0.75).tolist() == [0, 1]  # exactly at the limit
    assert suppress(np.zeros((0, 4)), []).tolist() == []


@given(st.lists(st.tuples(BOXES, SCORES), max_size=12), st.sampled_from((0, 0.25, 0.45, 0.5, 1)))
def test_suppress_is_the_greedy_choice(rows, overlap):
    boxes, scores = [box for box, _ in rows], [score for _, score in rows]
    kept = suppress(np.reshape(boxes, (-1, 4)), scores, overlap)
    assert kept.tolist() == suppressed_by_hand(boxes, scores, overlap)


@settings(deadline=None)
@given(
    st.lists(st.tuples(BOXES, SCORES, SCORES, SCORES), max_size=9),
    st.sampled_from((0.1, 0.5, 1)),
    st.sampled_from((0.2, 0.45)),
    st.integers(1, 12),
)
def test_postprocess_is_suppression_class_by_class(rows, least, overlap, most):
    boxes = [row[0] for row in rows]
    expected = []
    for label in range(3):
        scores = [row[1 + label] for row in rows]
        solid = [
            index
            for index, (top, left, bottom, right) in enumerate(boxes)
            if scores[index] >= least and top < bottom and left < right
        ]
        kept = suppressed_by_hand([boxes[index] for index in solid], [scores[index] for index in solid], overlap)
        expected += [(-scores[solid[index]], label, solid[index]) for index in kept]
    expected = sorted(expected, key=lambda item: item[0])[:most]
    found = postprocess(
        np.reshape(boxes, (-1, 4)) / 8,
        np.reshape([row[1:] for row in rows], (-1, 3)),
        least=least,
        overlap=overlap,
        most=most,
    )
    assert len(found) == len(expected)
    assert [(-score, label) for score, label in zip(found.scores, found.labels, strict=True)] == [
        item[:2] for item in expected
    ]
    assert (found.boxes * 8).tolist() == [boxes[item[2]] for item in expected]


def test_postprocess_clips_to_the_image():
    found = postprocess([[-1, 0.25, 0.5, 3], [0.2, 1.1, 0.4, 1.3]], [[0.7], [0.9]])
    assert (found.boxes.tolist(), found.labels.tolist(), found.scores.tolist()) == ([[0, 0.25, 0.5, 1]], [0], [0.7])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: decode([[0, 0, 0]], [[0, 0, 1, 1]]), "encodings must be (n, 4), not (1, 3)"),
        (lambda: decode([[0, 0, 0, 0]], [0, 0, 1, 1]), "anchors must be (n, 4), not (4,)"),
        (lambda: decode([[0, 0, 0, 0]], np.zeros((2, 4))), "there must be an encoding for each of 2 anchors, not 1"),
        (lambda: class_scores([[0, 1]], "tanh"), "function must be sigmoid or softmax, not 'tanh'"),
        (lambda: iou([[0, 0, 1, 1]], [0]), "boxes must be (n, 4), not (1,)"),
        (lambda: postprocess([[0, 0, 1, 1]], [0.5]), "scores must be (1, classes) for as many boxes, not (1,)"),
        (lambda: postprocess([[0, 0, 1, 1]], [[1], [1]]), "scores must be (1, classes) for as many boxes, not (2, 1)"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def pads(shapes, outputs=None):
    """A table of pads by nothing, of these names and shapes; scale 0.5 for boxes, 0.25 for others, zero point 3."""
    inputs, layers = {}, []
    for name, shape in shapes.items():
        tensor = TensorType(shape, "int8", Quantization(0.5 if name.startswith("boxes") else 0.25, 3))
        inputs[f"{name}_in"] = tensor
        layers.append(Layer(name, "pad", (f"{name}_in",), tensor))
    return Table("net", inputs, tuple(layers), tuple(shapes) if outputs is None else outputs)


HEADS = {"classes_1": (2, 1, 18), "boxes_1": (2, 1, 24), "classes_2": (1, 1, 18), "boxes_2": (1, 1, 24)}


def test_detect_by_hand():
    """Two classes on maps of two positions and one; everything is background but one anchor in each map."""
    table = pads(HEADS)
    tensors = {name: np.full(shape, 3, np.int8) for name, shape in HEADS.items()}
    for name in ("classes_1", "classes_2"):
        tensors[name][:] = 3 - 80
    # Second position (y = 0.75), third anchor, second class: logit (11 - 3) / 4; moved down by 4 / 10 of its height.
    tensors["classes_1"][1, 0, 2 * 3 + 2] = 11
    tensors["boxes_1"][1, 0, 2 * 4] = 3 - 8
    # The last map's first anchor, first class: logit 1.
    tensors["classes_2"][0, 0, 1] = 7
    found = detect(table, tensors)
    assert feature_maps(table) == [(2, 1), (1, 1)]
    assert found.labels.tolist() == [1, 0]
    assert np.allclose(found.scores, [1 / (1 + exp(-2)), 1 / (1 + exp(-1))])
    height, width = 0.2 * sqrt(2), 0.2 / sqrt(2)
    y = 0.75 - 0.4 * height
    boxes = [[y - height / 2, 0.5 - width / 2, y + height / 2, 0.5 + width / 2], [0.05, 0.05, 0.95, 0.95]]
    assert np.allclose(found.boxes, boxes)
    softmax = detect(table, tensors, function="softmax", most=1)
    assert np.allclose(softmax.scores, [exp(2) / (exp(2) + 2 * exp(-20))])
    assert isinstance(softmax, Detections)
    assert len(detect(table, tensors, least=0.8)) == 1


def test_concatenated_heads_are_read_alike():
    rng = np.random.default_rng(3)
    tensors = {name: rng.integers(-128, 127, shape, np.int8, endpoint=True) for name, shape in HEADS.items()}
    tensors["boxes"] = np.concatenate([tensors[f"boxes_{number}"].reshape(-1, 4) for number in (1, 2)])
    tensors["classes"] = np.concatenate([tensors[f"classes_{number}"].reshape(-1, 3) for number in (1, 2)])
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    apart = head_outputs(pads(HEADS), tensors)
    together = head_outputs(
        pads(shapes, outputs=("classes", "boxes")), {name: tensors[name] for name in ("classes", "boxes")}
    )
    assert apart[0].shape == (3 * ANCHORS, 4) and apart[1].shape == (3 * ANCHORS, 3)
    assert np.array_equal(apart[0], (tensors["boxes"] - 3.0) / 2)
    for one, other in zip(apart, together, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "heads, message",
    [
        ({"scores": (1, 1, 18)}, "net: is no detector: it has no layer boxes_1"),
        ({"boxes_2": (1, 1, 24)}, "net: box head 1 must be boxes_1 (rows, columns, 24), not boxes_2 (1, 1, 24)"),
        ({"boxes_1": (1, 1, 20)}, "net: box head 1 must be boxes_1 (rows, columns, 24), not boxes_1 (1, 1, 20)"),
        ({"boxes_1": (24,)}, "net: box head 1 must be boxes_1 (rows, columns, 24), not boxes_1 (24,)"),
        ({"boxes_1": (1, 1, 24)}, "net: output classes_1 is missing among boxes_1"),
    ],
)
def test_networks_that_detect_nothing_are_refused(heads, message):
    with pytest.raises(GenError) as error:
        detect(pads(heads), {name: np.zeros(shape, np.int8) for name, shape in heads.items()})
    assert str(error.value) == message
