"""The layer table for people, and the same for programs."""

import numpy as np
import rich.box
import rich.table
from rich.text import Text

from gen.table import WINDOWED, Layer, Table, TensorType

__all__ = ["describe", "render"]


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
        "constant": _describe_constant(layer),
        "axis": layer.axis if layer.operator == "concatenation" else None,
        "macs": layer.macs,
        "parameters": layer.parameters,
        "activation_bytes": _bytes(layer.output),
    }


def _describe_tensor(tensor: TensorType):
    return {"shape": list(tensor.shape), "dtype": tensor.dtype, **_describe_quantization(tensor.quantization)}


def _describe_constant(layer):
    if layer.constant is None:
        return None
    shape = {"shape": list(layer.constant.shape), "dtype": "int8"}
    return shape | _describe_quantization(layer.constant_quantization) | {"first": layer.constant_first}


def _describe_quantization(quantization):
    return {
        "scale": None if quantization is None else quantization.scale,
        "zero_point": None if quantization is None else quantization.zero_point,
    }


def render(table: Table) -> rich.table.Table:
    """``table`` for a rich console: a row a layer, the host's layers marked, totals below.

    What a layer reads is shown where it is not the layer above alone; there is no such column where all layers do.
    """
    title = f"{table.name}: {len(table.layers)} layers, {table.macs:,} MACs, {table.parameters:,} parameters"
    grid = rich.table.Table(title=Text(title), box=rich.box.SIMPLE_HEAD, show_footer=True, title_justify="left")
    grid.add_column("layer", footer="total", overflow="fold")
    grid.add_column("operator", no_wrap=True)
    reads = _reads(table)
    if any(reads):
        grid.add_column("reads", overflow="fold")
    for header in ("input → output", "kernel", "stride", "padding", "activation"):
        grid.add_column(header, no_wrap=True)
    totals = table.macs, table.parameters, sum(_bytes(layer.output) for layer in table.layers)
    for header, total in zip(("MACs", "parameters", "activation bytes"), totals, strict=True):
        grid.add_column(header, f"{total:,}", justify="right", no_wrap=True)
    for layer, read in zip(table.layers, reads, strict=True):
        name, operator, *cells = _cells(table, layer)
        cells = [name, operator, *([read] if any(reads) else []), *cells]
        # Text, because names may hold what rich takes for markup.
        grid.add_row(*map(Text, cells), style="dim" if layer.on_host else "")
    return grid


def _reads(table):
    """For each layer the names of what it reads, and its constant; empty where that is just the layer above."""
    previous, reads = next(iter(table.inputs), None), []
    for layer in table.layers:
        operands = list(layer.inputs)
        if layer.constant is not None:
            operands.insert(0 if layer.constant_first else 1, _constant(layer))
        reads.append(", ".join(operands) if operands != [previous] else "")
        previous = layer.name
    return reads


def _constant(layer):
    """A constant operand: its real value, or how many there are."""
    if layer.constant.size > 1:
        return f"{layer.constant.size:,} constants"
    quantization = layer.constant_quantization
    return f"constant {quantization.scale * (int(layer.constant.flat[0]) - quantization.zero_point):.4g}"


def _cells(table, layer):
    windowed = layer.operator in WINDOWED
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
