"""Settings of the ECP5's PLL (EHXPLLL) for a wanted clock.

The feedback runs through output CLKOP, the clock that is used is output CLKOS of the same oscillator::

    pfd = f_in / CLKI_DIV                 phase detector
    vco = pfd * CLKOP_DIV                 oscillator, CLKFB_DIV = 1
    clock = vco / CLKOS_DIV

so that the clock is not tied to multiples of the phase detector's rate: from 25 MHz there is a clock at most 2 % below
any rate from 25 to 200 MHz.
"""

from dataclasses import dataclass
from fractions import Fraction

__all__ = ["CORE_HZ", "PLL", "achievable", "clocks"]

#: Limits in Hz, from the ECP5 family data sheet (FPGA-DS-02012, sysCLOCK PLL timing).
INPUT_HZ = (8_000_000, 400_000_000)
PFD_HZ = (10_000_000, 400_000_000)
VCO_HZ = (400_000_000, 800_000_000)
OUTPUT_HZ = (3_125_000, 400_000_000)

#: Slowest and fastest core clock that is considered.
CORE_HZ = (25_000_000, 200_000_000)

#: Range of every divider.
DIVIDER = (1, 128)


def _within(value, limits):
    return limits[0] <= value <= limits[1]


@dataclass(frozen=True)
class PLL:
    """One setting of an EHXPLLL.

    Parameters
    ----------
    clock_in_hz : int
        Reference clock.
    input_divider, feedback_divider, output_divider : int
        CLKI_DIV, CLKOP_DIV and CLKOS_DIV.

    Raises
    ------
    ValueError
        If a divider, the phase detector, the oscillator or an output would leave its range.
    """

    clock_in_hz: int
    input_divider: int
    feedback_divider: int
    output_divider: int

    def __post_init__(self):
        for name in ("input_divider", "feedback_divider", "output_divider"):
            if not _within(getattr(self, name), DIVIDER):
                raise ValueError(f"{name} must be in {DIVIDER[0]}..{DIVIDER[1]}, not {getattr(self, name)}")
        for name, value, limits in (
            ("input", self.clock_in_hz, INPUT_HZ),
            ("phase detector", self.pfd_hz, PFD_HZ),
            ("oscillator", self.vco_hz, VCO_HZ),
            ("output", self.clock_hz, OUTPUT_HZ),
        ):
            if not _within(value, limits):
                low, high = (limit / 1e6 for limit in limits)
                raise ValueError(f"PLL {name} must run at {low:g} to {high:g} MHz, not {float(value) / 1e6:g} MHz")

    @property
    def pfd_hz(self) -> Fraction:
        """Rate of the phase detector, and of the feedback output CLKOP."""
        return Fraction(self.clock_in_hz, self.input_divider)

    @property
    def vco_hz(self) -> Fraction:
        """Rate of the oscillator."""
        return self.pfd_hz * self.feedback_divider

    @property
    def clock_hz(self) -> Fraction:
        """Rate of output CLKOS, exactly."""
        return self.vco_hz / self.output_divider

    @property
    def clock_mhz(self) -> float:
        """Rate of output CLKOS in MHz."""
        return float(self.clock_hz) / 1e6

    @property
    def parameters(self) -> dict[str, int]:
        """The parameters of EHXPLLL that differ from clock to clock; phases are those of an unshifted output."""
        return {
            "CLKI_DIV": self.input_divider,
            "CLKOP_DIV": self.feedback_divider,
            "CLKOP_CPHASE": self.feedback_divider - 1,
            "CLKOS_DIV": self.output_divider,
            "CLKOS_CPHASE": self.output_divider - 1,
        }


def clocks(clock_in_hz: int, *, low_hz: float = CORE_HZ[0], high_hz: float = CORE_HZ[1]) -> list[PLL]:
    """One setting for every clock from ``low_hz`` to ``high_hz``, ascending.

    Of several settings with the same clock, the one with the fastest phase detector is taken, then the one whose
    oscillator is nearest the middle of its range.

    Raises
    ------
    ValueError
        If the PLL does not take ``clock_in_hz``.
    """
    if not _within(clock_in_hz, INPUT_HZ):
        low, high = (limit / 1e6 for limit in INPUT_HZ)
        raise ValueError(f"PLL input must run at {low:g} to {high:g} MHz, not {clock_in_hz / 1e6:g} MHz")
    middle = sum(VCO_HZ) // 2
    best = {}
    for n in range(DIVIDER[0], DIVIDER[1] + 1):
        if not _within(Fraction(clock_in_hz, n), PFD_HZ):
            continue
        for k in range(-(-VCO_HZ[0] * n // clock_in_hz), min(VCO_HZ[1] * n // clock_in_hz, DIVIDER[1]) + 1):
            vco = Fraction(clock_in_hz * k, n)
            for m in range(DIVIDER[0], DIVIDER[1] + 1):
                clock = vco / m
                if _within(clock, (low_hz, high_hz)) and _within(clock, OUTPUT_HZ):
                    rank = (n, abs(vco - middle), vco)
                    if clock not in best or rank < best[clock][0]:
                        best[clock] = rank, PLL(clock_in_hz, n, k, m)
    return [best[clock][1] for clock in sorted(best)]


def achievable(clock_in_hz: int, at_most_hz: float) -> PLL:
    """The setting with the fastest clock that is at most ``at_most_hz`` and within :data:`CORE_HZ`.

    Raises
    ------
    ValueError
        If ``at_most_hz`` is below the slowest clock considered, or the PLL does not take ``clock_in_hz``.
    """
    settings = [setting for setting in clocks(clock_in_hz) if setting.clock_hz <= at_most_hz]
    if not settings:
        raise ValueError(f"core clock must be at least {CORE_HZ[0] / 1e6:g} MHz, not {at_most_hz / 1e6:g} MHz")
    return settings[-1]
