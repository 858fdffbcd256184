"""Dot products: a column's multipliers and the tree that sums them, for one output channel or for two at once."""

from amaranth import C, Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.delay import delay
from hw.primitives import Multiplier, adder_tree, check_primitives, gated_add

__all__ = ["LOW_BITS", "DotProduct", "packable", "packed_weights"]

#: Where the second output channel's weight begins in the operand of a multiplier.
LOW_BITS = 10

#: Bits of a pair's low sum above LOW_BITS: its 16 bits hold everything but 2 x 128 x 128.
_TOP_BITS = 6


def packable(first, second) -> bool:
    """Whether int8 weights (..., K) of two output channels can share multipliers, exactly for every input.

    The second weight must not be -128 where the first is negative, and the first not -128 twice in a pair of rows.
    """
    pairs = (first == -128)[..., : first.shape[-1] // 2 * 2].reshape(*first.shape[:-1], -1, 2)
    return not ((second == -128) & (first < 0)).any() and not pairs.all(axis=-1).any()


def packed_weights(first, second):
    """What a memory holds for weights of two output channels: the second is less one where the first is negative.

    Then an operand is the two bytes side by side, the sign of the first spread over the bits between them.
    """
    return first, second - (first < 0)


class DotProduct(wiring.Component):
    """``o[n]`` = sum of ``x[k] * weights of output channel n [k]`` over K rows.

    Two output channels share every multiplier: of ``(w1 * 2**10 + w0) * x`` the low ten bits are those of ``w0 * x``,
    what lies above is ``w1 * x`` and a carry. Summed over a pair of rows, six bits of it tell the carry apart, once the
    six low bits of the second channel's products are known; these a few gates make, for both rows together.

    With two ``pixels`` the first half of the rows can belong to one and the second half to another, whose sums are then
    ``o[0]`` and ``o[1]``. Where ``joined``, which comes a cycle before them, is set, ``o[0]`` is that of all rows.

    Latency :meth:`latency` cycles, one sum a cycle, no stall, no reset.

    Parameters
    ----------
    rows : int
        K.
    outputs : int
        1, or 2 for weights that are :func:`packable`; ``weights`` then holds :func:`packed_weights`, two bytes a row.
    pixels : int
        1 or 2, which divides ``rows``.
    primitives : str
        ``portable`` or ``ecp5``.
    places : sequence of str
        Of the multipliers: see :class:`hw.primitives.Multiplier`. Empty: anywhere.
    """

    def __init__(self, *, rows, outputs, pixels=1, primitives, places=()):
        if outputs not in (1, 2):
            raise ValueError(f"outputs must be 1 or 2, not {outputs!r}")
        if pixels not in (1, 2) or rows % pixels:
            raise ValueError(f"pixels must be 1 or 2 and divide {rows} rows, not {pixels!r}")
        check_primitives(primitives)
        self._rows, self._outputs, self._pixels, self._primitives = rows, outputs, pixels, primitives
        self._places = places or [None] * rows
        sums = data.ArrayLayout(signed(16 + (rows - 1).bit_length()), outputs)
        super().__init__(
            {
                "x": In(8 * rows),
                "weights": In(8 * rows * outputs),
                **({"joined": In(1)} if pixels > 1 else {}),
                "o": Out(data.ArrayLayout(sums, pixels)),
            }
        )

    @staticmethod
    def latency(rows, outputs, pixels=1) -> int:
        """Cycles from ``x`` to its sums."""
        part = rows // pixels
        joined = int(pixels > 1)
        if outputs == 1:
            return Multiplier.latency + (part - 1).bit_length() + joined
        pairs = -(-part // 2)
        return Multiplier.latency + 2 + (pairs - 1).bit_length() + 1 + joined

    def elaborate(self, platform):
        m = Module()
        part = self._rows // self._pixels
        sums_of = self._sums if self._outputs == 1 else self._shared_sums
        parts = [sums_of(m, range(first, first + part)) for first in range(0, self._rows, part)]
        if self._pixels == 1:
            m.d.comb += [o.eq(total) for o, total in zip(self.o[0], parts[0], strict=True)]
            return m
        for n, (first, second) in enumerate(zip(*parts, strict=True)):
            both = gated_add(
                m, f"both_{n}", first, C(1), second, self.joined, width=len(first) + 1, primitives=self._primitives
            )
            m.d.comb += [
                self.o[0][n].eq(delay(m, f"first_{n}", both, 1)), self.o[1][n].eq(delay(m, f"second_{n}", second, 1))
            ]  # fmt: skip
        return m

    def _sums(self, m, rows):
        """The sum over ``rows``, for one output channel."""
        products = [self._product(m, row, self.weights[8 * row :][:8]) for row in rows]
        total, _ = adder_tree(m, f"sum_{rows.start}", products)
        return [total]

    def _shared_sums(self, m, rows):
        """The sums over ``rows``, for two output channels."""
        sums, carries = [], []
        for first in rows[::2]:
            pair_rows = rows[first - rows.start :][:2]
            products, factors = [], []
            for row in pair_rows:
                low, high = self.weights[16 * row :][:8], self.weights[16 * row + 8 :][:8]
                products.append(self._product(m, row, Cat(low, low[-1].replicate(LOW_BITS - 8), high)))
                factors.append((self.x[8 * row :][:_TOP_BITS], high, low[-1]))
            pair, _ = (
                adder_tree(m, f"pair_{first}", products)
                if len(pair_rows) == 2
                else (delay(m, f"pair_{first}", products[0], 1), 1)
            )
            known = self._low_products(m, first, *factors)
            carry = Signal(signed(_TOP_BITS), name=f"carry_{first}", reset_less=True)
            m.d.sync += carry.eq((pair[LOW_BITS:][:_TOP_BITS] - known)[:_TOP_BITS])
            sums.append(pair)
            carries.append(carry)
        # The parts' sums, and a cycle later the carries'.
        number = rows.start
        low, _ = adder_tree(m, f"low_{number}", [Cat(pair[:LOW_BITS], 0).as_signed() for pair in sums])
        high, _ = adder_tree(m, f"high_{number}", [pair[LOW_BITS:].as_signed() for pair in sums])
        carry, _ = adder_tree(m, f"carry_{number}", carries)
        low, high = delay(m, f"low_{number}", low, 1), delay(m, f"high_{number}", high, 1)
        shape = signed(16 + (len(rows) - 1).bit_length())
        first, second = (Signal(shape, name=f"total_{number}_{n}", reset_less=True) for n in range(2))
        m.d.sync += [first.eq(Cat(low[:LOW_BITS], (low >> LOW_BITS) + carry).as_signed()), second.eq(high - carry)]
        return [first, second]

    def _product(self, m, row, operand):
        multiplier = m.submodules[f"multiplier_{row}"] = Multiplier(
            a_bits=len(operand), b_bits=8, primitives=self._primitives, place=self._places[row]
        )
        m.d.comb += [multiplier.a.eq(operand.as_signed()), multiplier.b.eq(self.x[8 * row :][:8].as_signed())]
        return multiplier.p

    def _low_products(self, m, pair, one, other=None):
        """The lowest bits of the sum of ``x`` times the second weight over a pair of rows, as late as the pair's sum.

        For each row ``x``, and the second weight as a byte that is one less where the first is ``negative``.
        """

        def register(name, width, value):
            return delay(m, f"{name}_{pair}", value[:width], 1)

        x, high, negative = one
        other_x, other_high, other_negative = other or (C(0, _TOP_BITS), C(0, 8), C(0, 1))

        def both(name, bit, gate, other_gate):
            """What both rows add at a ``bit`` of the weight, from that bit on."""
            width = _TOP_BITS - bit
            total = gated_add(
                m, f"{name}_gates_{pair}", x[:width], gate, other_x[:width], other_gate, width=width,
                primitives=self._primitives,
            )  # fmt: skip
            return register(name, width, total)

        signs = both("signs", 0, negative, other_negative)
        units, twos, fours = (
            both(name, bit, high[bit], other_high[bit]) for bit, name in enumerate(("units", "twos", "fours"))
        )
        eights, other_eights = (
            register(name, 3, _low_product(*factors))
            for name, factors in (("eights", (x, high[3:6])), ("other_eights", (other_x, other_high[3:6])))
        )
        odd = register("odd", _TOP_BITS, units + signs)
        even = register("even", _TOP_BITS - 1, twos + Cat(0, fours))
        eights = register("all_eights", 3, eights + other_eights)
        less = register("less_than_eights", _TOP_BITS, Cat(odd[0], odd[1:] + even))
        eights = register("eights_delayed", 3, eights)
        return register("known", _TOP_BITS, Cat(less[:3], less[3:] + eights))


def _low_product(a, b):
    """The three lowest bits of ``a * b``, written out: a ``*`` would become a hardware multiplier."""
    cross = a[1] & b[0], a[0] & b[1]
    return Cat(a[0] & b[0], cross[0] ^ cross[1], (a[2] & b[0]) ^ (a[1] & b[1]) ^ (a[0] & b[2]) ^ (cross[0] & cross[1]))
