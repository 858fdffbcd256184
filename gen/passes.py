"""Passes: functions from a layer table to a layer table that computes the same outputs.

Every tensor that a pass leaves in the table keeps its name, type and values, bit for bit.
"""

from dataclasses import replace

from gen.folding import fold_constant_channels

__all__ = ["PASSES", "drop_reshapes", "fold_padding", "lower"]


def fold_padding(table):
    """Fold every pad that only convolutions read into their own padding.

    A convolution pads with its input's zero point, which is what a pad fills with: the numbers stay the same as long as
    the pad keeps the quantisation. A pad stays where its tensor is an output, or anything but a convolution reads it
    (an average pool leaves its own padding out of the mean, but counts a pad's; in a max pool a pad's zeros may win,
    its own padding never does).
    """
    layers = {layer.name: layer for layer in table.layers}
    # Last first, so that a pad behind a pad is gone by the time the first is looked at.
    for pad in reversed(table.layers):
        if pad.operator != "pad" or pad.name in table.outputs:
            continue
        readers = [layer for layer in layers.values() if pad.name in layer.inputs]
        foldable = readers and all(layer.operator in ("conv2d", "depthwise_conv2d") for layer in readers)
        if not foldable or pad.output.quantization != table.source(pad).quantization:
            continue
        for layer in readers:
            padding = tuple(own + added for own, added in zip(layer.padding, pad.padding, strict=True))
            layers[layer.name] = replace(layer, inputs=pad.inputs, padding=padding)
        del layers[pad.name]
    return table.with_layers(layers.values())


def drop_reshapes(table):
    """Drop every reshape whose readers can read its source instead.

    A fully connected layer runs over its flattened input and a reshape over any shape; everybody can skip a reshape
    that changes nothing, on each input. A reshape stays where its tensor is an output, or a reader (a host operator, a
    convolution) needs its shape; it moves no data, so the accelerator has nothing to do for it.
    """
    layers = {}
    skipped = {}  # reshape: the tensor that it reshapes, past any reshape before it
    for layer in table.layers:
        origins = [skipped.get(source, source) for source in layer.inputs]
        indifferent = layer.operator in ("fully_connected", "reshape")
        inputs = tuple(
            origin if indifferent or table.tensor(origin).shape == table.tensor(source).shape else source
            for origin, source in zip(origins, layer.inputs, strict=True)
        )
        if inputs != layer.inputs:
            layer = replace(layer, inputs=inputs)
        if layer.operator == "reshape":
            skipped[layer.name] = layer.inputs[0]
        layers[layer.name] = layer
    for name in skipped:
        if name not in table.outputs and all(name not in layer.inputs for layer in layers.values()):
            del layers[name]
    return table.with_layers(layers.values())


#: What :func:`lower` always runs, in order.
PASSES = (fold_padding, drop_reshapes)


def lower(table, *, folding=False):
    """The table that the hardware runs: :data:`PASSES` one after the other, and with ``folding`` a third.

    1. :func:`fold_padding`: no pads in front of convolutions.
    2. :func:`drop_reshapes`: no reshapes but those that give an output or a host operator its shape, or a convolution
       or pool the shape of an input that came flat.
    3. :func:`gen.folding.fold_constant_channels`: no channels that cannot change.
    """
    for run in (*PASSES, fold_constant_channels) if folding else PASSES:
        table = run(table)
    return table
