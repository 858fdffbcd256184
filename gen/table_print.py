"""The layer table for people, and the same for programs."""

import numpy as np
import rich.box
import rich.table
from rich.text import Text

from gen.table import Layer, Table, TensorType

__all__ = ["describe", "render"]

#: Operators whose window means something to a reader.
_WINDOWED = ("conv2d", "depthwise_conv2d", "average_pool2d")


def describe(table: Table) -> dict:
    """``table`` without its weights, made of what JSON knows: sizes and costs of every layer, and their totals."""
    return {
        "model": table.name,
        "inputs": {name: _describe_tensor(tensor) for name, tensor in table.inputs.items()},
        "outputs": list(table.outputs),
        "macs": table.macs,
        "parameters": table.parameters,
        "activation_bytes": sum(_bytes(layer.output) for layer in table.layers),
        "largest_activation_bytes": max(map(_bytes, _tensors(table))),
        "layers": [_describe_layer(table, layer) for layer in table.layers],
    }


def _describe_layer(table, layer: Layer):
    return {
        "name": layer.name,
        "operator": layer.operator,
        "on_host": layer.on_host,
        "inputs": list(layer.inputs),
        "input_shape": list(table.source(layer).shape),
        "output": _describe_tensor(layer.output),
        "kernel": list(layer.kernel),
        "stride": list(layer.stride),
        "padding": list(layer.padding),
        "activation": layer.activation,
        "clamp": list(layer.clamp),
        "macs": layer.macs,
        "parameters": layer.parameters,
        "activation_bytes": _bytes(layer.output),
    }


def _describe_tensor(tensor: TensorType):
    quantization = tensor.quantization
    return {
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "scale": None if quantization is None else quantization.scale,
        "zero_point": None if quantization is None else quantization.zero_point,
    }


def render(table: Table) -> rich.table.Table:
    """``table`` for a rich console: a row a layer, the host's layers marked, totals below."""
    title = f"{table.name}: {len(table.layers)} layers, {table.macs:,} MACs, {table.parameters:,} parameters"
    grid = rich.table.Table(title=Text(title), box=rich.box.SIMPLE_HEAD, show_footer=True, title_justify="left")
    grid.add_column("layer", footer="total", overflow="fold")
    for header in ("operator", "input → output", "kernel", "stride", "padding", "activation"):
        grid.add_column(header, no_wrap=True)
    totals = table.macs, table.parameters, sum(_bytes(layer.output) for layer in table.layers)
    for header, total in zip(("MACs", "parameters", "activation bytes"), totals, strict=True):
        grid.add_column(header, f"{total:,}", justify="right", no_wrap=True)
    for layer in table.layers:
        # Text, because names may hold what rich takes for markup.
        grid.add_row(*(Text(cell) for cell in _cells(table, layer)), style="dim" if layer.on_host else "")
    return grid


def _cells(table, layer):
    windowed = layer.operator in _WINDOWED
    padded = windowed or layer.operator == "pad"
    return (
        layer.name,
        f"{layer.operator} (host)" if layer.on_host else layer.operator,
        f"{_by(table.source(layer).shape)} → {_by(layer.output.shape)}",
        _by(layer.kernel) if windowed else "",
        _by(layer.stride) if windowed else "",
        _padding(layer.padding) if padded else "",
        layer.activation if layer.activation != "none" else "",
        f"{layer.macs:,}" if layer.macs else "",
        f"{layer.parameters:,}" if layer.parameters else "",
        f"{_bytes(layer.output):,}",
    )


def _by(sizes):
    return "x".join(map(str, sizes))


def _padding(padding):
    """Above, below, left and right; one number where all are equal."""
    return " ".join(map(str, padding)) if len(set(padding)) > 1 else str(padding[0])


def _tensors(table):
    return (*table.inputs.values(), *(layer.output for layer in table.layers))


def _bytes(tensor):
    return tensor.size * np.dtype(tensor.dtype).itemsize
