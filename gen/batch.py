"""Batches: many networks, several at a time, a row for each."""

import io
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr

from gen.errors import message_of

__all__ = ["failure", "header", "prefixed", "reports", "row"]


def reports(report: Callable, items: Sequence, jobs: int, name: Callable) -> Iterator[tuple[int, dict]]:
    """The number of each of ``items`` and its report, as they finish.

    Parameters
    ----------
    report : callable
        Makes the report on an item; raises nothing.
    items : sequence
        At least one.
    jobs : int
        How many run at a time, in processes of their own; 1: one after the other in this process.
    name : callable
        What to call an item whose process dies.
    """
    if jobs == 1:
        yield from enumerate(map(report, items))
        return
    with ProcessPoolExecutor(min(jobs, len(items)), multiprocessing.get_context("spawn"), _end_with_parent) as pool:
        running = {pool.submit(report, item): number for number, item in enumerate(items)}
        for ended in as_completed(running):
            number = running[ended]
            error = ended.exception()  # of the process itself
            yield number, {"model": name(items[number]), "error": str(error)} if error else ended.result()


def _end_with_parent():
    """End this process when its parent does, however that ends; its tools end with the pipes that they print to."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def failure(name: str, error: Exception) -> dict:
    """The report on a network that failed: its name and the ``error``, which tells by its type where it is a bug."""
    return {"model": name, "error": message_of(error)}


@contextmanager
def prefixed(name: str) -> Iterator[None]:
    """Begin every line that goes to stderr with ``name``."""
    with redirect_stderr(_Prefixed(f"{name}: ", sys.stderr)):
        yield


class _Prefixed(io.TextIOBase):
    """Passes lines to a stream, each behind a prefix."""

    def __init__(self, prefix, stream):
        self._prefix, self._stream, self._begun = prefix, stream, False

    def write(self, text):
        for line in text.splitlines(keepends=True):
            self._stream.write(line if self._begun else self._prefix + line)
            self._begun = not line.endswith("\n")
        return len(text)

    def flush(self):
        self._stream.flush()


def header(kind, width: int) -> str:
    """Titles of the rows of a ``kind`` of reports; ``width`` is that of the models' column.

    ``kind`` is a module with ``COLUMNS``, each a title and a width, and ``cells``, a report's texts in them.
    """
    return _line("model", width, [title for title, _ in kind.COLUMNS], kind.COLUMNS)


def row(kind, name: str, report: dict, width: int) -> str:
    """A report in a line: see :func:`header`."""
    return _line(name, width, ["failed"] if "error" in report else kind.cells(report), kind.COLUMNS)


def _line(name, width, cells, columns):
    pairs = zip(cells, columns, strict=False)
    return "".join([f"{name:{width}}", *(f"  {cell:>{size}}" for cell, (_, size) in pairs)])
