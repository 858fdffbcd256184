"""Who may import whom: the hardware knows nothing of the front end, and the golden model nothing of the hardware."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("boards", "gen", "hw", "sim")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(source, module):
    """Full names of all modules, and of what is taken from them, that the text ``source`` of ``module`` imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def inside(name, *modules):
    """Whether ``name`` is one of ``modules`` or something in it."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def forbidden(path, names):
    """Those of ``names`` that the file at ``path`` must not import."""
    package = path.parts[0]
    if path == Path("gen/table.py"):
        return {name for name in names if inside(name, *PACKAGES)}
    if package == "hw":
        return {name for name in names if inside(name, "gen", "sim", "boards")}
    if package == "boards":
        return {name for name in names if inside(name, "gen", "sim")}
    if package == "sim":
        allowed = ["numpy", "gen.table", *sys.stdlib_module_names]
        if path != Path("sim/golden.py"):
            allowed += ["sim", "cocotb", "cocotb_tools"]
        return {name for name in names if not inside(name, *allowed)}
    return set()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_direction_of_imports(path):
    module = ".".join(path.with_suffix("").parts)
    assert not forbidden(path, imports((ROOT / path).read_text(), module))


@pytest.mark.parametrize(
    "path, source",
    [
        ("hw/core.py", "from gen import plan"),
        ("hw/core.py", "import sim.golden"),
        ("hw/core.py", "def f():\n    from boards.pll import PLL"),
        ("hw/core.py", "from ..gen import plan"),
        ("boards/top.py", "from gen.errors import GenError"),
        ("gen/table.py", "from .errors import GenError"),
        ("gen/table.py", "import hw"),
        ("sim/golden.py", "from hw.requantise import Requantise"),
        ("sim/golden.py", "from gen.errors import GenError"),
        ("sim/golden.py", "import cocotb"),
        ("sim/bench.py", "from gen import errors"),
        ("sim/bench.py", "import amaranth"),
    ],
)
def test_wrong_directions_are_seen(path, source):
    path = Path(path)
    assert forbidden(path, imports(source, ".".join(path.with_suffix("").parts)))


@pytest.mark.parametrize(
    "path, source",
    [
        ("hw/core.py", "from amaranth import Module\nfrom .array import Array"),
        ("boards/top.py", "from hw.core import Core"),
        ("gen/cli.py", "import boards, hw.core\nfrom sim import golden"),
        ("sim/golden.py", "import numpy as np\nfrom gen.table import Table\nfrom gen import table"),
        ("sim/bench.py", "import cocotb\nfrom cocotb.triggers import Timer\nfrom sim import golden"),
    ],
)
def test_right_directions_are_not(path, source):
    path = Path(path)
    assert not forbidden(path, imports(source, ".".join(path.with_suffix("").parts)))
