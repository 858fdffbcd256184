"""The list of networks that ``benchmark`` builds, and what others have published of them: ``gen/benchmarks.toml``."""

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from boards.pll import CORE_HZ
from gen.errors import GenError

__all__ = ["KINDS", "LIST", "BenchmarkList", "Entry", "Figure", "read_list"]

#: The list that comes with the project; it describes its own fields.
LIST = Path(__file__).parent / "benchmarks.toml"

#: Kinds of published figures, and what to call them.
KINDS = {
    "fastest": "fastest on any device",
    "fastest_fpga": "fastest FPGA",
    "small_fpga": "small FPGA",
    "microcontroller": "microcontroller",
}


@dataclass(frozen=True)
class Entry:
    """A network, what it is for, and how to build it: see :data:`LIST`."""

    network: str
    task: str
    folding: bool = True
    packing: bool | None = None
    array: list | None = None
    clock: float | int | None = None

    def __post_init__(self):
        array, clock = self.array, self.clock
        low, high = (hz / 1e6 for hz in CORE_HZ)
        if clock is not None and not low <= clock <= high:
            raise ValueError(f"clock must be in {low:g}..{high:g} MHz, not {clock}")
        if array is not None and (len(array) != 2 or not all(isinstance(size, int) and size > 0 for size in array)):
            raise ValueError(f"array must be two positive numbers as in [16, 8], not {array}")

    @property
    def options(self) -> str:
        """What differs from an entry that leaves all options out, as the end of a name."""
        packing = {True: "-packed", False: "-apart", None: ""}[self.packing]
        array = "-{}x{}".format(*self.array) if self.array else ""
        clock = f"-{self.clock:g}mhz" if self.clock else ""
        return f"{'' if self.folding else '-unfolded'}{packing}{array}{clock}"

    @property
    def name(self) -> str:
        """What to call it; no other entry has the same."""
        return self.network + self.options


@dataclass(frozen=True)
class Figure:
    """A published time of one inference: see :data:`LIST`."""

    device: str
    ms: float | int
    multipliers: int | None = None
    round: str = ""
    note: str = ""

    def __post_init__(self):
        for name, value in (("ms", self.ms), ("multipliers", self.multipliers)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")

    @property
    def per_multiplier(self) -> float | None:
        """Inferences per second and multiplier, where multipliers are known."""
        return 1000 / self.ms / self.multipliers if self.multipliers else None


@dataclass(frozen=True)
class BenchmarkList:
    """``entries`` in order; ``published`` figures by network and kind (:data:`KINDS`), and their ``source``."""

    entries: list[Entry]
    published: dict[str, dict[str, list[Figure]]]
    source: str


def read_list(path: Path = LIST) -> BenchmarkList:
    """The list in a TOML file of the form of :data:`LIST`.

    Raises
    ------
    GenError
        If there is no such file, or what it says is not allowed.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GenError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise GenError(f"{path}: is no TOML: {error}") from error
    _check_names(document, ("networks", "published", "source"), f"{path}")
    entries = _records(Entry, document.get("networks", []), f"{path}: networks")
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GenError(f"{path}: networks: rows must differ, but there are several of {', '.join(twice)}")
    published = document.get("published", {})
    _check_names(published, published, f"{path}: published")
    for network, kinds in published.items():
        _check_names(kinds, KINDS, f"{path}: published.{network}")
    figures = {
        network: {kind: _records(Figure, rows, f"{path}: published.{network}.{kind}") for kind, rows in kinds.items()}
        for network, kinds in published.items()
    }
    return BenchmarkList(entries, figures, document.get("source", ""))


def _records(kind, rows, where):
    """A ``kind`` of dataclass for each of ``rows``."""
    if not isinstance(rows, list) or not rows:
        raise GenError(f"{where}: must be a list of at least one row, not {rows!r}")
    return [_record(kind, row, f"{where}[{number}]") for number, row in enumerate(rows)]


def _record(kind, row, where):
    known = {field.name: field for field in fields(kind)}
    _check_names(row, known, where)
    for name, field in known.items():
        if name not in row and field.default is MISSING:
            raise GenError(f"{where}: must say {name}")
        if name in row and not isinstance(row[name], field.type):
            raise GenError(f"{where}: {name} must be {getattr(field.type, '__name__', field.type)}, not {row[name]!r}")
    try:
        return kind(**row)
    except ValueError as error:
        raise GenError(f"{where}: {error}") from error


def _check_names(row, known, where):
    if not isinstance(row, dict):
        raise GenError(f"{where}: must be a table, not {row!r}")
    if unknown := [name for name in row if name not in known]:
        raise GenError(f"{where}: must say only {', '.join(known)}, not {', '.join(unknown)}")
