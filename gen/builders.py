"""Builders: published networks as layer tables with random weights, to try shapes and boards without a trained model.

A builder writes the text form of :mod:`gen.table_file` and has it read, so that a network built here and the same one
written by hand are the same table.
"""

import inspect

from gen.errors import GenError
from gen.table import Table
from gen.table_file import from_document

__all__ = ["BUILDERS", "build", "mobilenet_v1"]

#: MobileNetV1's depthwise separable pairs at alpha 1: channels of the pointwise layer, stride of the depthwise layer.
_V1_PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


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
    _check("alpha", alpha, 1 / 32, 4)
    _check("resolution", resolution, 1, 1024)
    _check("classes", classes, 1, 4095)
    _check("channels_in", channels_in, 1, 1024)
    if seed is not None:
        _check("seed", seed, 0, 2**63 - 1)
    convolution = {"operator": "conv2d", "padding": "same", "activation": "relu6"}
    depthwise = {"operator": "depthwise_conv2d", "kernel": 3, "padding": "same", "activation": "relu6"}
    rows = [{"name": "conv1", "channels": int(32 * alpha), "kernel": 3, "stride": 2, **convolution}]
    for number, (channels, stride) in enumerate(_V1_PAIRS, start=1):
        rows.append({"name": f"conv_dw_{number}", "stride": stride, **depthwise})
        rows.append({"name": f"conv_pw_{number}", "channels": int(channels * alpha), **convolution})
    rows.append({"name": "pool", "operator": "average_pool2d"})
    rows.append({"name": "classifier", "operator": "fully_connected", "channels": classes, "scale": 0.1})
    rows.append({"name": "softmax", "operator": "softmax"})
    name = f"mobilenet_v1_{alpha:g}_{resolution}_{classes}"
    image = {"shape": [resolution, resolution, channels_in], "scale": 1 / 127.5, "zero_point": -1}
    document = {"name": name, "inputs": {"image": image}, "layers": rows}
    if seed is not None:
        document["weights"] = {"seed": seed}
    return from_document(document, where=name)


#: What a builder's text may begin with.
BUILDERS = {"mobilenet_v1": mobilenet_v1}


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
            values[key] = kinds[key](value)
        except ValueError as error:
            kind = {int: "an integer", float: "a number"}[kinds[key]]
            raise GenError(f"{spec}: {key} must be {kind}, not {value!r}") from error
    try:
        return BUILDERS[name](**values)
    except GenError as error:
        raise GenError(f"{spec}: {error}") from error


def _check(name, value, lo, hi):
    if not lo <= value <= hi:
        raise GenError(f"{name} must be in {lo}..{hi}, not {value}")
