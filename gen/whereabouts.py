"""Where the layers of a network run, and what of their tensors the feature memory holds."""

from dataclasses import dataclass

from gen.layout import laid_out
from gen.packing import prevented
from gen.stages import MOVED, host_layers, results_of, stages_or_problems
from gen.table import Layer, Table, TensorType
from hw.config import BANKS, ArrayShape

__all__ = ["LANES", "LayerPlace", "Whereabouts", "whereabouts"]

#: Lanes of the array where nobody asks for others.
LANES = 8


@dataclass(frozen=True, eq=False)
class LayerPlace:
    """Where a layer runs.

    Parameters
    ----------
    layer : Layer
        As the lowered table has it; as the network itself has it, where the lowered table has it no more.
    source : TensorType
        Of the first tensor that it reads.
    folded_into : tuple of str
        The layers that do its work; empty where it runs itself.
    on_host : bool
        Whether the host runs it. Where it is not folded either, the accelerator does.
    stages : tuple of int
        The stages that compute it, from 0; empty if none does, or if the network cannot run.
    rows : int or None
        How many rows of its tensor the feature memory keeps; none of what never leaves a stage.
    """

    layer: Layer
    source: TensorType
    folded_into: tuple[str, ...]
    on_host: bool
    stages: tuple[int, ...]
    rows: int | None


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Where a network runs.

    Parameters
    ----------
    table : Table
        Lowered.
    layers : list of LayerPlace
        A place for each layer of the network itself, in order.
    lanes : int
        Lanes of the array that the feature memory is for.
    feature_bytes : int or None
        What the feature memory needs on such an array, as a plan for it says.
    problems : list of str
        Why the accelerator cannot run it.
    unshared : str or None
        Why two output channels cannot share multipliers on such an array; None where they can.
    """

    table: Table
    layers: list[LayerPlace]
    lanes: int
    feature_bytes: int | None
    problems: list[str]
    unshared: str | None


def whereabouts(network: Table, table: Table, lanes: int = LANES, words: int = 1) -> Whereabouts:
    """Where ``network`` runs, of which ``table`` is the lowered form, on an array of K = lanes x words by N = lanes."""
    stages, problems = stages_or_problems(table)
    rows, computed, depth, unshared = {}, {}, None, None
    if not problems:
        array = ArrayShape(lanes=lanes, words=words)
        _, placed, depth = laid_out(stages, array, results_of(table))
        unshared = prevented(table, stages, array)
        rows = {layer.name: 0 for stage in stages for layer in stage.layers}
        rows |= {stage.output: placed[stage.output].kept or stage.output_shape[0] for stage in stages}
        for number, stage in enumerate(stages):
            for layer in stage.layers:
                computed[layer.name] = (*computed.get(layer.name, ()), number)
    lowered = {layer.name: layer for layer in table.layers}
    host = host_layers(table)
    runs = {name for name, layer in lowered.items() if name in host or name in computed or layer.operator not in MOVED}

    def readers(name):
        found = [(layer.name,) if layer.name in runs else readers(layer.name) for layer in network.consumers(name)]
        return tuple(dict.fromkeys(reader for part in found for reader in part))

    places = [
        LayerPlace(
            layer=lowered.get(layer.name, layer),
            source=table.source(lowered[layer.name]) if layer.name in lowered else network.source(layer),
            folded_into=() if layer.name in runs else readers(layer.name),
            on_host=layer.name in host,
            stages=computed.get(layer.name, ()),
            rows=rows.get(layer.name),
        )
        for layer in network.layers
    ]
    return Whereabouts(table, places, lanes, None if depth is None else depth * BANKS * lanes, problems, unshared)
