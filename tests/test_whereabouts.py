"""Where layers run, and what the feature memory holds of them, against the plans that say so."""

from dataclasses import replace

import numpy as np
import pytest
from random_tables import CORE_KINDS, random_table

import boards
from gen.builders import build
from gen.errors import GenError
from gen.importer import load_tflite
from gen.passes import lower
from gen.plan import plan
from gen.source import resolve
from gen.stages import host_layers, stages_of
from gen.table import Layer
from gen.whereabouts import whereabouts

SIM = boards.get("sim")


def as_planned(network, array, folding=True):
    """Where ``network`` runs, once it is sure that the plan for ``array`` says the same."""
    table = lower(network, folding=folding)
    where = whereabouts(network, table, array[1])
    planned = plan(table, SIM, array=array)
    assert where.feature_bytes == planned.report()["feature_bytes"]
    assert not where.problems
    rings = {place.layer.name: place.rows for place in where.layers if place.rows}
    assert {name: rows for name, rows in rings.items() if name in planned.places} == {
        name: placed.kept or placed.shape[0] for name, placed in planned.places.items() if name in rings
    }
    assert {layer.name for stage in planned.stages for layer in stage.layers} == {
        place.layer.name for place in where.layers if place.stages
    }
    return where


@pytest.mark.parametrize("array", [(8, 8), (4, 2), (9, 3), (1, 1), (12, 12)])
def test_digits(array):
    as_planned(resolve(None), array)


@pytest.mark.parametrize("folding", [False, True])
@pytest.mark.parametrize(
    "spec",
    [
        "mobilenet_v1:alpha=0.25,resolution=96,classes=2",
        "mobilenet_v2:alpha=0.35,resolution=64,classes=2",
        "ssdlite_mobilenet_v2:alpha=0.35,resolution=64,classes=2",
        "ssdlite_mobilenet_v2:alpha=0.35,resolution=64,classes=2,concatenated=true",
    ],
)
def test_builders(spec, folding):
    where = as_planned(build(spec), (16, 8), folding)
    assert all(place.rows is None for place in where.layers if place.on_host)
    assert any(place.rows < place.layer.output.shape[0] for place in where.layers if place.rows)  # a ring


@pytest.mark.parametrize(
    "model", ["vww_96_int8", "person_detect", "kws_ref_model", "ad01_int8", "micro_speech_quantized",
              "mobilenetv2_160_035", "pretrainedResnet_quant"],
)  # fmt: skip
def test_published(models_dir, model):
    as_planned(load_tflite(models_dir / f"{model}.tflite"), (16, 8))


def test_pads_and_reshapes_are_folded_into_what_reads_them():
    for seed in range(20):
        network = random_table(np.random.default_rng(seed), kinds=CORE_KINDS, outputs=2)
        table = lower(network)
        where = whereabouts(network, table, 4)
        gone = {layer.name for layer in network.layers} - {layer.name for layer in table.layers}
        assert gone <= {place.layer.name for place in where.layers if place.folded_into}
        for place in where.layers:
            readers = {table[name].operator for name in place.folded_into}
            if place.layer.operator == "pad":
                assert readers <= {"conv2d", "depthwise_conv2d"}
            assert (place.layer.operator in ("pad", "reshape")) or not place.folded_into


def test_a_table_that_cannot_run_is_described_all_the_same():
    network = build("mobilenet_v1:alpha=0.25,resolution=32,classes=2")
    first = network.layers[0]
    product = Layer("product", "mul", (first.name, first.name), first.output)
    table = replace(network, layers=(first, product, *network.layers[1:]), outputs=(*network.outputs, "product"))
    with pytest.raises(GenError, match="product: mul of two tensors has no engine"):
        stages_of(lower(table))
    where = whereabouts(table, lower(table))
    assert where.problems == [f"{table.name}: product: mul of two tensors has no engine"]
    assert where.feature_bytes is None
    assert all(place.rows is None and not place.stages for place in where.layers)
    assert {place.layer.name for place in where.layers if place.on_host} == {"softmax"}


def test_what_the_host_moves():
    """Reshapes and concatenations run on the host at the edges; elsewhere a reshape moves nothing."""
    network = build("ssdlite_mobilenet_v2:alpha=0.35,resolution=64,classes=2,concatenated=true")
    moved = {layer.name for layer in network.layers if layer.operator in ("reshape", "concatenation")}
    assert host_layers(lower(network)) == moved
    assert {place.layer.name for place in whereabouts(network, lower(network)).layers if place.on_host} == moved
