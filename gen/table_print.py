"""The layer table for people, and the same for programs."""

import numpy as np
import rich.box
import rich.table
from rich.console import Group
from rich.text import Text

from gen.table import WINDOWED, TensorType
from gen.whereabouts import LayerPlace, Whereabouts

__all__ = ["describe", "render"]


def describe(where: Whereabouts) -> dict:
    """A network without its weights, made of what JSON knows: sizes, costs and places of layers, and their totals."""
    table = where.table
    return {
        "model": table.name,
        "inputs": {name: _describe_tensor(tensor) for name, tensor in table.inputs.items()},
        "outputs": list(table.outputs),
        "macs": table.macs,
        "parameters": table.parameters,
        "activation_bytes": sum(_bytes(layer.output) for layer in table.layers),
        "largest_activation_bytes": max(map(_bytes, _tensors(table))),
        "lanes": where.lanes,
        "feature_bytes": where.feature_bytes,
        "packing": not where.problems and where.unshared is None,
        "problems": where.problems,
        "layers": [_describe_layer(place) for place in where.layers],
    }


def _describe_layer(place: LayerPlace):
    layer = place.layer
    return {
        "name": layer.name,
        "operator": layer.operator,
        "on_host": place.on_host,
        "folded_into": list(place.folded_into),
        "stages": list(place.stages),
        "rows_kept": place.rows,
        "inputs": list(layer.inputs),
        "input_shape": list(place.source.shape),
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


def render(where: Whereabouts) -> Group:
    """A network for a rich console: a row a layer, totals, and what the feature memory needs below.

    What a layer reads is shown where it is not the layer above alone; there is no such column where all layers do.
    What does not run on the accelerator is dim.
    """
    table = where.table
    title = f"{table.name}: {len(where.layers)} layers, {table.macs:,} MACs, {table.parameters:,} parameters"
    grid = rich.table.Table(title=Text(title), box=rich.box.SIMPLE_HEAD, show_footer=True, title_justify="left")
    grid.add_column("layer", footer="total", overflow="fold")
    grid.add_column("operator", no_wrap=True)
    reads = _reads(where)
    if any(reads):
        grid.add_column("reads", overflow="fold")
    for header in ("input → output", "kernel", "stride", "padding", "activation"):
        grid.add_column(header, no_wrap=True)
    totals = table.macs, table.parameters, sum(_bytes(layer.output) for layer in table.layers)
    for header, total in zip(("MACs", "parameters", "activation bytes"), totals, strict=True):
        grid.add_column(header, f"{total:,}", justify="right", no_wrap=True)
    grid.add_column("runs on", overflow="fold")
    grid.add_column("stage", justify="right", no_wrap=True)
    grid.add_column("rows kept", justify="right", no_wrap=True)
    for place, read in zip(where.layers, reads, strict=True):
        name, operator, *cells = _cells(place)
        cells = [name, operator, *([read] if any(reads) else []), *cells]
        # Text, because names may hold what rich takes for markup.
        grid.add_row(*map(Text, cells), style="dim" if place.on_host or place.folded_into else "")
    return Group(grid, *map(Text, _memory(where)))


def _memory(where):
    """Sentences about the feature memory, or why the accelerator cannot run the network."""
    if where.problems:
        return ["the accelerator cannot run it:", *where.problems]
    sharing = f"one MAC each, for {where.unshared}" if where.unshared else "two MACs each, unless with --packing off"
    return [
        f"multipliers: {sharing}",
        f"feature memory: {where.feature_bytes:,} bytes with {where.lanes} lanes, N of --array KxN",
    ]


def _reads(where):
    """For each layer the names of what it reads, and its constant; empty where that is just the layer above."""
    previous, reads = next(iter(where.table.inputs), None), []
    for place in where.layers:
        layer = place.layer
        operands = list(layer.inputs)
        if layer.constant is not None:
            operands.insert(0 if layer.constant_first else 1, _constant(layer))
        reads.append(", ".join(operands) if operands != [previous] else "")
        previous = previous if place.folded_into else layer.name
    return reads


def _constant(layer):
    """A constant operand: its real value, or how many there are."""
    if layer.constant.size > 1:
        return f"{layer.constant.size:,} constants"
    quantization = layer.constant_quantization
    return f"constant {quantization.scale * (int(layer.constant.flat[0]) - quantization.zero_point):.4g}"


def _cells(place):
    layer = place.layer
    windowed = layer.operator in WINDOWED
    padded = windowed or layer.operator == "pad"
    return (
        layer.name,
        layer.operator,
        f"{_by(place.source.shape)} → {_by(layer.output.shape)}",
        _by(layer.kernel) if windowed else "",
        _by(layer.stride) if windowed else "",
        _padding(layer.padding) if padded else "",
        layer.activation if layer.activation != "none" else "",
        f"{layer.macs:,}" if layer.macs else "",
        f"{layer.parameters:,}" if layer.parameters else "",
        f"{_bytes(layer.output):,}" if not place.folded_into else "",
        _runs_on(place),
        "-".join(str(number + 1) for number in sorted({*place.stages[:1], *place.stages[-1:]})),
        _rows_kept(place),
    )


def _runs_on(place):
    if place.folded_into:
        return f"folded into {', '.join(place.folded_into)}"
    return "host" if place.on_host else "accelerator"


def _rows_kept(place):
    """How many rows of a layer's tensor stay in the feature memory; nothing where all do."""
    height = place.layer.output.shape[0] if len(place.layer.output.shape) == 3 else 1
    if place.rows in (None, height):
        return ""
    return f"{place.rows} of {height}" if place.rows else "none"


def _by(sizes):
    return "x".join(map(str, sizes))


def _padding(padding):
    """Above, below, left and right; one number where all are equal."""
    return " ".join(map(str, padding)) if len(set(padding)) > 1 else str(padding[0])


def _tensors(table):
    return (*table.inputs.values(), *(layer.output for layer in table.layers))


def _bytes(tensor):
    return tensor.size * np.dtype(tensor.dtype).itemsize
