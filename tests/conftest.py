"""Fixtures that every test may use."""

import os
from itertools import count
from pathlib import Path

import pytest


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
