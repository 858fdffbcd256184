"""Exact requantisation: int32 accumulators to int8, as TensorFlow Lite's reference kernels do it."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.delay import copies, delay
from hw.primitives import Multiplier, check_primitives, gated_add

__all__ = ["ROUNDED_BITS", "Activation", "ActivationBounds", "Requantiser"]

#: Bits of the saturated sum, its top ones, and of each half of the multiplier that a hardware multiplier takes.
_HARD_BITS, _HALF_BITS = 18, 17

#: Half a unit of the output is the last bit of the shifter; anything that leaves 11 bits there is clamped anyway.
ROUNDED_BITS = 11

_SHIFT_BITS = 5


class ActivationBounds(data.Struct):
    """Zero point of a layer's output, and the bounds of its activation function."""

    zero_point: signed(8)
    lo: signed(8)
    hi: signed(8)


class Requantiser(wiring.Component):
    """``o = round(round((acc + bias) * multiplier / 2**point) / 2**shift)``, rounded twice as TFLite does.

    The inner rounding takes halves up, the outer one away from zero. Golden model:
    ``sim.golden.multiply_by_quantized_multiplier``. With the usual eleven bits ``o`` saturates to -512..512, which no
    int8 output can tell from the true value: :class:`Activation` follows.

    ``bias`` belongs to the ``acc`` of the same cycle; ``multiplier`` and ``shift`` are taken two cycles later, when
    the sum has been saturated. Latency :meth:`latency` cycles of the largest of ``windows``, one result a cycle, no
    stall, no reset.

    Parameters
    ----------
    accumulator_bits, bias_bits : int
        Widths of the signed inputs.
    window_bits : int
        ``acc + bias`` saturates to this many bits (even, at most 32). Whoever sizes it vouches that the clamp decides
        beyond it: then saturating first is exact, and the multiplier is smaller.
    windows : sequence of int
        ``window_bits`` of all requantisers whose results are to come together. Empty: of this one.
    multiplier_bits : int
        31, or more to fold left shifts into the multiplier.
    hard : bool
        Whether :attr:`hard_multipliers` hardware multipliers make most of the product; else it is all LUTs. They take
        up to :attr:`hard_multiplier_bits`.
    primitives : str
        ``portable`` or ``ecp5``.
    point : int
        TFLite's 31, or less where the sum stands for a multiple of a power of two.
    output_bits : int
        Width of ``o``.
    places : sequence of str
        Where on the die its hardware multipliers stand. Empty: anywhere.
    """

    hard_multipliers, hard_multiplier_bits, hard_window_bits = 2, 2 * _HALF_BITS, _HARD_BITS

    #: Cycles from ``acc`` to the moment its multiplier and shift are taken.
    scale_delay = 2

    def __init__(self, *, accumulator_bits, bias_bits, window_bits, multiplier_bits, hard, primitives, windows=(),
                 point=31, output_bits=ROUNDED_BITS, places=()):  # fmt: skip
        if window_bits % 2 or not 4 <= window_bits <= 32:
            raise ValueError(f"window_bits must be even and in 4..32, not {window_bits}")
        if multiplier_bits < 31:
            raise ValueError(f"multiplier_bits must be at least 31, not {multiplier_bits}")
        if hard and multiplier_bits > self.hard_multiplier_bits:
            raise ValueError(f"multiplier_bits must be at most {self.hard_multiplier_bits}, not {multiplier_bits}")
        check_primitives(primitives)
        self._window_bits, self._hard, self._primitives = window_bits, hard, primitives
        self._product_cycles = max(map(self._product_latency, windows or [window_bits]))
        self._point, self._output_bits, self._places = point, output_bits, places
        super().__init__(
            {
                "acc": In(signed(accumulator_bits)),
                "bias": In(signed(bias_bits)),
                "multiplier": In(multiplier_bits),
                "shift": In(_SHIFT_BITS),
                "o": Out(signed(output_bits)),
            }
        )

    @staticmethod
    def scale_bits(multiplier_bits) -> int:
        """Width of a multiplier with its shift above it, as memories hold them."""
        return multiplier_bits + _SHIFT_BITS

    @classmethod
    def latency(cls, *windows) -> int:
        """Cycles from ``acc`` to ``o``: sum, saturation, product, and four of the shifter."""
        return cls.scale_delay + max(map(cls._product_latency, windows)) + 4

    @staticmethod
    def _product_latency(window_bits):
        """Of partial products and their tree, or of hardware multipliers and two additions, whichever is longer."""
        operands = window_bits // 2 + 1
        return max(1 + (operands - 1).bit_length(), Multiplier.latency + 2)

    def elaborate(self, platform):
        m = Module()
        window = self._window_bits
        total = Signal((self.acc + self.bias).shape(), reset_less=True)
        x = Signal(signed(window), reset_less=True)
        m.d.sync += total.eq(self.acc + self.bias)
        m.d.sync += x.eq(_saturate(m, total, window, "saturated"))

        product = self._product(m, x)
        shift = delay(m, "shift", self.shift, self._product_cycles)
        doubled = Cat(Const(0, 1), product[self._point :]).as_signed()
        coarse = Signal(doubled.shape(), reset_less=True)
        fine = Signal(doubled.shape(), reset_less=True)
        low = Signal(3, reset_less=True)
        far = Signal(reset_less=True)  # whether it is so large that the last shift, of at most 7, changes nothing
        clipped = Signal(signed(self._output_bits), reset_less=True)
        m.d.sync += [
            coarse.eq(doubled >> (shift & 0b11000)),
            low.eq(shift),
            fine.eq(coarse >> low),
            far.eq(_leaves(coarse, self._output_bits + 7)),
            clipped.eq(_saturate(m, fine, self._output_bits, "clipped", far)),
            self.o.eq((clipped >> 1) + clipped[:1]),
        ]
        return m

    def _product(self, m, x):
        """``x * multiplier`` and what rounds it."""
        soft_bits = max(0, self._window_bits - _HARD_BITS) if self._hard else self._window_bits
        # Partial products, two bits of x each; the top one subtracts, for x is signed.
        width = len(self.multiplier) + 3
        operands = []
        for bit in range(0, soft_bits, 2):
            name, gates = f"row_{bit}", dict(width=width, primitives=self._primitives)
            once, twice = self.multiplier, Cat(Const(0, 1), self.multiplier)
            if bit < self._window_bits - 2:
                row = gated_add(m, name, once, x[bit], twice, x[bit + 1], **gates)
            else:
                row = gated_add(m, name, twice, x[bit + 1], once, x[bit], **gates, subtract=True)
            operand = Signal(signed(width), name=f"product_{bit}", reset_less=True)
            m.d.sync += operand.eq(row)
            operands.append((operand, bit))
        # Adds a half, which rounds half up, or takes it away for a negative x, which makes the later rounding of halves
        # upward a rounding away from zero; where nothing is shifted out there is no later rounding.
        nudge = Signal(signed(2), init=1, reset_less=True)
        m.d.sync += nudge[1].eq(x[-1] & (self.shift != 0))
        operands.append((nudge, self._point - 1))
        (product, exponent), levels = _weighted_sum(m, "soft", operands)
        latency = 1 + levels
        if self._hard:
            top, halves = x[soft_bits:].as_signed(), []
            places = iter(self._places)
            for low, half in ((0, self.multiplier[:_HALF_BITS]), (_HALF_BITS, self.multiplier[_HALF_BITS:])):
                part = m.submodules[f"multiplier_{low}"] = Multiplier(
                    a_bits=len(top), b_bits=len(half) + 1, primitives=self._primitives, place=next(places, None)
                )
                m.d.comb += [part.a.eq(top), part.b.eq(half)]
                halves.append((part.p, soft_bits + low))
            hard, _ = _weighted_sum(m, "hard", halves)
            soft = delay(m, "soft", product, Multiplier.latency + 1 - latency), exponent
            (product, _), _ = _weighted_sum(m, "both", [soft, hard])
            latency = Multiplier.latency + 2
        return delay(m, "product", product, self._product_cycles - latency)


def _leaves(value, bits):
    """Whether ``value`` is no signed number of ``bits`` bits."""
    top = value[bits - 1 :]
    return top.any() & ~top.all()


def _saturate(m, value, bits, name, far=None):
    """``value`` limited to a signed number of ``bits`` bits; ``far`` tells whether it leaves seven more."""
    if len(value) <= bits:
        return value
    result = Signal(signed(bits), name=name)
    leaves = _leaves(value, bits) if far is None else far | _leaves(value[: bits + 7], bits)
    m.d.comb += result.eq(Mux(leaves, Cat((~value[-1]).replicate(bits - 1), value[-1]), value[:bits]))
    return result


def _weighted_sum(m, name, operands):
    """Sum (signed value, weight exponent) pairs in a tree with a register a level; returns ((sum, exponent), levels).

    Low bits that only one operand has pass by the adders.
    """
    operands, levels = sorted(operands, key=lambda operand: operand[1]), 0
    while len(operands) > 1:
        levels += 1
        following = []
        for index in range(0, len(operands), 2):
            pair = operands[index : index + 2]
            value, exponent = pair[0]
            if len(pair) == 2:
                other, other_exponent = pair[1]
                low = other_exponent - exponent
                value = Cat(value[:low], (value >> low) + other).as_signed()
            # What only passes keeps its first value too, so that bits which never change are no registers.
            init = value.init if isinstance(value, Signal) else 0
            register = Signal(value.shape(), name=f"{name}_{levels}_{index}", init=init, reset_less=True)
            m.d.sync += register.eq(value)
            following.append((register, exponent))
        operands = following
    return operands[0], levels


class Activation(wiring.Component):
    """``o = clamp(i + zero_point, lo, hi)`` on several lanes.

    Latency 3 cycles, one transfer a cycle, no stall, no reset. ``bounds`` come :attr:`bounds_lead` cycles before their
    ``i``.
    Golden model: the last line of ``sim.golden``'s requantisation.

    Parameters
    ----------
    lanes : int
        How many values share the bounds.
    """

    latency = 3

    bounds_lead = 1

    #: How many lanes, which may lie far from others, have registers for the bounds of their own.
    _near = 4

    def __init__(self, *, lanes):
        super().__init__(
            {
                "i": In(data.ArrayLayout(signed(ROUNDED_BITS), lanes)),
                "bounds": In(ActivationBounds),
                "o": Out(data.ArrayLayout(signed(8), lanes)),
            }
        )
        self._lanes = lanes

    def elaborate(self, platform):
        m = Module()
        for lane in range(self._lanes):
            if lane % self._near == 0:
                added = data.View(ActivationBounds, copies(m, f"added_{lane}", self.bounds.as_value(), 1)[0])
                compared = data.View(ActivationBounds, delay(m, f"compared_{lane}", added.as_value(), 1))
                chosen = data.View(ActivationBounds, delay(m, f"chosen_{lane}", compared.as_value(), 1))
            moved = delay(m, f"moved_{lane}", self.i[lane] + added.zero_point, 1)
            below = delay(m, f"below_{lane}", moved < compared.lo, 1)
            above = delay(m, f"above_{lane}", moved > compared.hi, 1)
            kept = delay(m, f"kept_{lane}", moved[:8].as_signed(), 1)
            m.d.sync += self.o[lane].eq(Mux(below, chosen.lo, Mux(above, chosen.hi, kept)))
        return m
