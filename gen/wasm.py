"""Runs a WebAssembly tool, its memory in huge pages: ``python gen/wasm.py PACKAGE FUNCTION ARGUMENTS...``.

The router looks up a gigabyte at random; with pages of 4 KiB, a sixth of its time goes into finding these. Where Linux
has no huge pages, or another runtime brings the tool, it runs without.
"""

import ctypes
import importlib
import mmap
import sys

import wasmtime

#: What wasmtime sets aside for a memory, which never moves.
_RESERVED = 1 << 32


class _Linker(wasmtime.Linker):
    """A linker that asks for huge pages for the memory of what it instantiates."""

    def instantiate(self, store, module):
        instance = super().instantiate(store, module)
        memory = instance.exports(store)["memory"].data_ptr(store)
        ctypes.CDLL(None).madvise(memory, ctypes.c_size_t(_RESERVED), mmap.MADV_HUGEPAGE)
        return instance


if __name__ == "__main__":
    package, function, *arguments = sys.argv[1:]
    wasmtime.Linker = _Linker
    sys.exit(getattr(importlib.import_module(package), function)(arguments))
