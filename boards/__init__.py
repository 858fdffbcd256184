"""Boards that the accelerator is built for: what is on them and how the tools name it.

Counts are nextpnr's own (its utilisation report of an empty design); multipliers are MULT18X18D, block RAMs are
DP16KD (18 Kb). Pins come from amaranth-boards and are only looked up when a board top is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

__all__ = ["Board", "get", "names"]

_LFE5U_25F = MappingProxyType({"lut": 24288, "ff": 24288, "mult": 28, "ebr": 56})
_LFE5U_45F = MappingProxyType({"lut": 43848, "ff": 43848, "mult": 72, "ebr": 108})
_LFE5U_85F = MappingProxyType({"lut": 83640, "ff": 83640, "mult": 156, "ebr": 208})

# The 85F's multipliers: three rows across the die, in blocks of four, twelve tiles below a row of block RAMs in blocks
# of four. Beginning in the middle, next to the fourth row of block RAMs.
_BLOCKS = (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)
_LFE5U_85F_MULTIPLIERS = tuple(
    tuple(
        (f"X{x + n}/Y{y}/MULT18_{n}", f"X{x + 2 * ram}/Y{y + 12}/EBR{ram}")
        for x in _BLOCKS
        for ram, n in enumerate((0, 1, 4, 5))
    )
    for y in (58, 34, 10)
)
_LFE5U_85F_BLOCK_RAMS = tuple(f"X{x + 2 * ram}/Y82/EBR{ram}" for x in _BLOCKS for ram in range(4))


@dataclass(frozen=True)
class Board:
    """One board, or one variant of a board.

    Parameters
    ----------
    name : str
        What ``--board`` takes.
    device, package, speed_grade : str
        Lattice's part, as in ``LFE5U-85F``, ``CABGA381``, ``6``.
    nextpnr_device : str
        nextpnr-ecp5's option for the device. It also decides the bitstream's identification: the 12F is the 25F's
        die under another IDCODE, and takes only bitstreams made for it.
    idcode : int
        JTAG IDCODE that the bitstream must carry.
    platform : str
        Class in ``amaranth_boards.ulx3s`` that knows the pins.
    clock_in_hz : int
        Oscillator on the board.
    baud : int
        Rate of the UART between host and board, in bits a second.
    resources : mapping of str to int
        Number of ``lut`` (LUT4), ``ff``, ``mult`` (MULT18X18D) and ``ebr`` (DP16KD).
    multiplier_rows : tuple of tuple of (str, str)
        The device's multipliers by nextpnr's names, row by row across the die, each with the block RAM nearest to it;
        empty where they are not known.
    block_ram_row : tuple of str
        A row of block RAMs that has no multipliers, next to the first of ``multiplier_rows``, likewise.
    simulation_only : bool
        Whether the board exists only for simulation: its memories are as large as a network needs, and ``resources``
        bounds everything but ``ebr``.
    """

    name: str
    device: str
    package: str
    speed_grade: str
    nextpnr_device: str
    idcode: int
    platform: str
    clock_in_hz: int
    baud: int
    resources: Mapping[str, int]
    multiplier_rows: tuple[tuple[tuple[str, str], ...], ...] = ()
    block_ram_row: tuple[str, ...] = ()
    simulation_only: bool = False

    @property
    def nextpnr_arguments(self) -> list[str]:
        """Options that select this part for nextpnr-ecp5."""
        return [self.nextpnr_device, "--package", self.package, "--speed", self.speed_grade]


def _ulx3s(variant, nextpnr_device, idcode, resources, **rows):
    return Board(
        name=f"ulx3s-{variant.lower()}",
        device=f"LFE5U-{variant}",
        package="CABGA381",
        speed_grade="6",
        nextpnr_device=nextpnr_device,
        idcode=idcode,
        platform=f"ULX3S_{variant}_Platform",
        clock_in_hz=25_000_000,
        baud=3_000_000,
        resources=resources,
        **rows,
    )


_VARIANTS = (
    _ulx3s("12F", "--12k", 0x21111043, _LFE5U_25F),
    _ulx3s("25F", "--25k", 0x41111043, _LFE5U_25F),
    _ulx3s("45F", "--45k", 0x41112043, _LFE5U_45F),
    _ulx3s(
        "85F",
        "--85k",
        0x41113043,
        _LFE5U_85F,
        multiplier_rows=_LFE5U_85F_MULTIPLIERS,
        block_ram_row=_LFE5U_85F_BLOCK_RAMS,
    ),  # fmt: skip
)
_ULX3S = replace(_VARIANTS[-1], name="ulx3s")
_BOARDS = {board.name: board for board in (_ULX3S, *_VARIANTS, replace(_ULX3S, name="sim", simulation_only=True))}


def names() -> list[str]:
    """Names of all boards, in the order in which they are documented."""
    return list(_BOARDS)


def get(name: str) -> Board:
    """The board called ``name``.

    Raises
    ------
    ValueError
        If there is none; the message lists those that there are.
    """
    if name not in _BOARDS:
        raise ValueError(f"board must be one of {', '.join(_BOARDS)}, not {name!r}")
    return _BOARDS[name]
