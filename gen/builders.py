"""Builders: published networks as layer tables with random weights, to try shapes and boards without a trained model.

A builder writes the text form of :mod:`gen.table_file` and has it read, so that a network built here and the same one
written by hand are the same table.
"""

import inspect
from math import hypot

from gen.detection import ANCHORS
from gen.errors import GenError
from gen.table import Table
from gen.table_file import from_document

__all__ = ["BUILDERS", "build", "mobilenet_v1", "mobilenet_v2", "ssdlite_mobilenet_v2"]

#: MobileNetV1's depthwise separable pairs at alpha 1: channels of the pointwise layer, stride of the depthwise layer.
_V1_PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))

#: MobileNetV2's inverted residual blocks at alpha 1: channels, how many blocks, stride of the first of them.
_V2_BLOCKS = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
#: SSDLite's feature maps behind the backbone's two: channels at alpha 1.
_SSDLITE_EXTRAS = (512, 256, 256, 128)

_CONVOLUTION = {"operator": "conv2d", "padding": "same", "activation": "relu6"}
_DEPTHWISE = {"operator": "depthwise_conv2d", "kernel": 3, "padding": "same", "activation": "relu6"}
#: Quantisations as trained networks have them. Zero points other than 0 are there to be handled.
_RELU6_SCALE = 6 / 255
_LINEAR = {"scale": 0.2, "zero_point": -4}
_RESIDUAL_ZERO_POINT = -5
#: Boxes move by half an anchor; of classes, most logits are below 0, as most of an image is background.
_BOX_ENCODINGS = {"scale": 1 / 16, "zero_point": 0}
_CLASS_LOGITS = {"scale": 1 / 16, "zero_point": 80}


def mobilenet_v1(
    alpha: float = 1.0, resolution: int = 224, classes: int = 1000, channels_in: int = 3, seed: int | None = 0
) -> Table:
    """MobileNetV1: a standard convolution, 13 depthwise separable pairs, average pool, classifier, softmax.

    Parameters
    ----------
    alpha : float
        Width multiplier: a layer has ``int(c * alpha)`` channels. 1/32 to 4.
    resolution : int
        Height and width of the input. 1 to 1024.
    classes : int
        Outputs of the classifier. 1 to 4095, the most that TensorFlow Lite's softmax takes.
    channels_in : int
        Channels of the input. 1 to 1024.
    seed : int
        Where the weights come from. 0 to 2**63 - 1; None leaves them 0, which is quick where only shapes matter.

    Raises
    ------
    GenError
        If a parameter is out of range.

    Source: A. Howard et al., MobileNets (arXiv:1704.04861), table 1.
    """
    _check_network(alpha, resolution, classes, channels_in, seed)
    rows = [{"name": "conv1", "channels": int(32 * alpha), "kernel": 3, "stride": 2, **_CONVOLUTION}]
    for number, (channels, stride) in enumerate(_V1_PAIRS, start=1):
        rows.append({"name": f"conv_dw_{number}", "stride": stride, **_DEPTHWISE})
        rows.append({"name": f"conv_pw_{number}", "channels": int(channels * alpha), **_CONVOLUTION})
    rows += _classifier(classes)
    return _table(f"mobilenet_v1_{alpha:g}_{resolution}_{classes}", resolution, channels_in, rows, seed)


def mobilenet_v2(
    alpha: float = 1.0,
    resolution: int = 224,
    classes: int = 1000,
    expansion: int = 6,
    channels_in: int = 3,
    seed: int | None = 0,
) -> Table:
    """MobileNetV2: a standard convolution, 17 inverted residual blocks, 1x1 convolution, pool, classifier, softmax.

    A block is ``block_N_expand`` (1x1, ReLU6; not in the first block), ``block_N_depthwise`` (3x3, ReLU6) and
    ``block_N_project`` (1x1, linear). Where its stride is 1 and it makes as many channels as it reads, ``block_N_add``
    adds what it read.

    Parameters
    ----------
    alpha : float
        Width multiplier: a layer has ``c * alpha`` channels, rounded to a multiple of 8 and never below 90 % of it. The
        last 1x1 convolution has at least its 1280. 1/32 to 4.
    resolution : int
        Height and width of the input. 1 to 1024.
    classes : int
        Outputs of the classifier. 1 to 4095, the most that TensorFlow Lite's softmax takes.
    expansion : int
        How many times as many channels the depthwise layer has as its block's input. 1 to 16; 1 leaves the expansions
        out.
    channels_in : int
        Channels of the input. 1 to 1024.
    seed : int
        Where the weights come from. 0 to 2**63 - 1; None leaves them 0, which is quick where only shapes matter.

    Raises
    ------
    GenError
        If a parameter is out of range.

    Source: M. Sandler et al., MobileNetV2 (arXiv:1801.04381), table 2; the rounding is that of the authors' code.
    """
    _check_network(alpha, resolution, classes, channels_in, seed)
    _check("expansion", expansion, 1, 16)
    rows = _inverted_residuals(alpha, expansion)
    rows.append({"name": "conv_last", "channels": max(1280, _channels(1280 * alpha)), **_CONVOLUTION})
    rows += _classifier(classes)
    return _table(f"mobilenet_v2_{alpha:g}_{resolution}_{classes}", resolution, channels_in, rows, seed)


def ssdlite_mobilenet_v2(
    alpha: float = 1.0,
    resolution: int = 320,
    classes: int = 80,
    expansion: int = 6,
    channels_in: int = 3,
    maps: int = 6,
    concatenated: bool = False,
    seed: int | None = 0,
) -> Table:
    """SSDLite on MobileNetV2: boxes and classes from feature maps of falling resolution, for :mod:`gen.detection`.

    The first map is ``block_14_expand``, a 16th of the resolution, the second the last 1x1 convolution, a 32nd. Each
    further one halves the map before: ``extra_K_reduce`` (1x1), ``extra_K_depthwise`` (3x3, stride 2), ``extra_K``
    (1x1). There are none behind a map of one pixel. On map K, the heads ``classes_K`` and ``boxes_K`` are linear 1x1
    convolutions, each behind a 3x3 depthwise one of its own.

    Outputs are ``classes_1``, ``boxes_1``, ``classes_2``, ...: logits (rows, columns, anchors x (1 + classes)), column
    0 for the background, and encodings (rows, columns, anchors x 4). All class heads have one quantisation, all box
    heads another.

    Parameters
    ----------
    alpha, resolution, channels_in, seed
        As of :func:`mobilenet_v2`; but the last 1x1 convolution and the extra maps scale with ``alpha`` too.
    classes : int
        What is told apart, the background not counted. 1 to 1000.
    expansion : int
        As of :func:`mobilenet_v2`. 2 to 16.
    maps : int
        The most feature maps there may be. 2 to 6.
    concatenated : bool
        Whether there are two outputs instead: ``classes`` (n, 1 + classes) and ``boxes`` (n, 4) of all anchors.

    Raises
    ------
    GenError
        If a parameter is out of range.

    Source: M. Sandler et al., MobileNetV2 (arXiv:1801.04381), section 6.2; W. Liu et al., SSD (arXiv:1512.02325),
    section 2.1. Channels of the extra maps are those of the authors' detector in TensorFlow's Object Detection API.
    """
    _check_network(alpha, resolution, classes, channels_in, seed)
    _check("classes", classes, 1, 1000)
    _check("expansion", expansion, 2, 16)
    _check("maps", maps, 2, 2 + len(_SSDLITE_EXTRAS))
    rows, outputs = [], []

    def add_heads(source):
        number = len(outputs) // 2 + 1
        for head, numbers, quantization in (("classes", 1 + classes, _CLASS_LOGITS), ("boxes", 4, _BOX_ENCODINGS)):
            name = f"{head}_{number}"
            rows.append({"name": f"{name}_depthwise", "inputs": source, **_DEPTHWISE})
            rows.append({"name": name, "operator": "conv2d", "channels": ANCHORS * numbers, **quantization})
            outputs.append(name)

    for row in _inverted_residuals(alpha, expansion):
        rows.append(row)
        if row["name"] == "block_14_expand":
            add_heads(row["name"])
    source = "conv_last"
    rows.append({"name": source, "inputs": "block_17_project", "channels": _channels(1280 * alpha), **_CONVOLUTION})
    add_heads(source)
    sizes = [-(-resolution // 16), -(-resolution // 32)]
    for number, channels in enumerate(_SSDLITE_EXTRAS[: maps - 2], start=3):
        if sizes[-1] == 1:
            break
        name = f"extra_{number}"
        reduced, channels = _channels(channels / 2 * alpha), _channels(channels * alpha)
        rows.append({"name": f"{name}_reduce", "inputs": source, "channels": reduced, **_CONVOLUTION})
        rows.append({"name": f"{name}_depthwise", "stride": 2, **_DEPTHWISE})
        rows.append({"name": name, "channels": channels, **_CONVOLUTION})
        source = name
        add_heads(source)
        sizes.append(-(-sizes[-1] // 2))
    if concatenated:
        outputs = []
        for head, numbers in (("classes", 1 + classes), ("boxes", 4)):
            flat = []
            for number, size in enumerate(sizes, start=1):
                flat.append(f"{head}_{number}_flat")
                shape = [size * size * ANCHORS, numbers]
                rows.append({"name": flat[-1], "operator": "reshape", "inputs": f"{head}_{number}", "shape": shape})
            rows.append({"name": head, "operator": "concatenation", "inputs": flat, "axis": 0})
            outputs.append(head)
    name = f"ssdlite_mobilenet_v2_{alpha:g}_{resolution}_{classes}"
    return _table(name, resolution, channels_in, rows, seed, outputs)


def _inverted_residuals(alpha, expansion):
    """Rows of MobileNetV2 up to the last block; each names the tensors that it reads."""
    source, channels, scale = "conv1", _channels(32 * alpha), _RELU6_SCALE
    rows = [{"name": source, "inputs": "image", "channels": channels, "kernel": 3, "stride": 2, **_CONVOLUTION}]
    blocks = [(wide, 1 if repeat else first) for wide, count, first in _V2_BLOCKS for repeat in range(count)]
    for number, (wide, stride) in enumerate(blocks, start=1):
        block, made, read = f"block_{number}", _channels(wide * alpha), source
        if number > 1 and expansion > 1:
            expanded = {"name": f"{block}_expand", "channels": channels * expansion}
            rows.append({**expanded, "inputs": read, **_CONVOLUTION})
            read = f"{block}_expand"
        rows.append({"name": f"{block}_depthwise", "inputs": read, "stride": stride, **_DEPTHWISE})
        project = {"name": f"{block}_project", "inputs": f"{block}_depthwise"}
        rows.append({**project, "operator": "conv2d", "channels": made, **_LINEAR})
        if stride == 1 and made == channels:
            # Deviations of independent summands add as the sides of a right angle.
            scale = hypot(scale, _LINEAR["scale"])
            added = {"name": f"{block}_add", "inputs": [source, f"{block}_project"]}
            rows.append({**added, "operator": "add", "scale": scale, "zero_point": _RESIDUAL_ZERO_POINT})
        else:
            scale = _LINEAR["scale"]
        source, channels = rows[-1]["name"], made
    return rows


def _classifier(classes):
    """Rows from the last feature map to the classes' scores."""
    return [
        {"name": "pool", "operator": "average_pool2d"},
        {"name": "classifier", "operator": "fully_connected", "channels": classes, "scale": 0.1},
        {"name": "softmax", "operator": "softmax"},
    ]


def _table(name, resolution, channels_in, rows, seed, outputs=None):
    """The table of ``rows``, which read an image."""
    image = {"shape": [resolution, resolution, channels_in], "scale": 1 / 127.5, "zero_point": -1}
    document = {"name": name, "inputs": {"image": image}, "layers": rows}
    if outputs is not None:
        document["outputs"] = outputs
    if seed is not None:
        document["weights"] = {"seed": seed}
    return from_document(document, where=name)


def _channels(wanted):
    """The multiple of 8 nearest to ``wanted``, or the next one where that is below 90 % of it; so 8 at least."""
    rounded = int(wanted + 4) // 8 * 8
    return rounded + 8 if rounded < 0.9 * wanted else rounded


#: What a builder's text may begin with.
BUILDERS = {builder.__name__: builder for builder in (mobilenet_v1, mobilenet_v2, ssdlite_mobilenet_v2)}


def build(spec: str) -> Table:
    """The table that ``spec`` asks for: ``BUILDER`` or ``BUILDER:PARAMETER=VALUE,...``.

    ``mobilenet_v1:alpha=0.25,resolution=96,classes=2``, for instance; a parameter left out has the builder's default.

    Raises
    ------
    GenError
        If builder, parameter or value is unknown or out of range.
    """
    name, colon, text = spec.partition(":")
    if name not in BUILDERS:
        raise GenError(f"{spec}: builder must be one of {', '.join(BUILDERS)}, not {name!r}")
    kinds = {key: type(parameter.default) for key, parameter in inspect.signature(BUILDERS[name]).parameters.items()}
    values = {}
    for item in text.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if key not in kinds or not equals:
            raise GenError(f"{spec}: parameter must be one of {', '.join(f'{kind}=' for kind in kinds)}, not {item!r}")
        if key in values:
            raise GenError(f"{spec}: {key} is given twice")
        try:
            values[key] = {"false": False, "true": True}[value] if kinds[key] is bool else kinds[key](value)
        except (KeyError, ValueError) as error:
            kind = {bool: "true or false", int: "an integer", float: "a number"}[kinds[key]]
            raise GenError(f"{spec}: {key} must be {kind}, not {value!r}") from error
    try:
        return BUILDERS[name](**values)
    except GenError as error:
        raise GenError(f"{spec}: {error}") from error


def _check_network(alpha, resolution, classes, channels_in, seed):
    """Refuse what no builder takes."""
    _check("alpha", alpha, 1 / 32, 4)
    _check("resolution", resolution, 1, 1024)
    _check("classes", classes, 1, 4095)
    _check("channels_in", channels_in, 1, 1024)
    if seed is not None:
        _check("seed", seed, 0, 2**63 - 1)


def _check(name, value, lo, hi):
    if not lo <= value <= hi:
        raise GenError(f"{name} must be in {lo}..{hi}, not {value}")
