"""Fixtures that every test may use."""

import os
import stat
import sys
from itertools import count
from pathlib import Path

import pytest
from stand_ins import ECPPACK, YOSYS, make_report, nextpnr

from gen import tools


def _folder(variable):
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} is not set: published files are not at hand (docs/models.md lists them)")
    return Path(path)


@pytest.fixture(scope="session")
def models_dir():
    """Folder of the published .tflite models."""
    return _folder("GEN_MODELS")


@pytest.fixture(scope="session")
def inputs_dir():
    """Folder of the published input tensors."""
    return _folder("GEN_INPUTS")


@pytest.fixture
def every_ring(monkeypatch):
    """Plans keep all rings, though networks as small as the tests' need none: every layout seems to take more memory
    than the one before."""
    counted = count()
    monkeypatch.setattr("gen.layout.filled_block_rams", lambda width, depth: next(counted))


@pytest.fixture
def fake_tools(tmp_path, monkeypatch):
    """A function that puts a Python program in the place of a tool; working stand-ins are there already."""
    folder = tmp_path / "tools"
    folder.mkdir()

    def put(tool, program):
        path = folder / tool
        path.write_text(f"#!{sys.executable}\nimport json, os, pathlib, sys, time\nargs = sys.argv[1:]\n" + program)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv(tools.variable(tool), str(path))

    put("yosys", YOSYS)
    put("nextpnr-ecp5", nextpnr(f"report = {make_report()!r}"))
    put("ecppack", ECPPACK)
    return put
