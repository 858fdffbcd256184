"""Compile Verilog with Verilator and run a cocotb bench on it: ``python -m sim.runner FOLDER TOP BENCH SOURCE...``.

A process of its own, because Verilator and the simulation take their settings from the environment.
"""

import hashlib
import os
import sys
from pathlib import Path

from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Verilator

#: The vendor primitives' bodies.
PRIMITIVES = Path(__file__).with_name("primitives.v")

#: Verilator's options.
ARGUMENTS = ["-Wno-fatal", "-Wno-lint", "-O3", "--x-assign", "fast"]


class _PortsOnly(Verilator):
    """cocotb's runner, but with the top's signals visible instead of all: a tenth of the code, many times the speed."""

    def _build_command(self):
        return [[word for word in command if word != "--public-flat-rw"] for command in super()._build_command()]


def run(folder: Path, top: str, bench: str, sources: list[Path]) -> None:
    """Build ``top`` of ``sources`` and the primitives in ``folder``, then run the tests of module ``bench``."""
    visible = folder / "visible.vlt"
    visible.write_text(f'`verilator_config\npublic_flat_rw -module "{top}" -var "*"\n', encoding="utf-8")
    # Compiling takes most of a short run: what was compiled from the same texts is used again.
    texts = [visible.read_bytes(), PRIMITIVES.read_bytes(), *(source.read_bytes() for source in sources)]
    digest = hashlib.sha256(repr([ARGUMENTS, *texts]).encode()).hexdigest()
    compiled = folder / "compiled.sha256"
    runner = _PortsOnly()
    if not (compiled.exists() and compiled.read_text(encoding="utf-8") == digest):
        compiled.unlink(missing_ok=True)
        _compile(runner, folder, top, [visible, PRIMITIVES, *sources])
        compiled.write_text(digest, encoding="utf-8")
    results = runner.test(
        hdl_toplevel=top, hdl_toplevel_lang="verilog", test_module=bench, build_dir=folder, test_dir=folder
    )
    tests, failures = get_results(results)
    if failures or not tests:
        sys.exit(f"{bench}: {failures} of {tests} benches failed")


def _compile(runner, folder, top, sources):
    # The packaged Verilator was configured without g++'s option for its precompiled header.
    os.environ["MAKEFLAGS"] = "CFG_CXXFLAGS_PCH_I=-include"
    runner.build(
        sources=sources,
        hdl_toplevel=top,
        build_dir=folder,
        always=True,
        build_args=ARGUMENTS,
        timescale=("1ns", "1ps"),
    )
    for header in folder.glob("*.gch"):  # precompiled, 70 MB each
        header.unlink()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], [Path(name) for name in sys.argv[4:]])
