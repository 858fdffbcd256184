"""Estimates of resources, against what designs were counted to take (docs/resources.md)."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import boards
from gen.build import count
from gen.passes import lower
from gen.plan import plan
from gen.resources import engines, estimate, expected_clock_hz
from gen.source import resolve

DOCUMENT = (Path(__file__).parent.parent / "docs" / "resources.md").read_text(encoding="utf-8")

#: Model, array, packing, and LUT4, flip-flops, multipliers, block RAMs of each row of the document's table.
COUNTED = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in DOCUMENT.splitlines()
    if re.match(r"\| \w+ \| \d+x\d+ \| (on|off) \|", line)
]


@pytest.fixture(scope="module")
def digits():
    return lower(resolve(None), folding=True)


def planned(model, array, packing, folder, request):
    """The plan of a row of the document's table."""
    if model == "pool":
        source = folder / "pool.toml"
        source.write_text(re.search(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)[1])
    elif model == "digits":
        source = None
    else:
        source = request.getfixturevalue("models_dir") / f"{model}.tflite"
    table = lower(resolve(source and str(source)), folding=True)
    k, n = map(int, array.split("x"))
    return plan(table, boards.get("ulx3s"), array=(k, n), packing=packing == "on")


def test_there_is_something_to_compare():
    assert len(COUNTED) >= 6 and {packing for _, _, packing, *_ in COUNTED} == {"on", "off"}


@pytest.mark.parametrize("row", COUNTED, ids="-".join)
def test_estimates_are_within_ten_percent(row, tmp_path, request):
    model, array, packing, *counts = row
    estimated = planned(model, array, packing, tmp_path, request).resources
    lut, ff, mult, ebr = (int(count.replace(",", "")) for count in counts)
    assert estimated["lut"] == pytest.approx(lut, rel=0.1)
    assert estimated["ff"] == pytest.approx(ff, rel=0.1)
    assert (estimated["mult"], estimated["ebr"]) == (mult, ebr)


@pytest.mark.synth
def test_a_design_counted_anew(tmp_path, request):
    """Yosys and nextpnr's packer still make of the smallest design what the document says, within 10 %."""
    row = COUNTED[0]
    report = count(planned(*row[:3], tmp_path, request), directory=tmp_path / "out")
    for name, written in zip(("lut", "ff", "mult", "ebr"), row[3:], strict=True):
        counted = report["resources"][name]["used"]
        assert counted == pytest.approx(int(written.replace(",", "")), rel=0.1)
        assert report["resources_estimated"][name] == pytest.approx(counted, rel=0.1)
    assert report["resources"]["mult"]["used"] == report["resources_estimated"]["mult"]
    assert (tmp_path / "out" / "top.json").exists()


def test_what_costs_more(digits):
    """Everything that a core may have or not is counted."""
    config = plan(digits, boards.get("ulx3s"), array=(8, 4), packing=False).config
    least = estimate(config)
    for changes in (
        {"max_pool": True}, {"residual_lanes": 1}, {"window_bits": (24,) * 4},
        {"depthwise_window_bits": (24,) * config.depthwise_lanes},
        {"hard_lanes": 0}, {"hard_columns": ()}, {"scale_depth": 20},
    ):  # fmt: skip
        more = estimate(replace(config, **changes))
        assert more["lut"] > least["lut"] and more["ff"] > least["ff"], changes
    without = estimate(replace(config, depthwise_lanes=0, hard_lanes=0, depthwise_window_bits=()))
    assert without["lut"] < least["lut"] - 3000 and without["ff"] < least["ff"] - 3000
    assert without["mult"] == least["mult"] - 2 * config.depthwise_lanes and without["ebr"] < least["ebr"]
    more = estimate(replace(config, depthwise_lanes=4, hard_lanes=4, depthwise_window_bits=(20,) * 4))
    assert more["lut"] > least["lut"] + 2 * 1000 and more["mult"] == least["mult"] + 4
    one, four = (estimate(replace(config, residual_lanes=lanes)) for lanes in (1, 4))
    assert four["lut"] - least["lut"] > 2 * (one["lut"] - least["lut"])
    assert one["ebr"] > least["ebr"]
    shared = estimate(replace(config, outputs=2, weight_depths=config.weight_depths[:2]))
    assert least["mult"] - shared["mult"] == 16 and shared["lut"] - least["lut"] > 16 * 40
    assert estimate(replace(config, weight_depths=(2100,) * 4))["lut"] > least["lut"] + 3 * 64


def test_engines_add_up(digits):
    config = plan(digits, boards.get("ulx3s"), array=(6, 2)).config
    parts = engines(config)
    assert all(lut >= 0 and ff >= 0 for lut, ff in parts.values())
    totals = estimate(config)
    assert (round(sum(lut for lut, _ in parts.values())), round(sum(ff for _, ff in parts.values()))) == (
        totals["lut"], totals["ff"],
    )  # fmt: skip


def test_the_expected_clock():
    """The same for all that is small, then falling, but never to nothing."""
    clocks = [expected_clock_hz(lut) for lut in (1_000, 20_000, 35_000, 40_000, 400_000, 500_000)]
    assert clocks[0] == clocks[1] > clocks[2] > clocks[3] > clocks[4] == clocks[5] > 0
