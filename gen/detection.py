"""What the host does with a detector's raw outputs: anchors, boxes, scores, non-maximum suppression.

Lengths are fractions of the image's height or width, y comes before x. A box is ``(ymin, xmin, ymax, xmax)``, an
anchor ``(y, x, height, width)`` around its centre. Anchors are ordered map by map, in a map row by row, in a position
as :func:`anchor_sizes` lists them: the order of a head's numbers in memory, (rows, columns, anchors x numbers). Column
0 of the classes is the background; labels count the classes behind it from 0. Everything is float64.

Source: W. Liu et al., SSD (arXiv:1512.02325), sections 2.1 and 2.2 for anchors and encoding, 3 for the thresholds;
M. Sandler et al., MobileNetV2 (arXiv:1801.04381), section 6.2, for SSDLite. Order of axes and the encoding's factors
are those of TensorFlow's Object Detection API.
"""

import re
from dataclasses import dataclass
from math import sqrt

import numpy as np

from gen.errors import GenError
from gen.table import Table

__all__ = [
    "ANCHORS",
    "Detections",
    "anchor_sizes",
    "anchors",
    "class_scores",
    "decode",
    "detect",
    "feature_maps",
    "head_outputs",
    "iou",
    "postprocess",
    "suppress",
]

#: Width over height of the anchors of one position; there is one larger square besides.
ASPECT_RATIOS = (1, 2, 1 / 2, 3, 1 / 3)
#: Anchors of one position.
ANCHORS = len(ASPECT_RATIOS) + 1
#: Scale of the anchors of the first map and of the last.
SCALES = (0.2, 0.9)
#: What an encoding's (y, x, height, width) are multiplied by: the inverse of the variances 0.1, 0.1, 0.2, 0.2.
FACTORS = (10, 10, 5, 5)


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found, best score first.

    Parameters
    ----------
    boxes : float64 array (n, 4)
        ``(ymin, xmin, ymax, xmax)``, within 0 to 1.
    labels : int64 array (n,)
        Classes, the background not counted.
    scores : float64 array (n,)
        Within 0 to 1, in descending order.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        """How many there are."""
        return len(self.scores)


def anchor_sizes(number: int, count: int) -> np.ndarray:
    """(height, width) of the anchors of one position in map ``number`` (from 0) of ``count``: float64 (ANCHORS, 2).

    Scales go in equal steps from 0.2 to 0.9; a ratio r of width to height gives scale / sqrt(r) by scale * sqrt(r).
    The last anchor is a square whose scale is the geometric mean of this map's and the next's, behind the last map 1.
    """
    first, last = SCALES
    scale, following = (first + (last - first) * k / max(count - 1, 1) for k in (number, number + 1))
    if number == count - 1:
        following = 1.0
    sizes = [(scale / sqrt(ratio), scale * sqrt(ratio)) for ratio in ASPECT_RATIOS]
    return np.array([*sizes, (sqrt(scale * following),) * 2])


def anchors(maps: list[tuple[int, int]]) -> np.ndarray:
    """Anchors of all ``maps``, each (rows, columns), finest first: ``(y, x, height, width)``, float64 (n, 4).

    Centres lie in the middle of each position's share of the image. Anchors may reach beyond the image.
    """
    found = []
    for number, (rows, columns) in enumerate(maps):
        y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
        centres = np.repeat(np.stack([y, x], axis=-1).reshape(-1, 2), ANCHORS, axis=0)
        sizes = np.tile(anchor_sizes(number, len(maps)), (rows * columns, 1))
        found.append(np.hstack([centres, sizes]))
    return np.concatenate(found) if found else np.zeros((0, 4))


def decode(encodings: np.ndarray, around: np.ndarray, factors=FACTORS) -> np.ndarray:
    """Boxes that ``encodings`` (n, 4) say relative to the anchors ``around`` (n, 4): float64 (n, 4), not clipped.

    ``factors`` divide an encoding's y, x, height and width t: a centre moves by t anchor heights or widths, a size is
    the anchor's times exp(t).

    Raises
    ------
    ValueError
        If the two are not (n, 4) alike.
    """
    encodings = _rows(encodings, 4, "encodings")
    around = _rows(around, 4, "anchors")
    if len(encodings) != len(around):
        raise ValueError(f"there must be an encoding for each of {len(around)} anchors, not {len(encodings)}")
    t = encodings / np.asarray(factors, np.float64)
    centres = around[:, :2] + t[:, :2] * around[:, 2:]
    with np.errstate(over="ignore"):
        halves = around[:, 2:] * np.exp(t[:, 2:]) / 2
    return np.hstack([centres - halves, centres + halves])


def class_scores(logits: np.ndarray, function: str = "sigmoid") -> np.ndarray:
    """Scores (n, classes) of ``logits`` (n, 1 + classes): ``sigmoid`` of each, or ``softmax`` over a row.

    The background's column takes part in the softmax and is left out of the result.
    """
    logits = np.asarray(logits, np.float64)
    if function == "sigmoid":
        # Of a negative magnitude only, so that nothing overflows.
        small = np.exp(-np.abs(logits))
        scores = np.where(logits >= 0, 1, small) / (1 + small)
    elif function == "softmax":
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores = exponentials / exponentials.sum(axis=-1, keepdims=True)
    else:
        raise ValueError(f"function must be sigmoid or softmax, not {function!r}")
    return scores[:, 1:]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each of the boxes ``a`` (n, 4) and each of ``b`` (m, 4): float64 (n, m).

    0 where both are empty. The Jaccard overlap of the SSD paper.
    """
    a, b = _rows(a, 4, "boxes")[:, np.newaxis], _rows(b, 4, "boxes")[np.newaxis]
    shared = _area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float = 0.45) -> np.ndarray:
    """Greedy non-maximum suppression of the boxes (n, 4) of one class: indices of those kept, best score first.

    The best box left is kept, and every box that overlaps it by an IoU above ``overlap`` goes, until none is left. Of
    equal scores the first counts as the better one.
    """
    boxes = _rows(boxes, 4, "boxes")
    left = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[iou(boxes[best : best + 1], boxes[left])[0] <= overlap]
    return np.array(kept, np.int64)


def postprocess(
    boxes: np.ndarray, scores: np.ndarray, *, least: float = 0.01, overlap: float = 0.45, most: int = 200
) -> Detections:
    """The detections among ``boxes`` (n, 4) with ``scores`` (n, classes).

    Boxes are clipped to the image; those of no area and scores below ``least`` do not count. Boxes of a class that
    overlap are suppressed as :func:`suppress` does; the ``most`` best of all classes are left. Of equal scores the
    lower class goes first, then the earlier box. The defaults are the SSD paper's.
    """
    boxes = np.clip(_rows(boxes, 4, "boxes"), 0, 1)
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or len(scores) != len(boxes):
        raise ValueError(f"scores must be ({len(boxes)}, classes) for as many boxes, not {scores.shape}")
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    found = []
    for label, column in enumerate(scores.T):
        candidates = np.flatnonzero(solid & (column >= least))
        kept = candidates[suppress(boxes[candidates], column[candidates], overlap)[:most]]
        found += [(index, label) for index in kept]
    index, label = np.array(found, np.int64).reshape(-1, 2).T
    best = np.argsort(-scores[index, label], kind="stable")[:most]
    return Detections(boxes[index[best]], label[best], scores[index[best], label[best]])


def feature_maps(table: Table) -> list[tuple[int, int]]:
    """(rows, columns) of the maps that a network of :func:`gen.builders.ssdlite_mobilenet_v2` detects on, finest first.

    Raises
    ------
    GenError
        If ``table`` has no layers ``boxes_1``, ``boxes_2``, ..., each of (rows, columns, 4 a anchor).
    """
    heads = [layer for layer in table.layers if re.fullmatch(r"boxes_[0-9]+", layer.name)]
    for number, head in enumerate(heads, start=1):
        shape = head.output.shape
        if head.name != f"boxes_{number}" or len(shape) != 3 or shape[-1] != 4 * ANCHORS:
            expected = f"boxes_{number} (rows, columns, {4 * ANCHORS})"
            raise GenError(f"{table.name}: box head {number} must be {expected}, not {head.name} {shape}")
    if not heads:
        raise GenError(f"{table.name}: is no detector: it has no layer boxes_1")
    return [head.output.shape[:2] for head in heads]


def head_outputs(table: Table, tensors: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Encodings (n, 4) and class logits (n, 1 + classes) of all anchors, in real numbers.

    ``tensors`` holds the network's outputs by name, with or without other tensors: ``classes`` and ``boxes``, or
    else ``classes_1``, ``boxes_1``, ``classes_2``, ... of the maps.

    Raises
    ------
    GenError
        If an output is missing.
    """
    maps = feature_maps(table)
    positions = sum(rows * columns for rows, columns in maps)

    def gather(head):
        names = [head] if head in table.outputs else [f"{head}_{number + 1}" for number in range(len(maps))]
        for name in names:
            if name not in tensors:
                raise GenError(f"{table.name}: output {name} is missing among {', '.join(tensors) or 'none'}")
        reals = [_dequantized(table, name, tensors[name]).ravel() for name in names]
        return np.concatenate(reals).reshape(positions * ANCHORS, -1)

    return gather("boxes"), gather("classes")


def detect(table: Table, tensors: dict[str, np.ndarray], *, function: str = "sigmoid", **limits) -> Detections:
    """What a network of :func:`gen.builders.ssdlite_mobilenet_v2` found: from raw outputs to detections.

    Parameters
    ----------
    table : Table
        The network.
    tensors : dict of str to int8 array
        Its outputs by name, from the golden model or from the accelerator.
    function : str
        What makes scores of logits; see :func:`class_scores`.
    limits
        ``least``, ``overlap`` and ``most`` of :func:`postprocess`.
    """
    encodings, logits = head_outputs(table, tensors)
    boxes = decode(encodings, anchors(feature_maps(table)))
    return postprocess(boxes, class_scores(logits, function), **limits)


def _dequantized(table, name, values):
    """``values`` of tensor ``name`` as real numbers."""
    quantization = table.tensor(name).quantization
    return quantization.scale * (np.asarray(values, np.float64) - quantization.zero_point)


def _area(low, high):
    """Area of boxes from corner ``low`` to corner ``high``, both (..., 2); 0 where a side is negative."""
    return np.maximum(high - low, 0).prod(axis=-1)


def _rows(values, width, name):
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"{name} must be (n, {width}), not {values.shape}")
    return values
