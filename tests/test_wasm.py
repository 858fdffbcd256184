"""WebAssembly tools run with their memory in huge pages."""

import subprocess
import sys
from pathlib import Path

import pytest

from gen import wasm

TOOL = """
import ctypes

import wasmtime

def run(arguments):
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    module = wasmtime.Module(engine, '(module (memory (export "memory") 1))')
    instance = wasmtime.Linker(engine).instantiate(store, module)
    address = instance.exports(store)["memory"].data_ptr(store)
    address, inside = ctypes.cast(address, ctypes.c_void_p).value, False
    for line in open("/proc/self/smaps"):
        first, *rest = line.split()
        if "-" in first:
            begin, end = (int(bound, 16) for bound in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            print(*arguments, "hg" in rest)
    return 7
"""


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="Linux without huge pages")
def test_the_memory_of_a_tool_is_advised(tmp_path, monkeypatch):
    (tmp_path / "some_tool.py").write_text(TOOL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = [sys.executable, "-P", wasm.__file__, "some_tool", "run", "--advised", "huge"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "--advised huge True\n", "")
