"""Inputs of a network: drawn at random, or read from .npy files and checked against the layer table."""

from pathlib import Path

import numpy as np

from gen.errors import GenError
from gen.table import Table, TensorType

__all__ = ["load_inputs", "random_inputs"]


def random_inputs(table: Table, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """``count`` inputs of ``table``, each a dict of arrays by input name; the same ``seed`` gives the same ones.

    Integer tensors take every value of their type alike. Values of a float32 tensor that a ``quantize`` layer reads
    cover what that layer's output can represent, of any other -1 to 1.
    """
    rng = np.random.default_rng(seed)
    return [{name: _draw(table, name, tensor, rng) for name, tensor in table.inputs.items()} for _ in range(count)]


def _draw(table, name, tensor, rng):
    if tensor.dtype != "float32":
        limits = np.iinfo(tensor.dtype)
        return rng.integers(limits.min, limits.max, tensor.shape, tensor.dtype, endpoint=True)
    lo, hi = -1.0, 1.0
    for layer in table.consumers(name):
        to = layer.output.quantization
        if layer.operator == "quantize" and to is not None:
            limits = np.iinfo(layer.output.dtype)
            lo, hi = (to.scale * (q - to.zero_point) for q in (limits.min, limits.max))
    return rng.uniform(lo, hi, tensor.shape).astype(np.float32)


def load_inputs(table: Table, paths: list[Path]) -> list[dict[str, np.ndarray]]:
    """Read the inputs in ``paths``, in order.

    A file holds an array of the network's own input shape and element type, with or without a leading batch axis; a
    batch of n counts as n inputs.

    Raises
    ------
    GenError
        If the network has several inputs, or a file is missing, no .npy file, or of another shape or type.
    """
    if len(table.inputs) != 1:
        raise GenError(
            f"{table.name}: has {len(table.inputs)} inputs ({', '.join(table.inputs)}); files can be given "
            "to a network with one input only, draw them at random instead"
        )
    ((name, tensor),) = table.inputs.items()
    return [{name: array} for path in paths for array in _load(path, table.name, tensor)]


def _load(path, model, tensor: TensorType):
    """The arrays in ``path``, each of ``tensor``'s shape."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise GenError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # numpy raises many kinds of exception for a broken file
        raise GenError(f"{path}: is no .npy array of numbers: {error}") from error
    if array.dtype != tensor.dtype:
        raise GenError(f"{path}: element type must be {tensor.dtype} for {model}, not {array.dtype}")
    if array.shape == tensor.shape:
        return array[np.newaxis]
    if array.shape[1:] != tensor.shape or not len(array):
        raise GenError(
            f"{path}: shape must be {tensor.shape} or (n, {', '.join(map(str, tensor.shape))}) for {model}, "
            f"not {array.shape}"
        )
    return array
