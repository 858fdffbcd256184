"""Dot products: a column's multipliers and the tree that sums them, for one output channel or for two at once."""

from amaranth import Cat, Module, Signal, signed
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
    six low bits of the second channel's products are known; these a few gates make.

    Latency :meth:`latency` cycles, one sum a cycle, no stall, no reset.

    Parameters
    ----------
    rows : int
        K.
    outputs : int
        1, or 2 for weights that are :func:`packable`; ``weights`` then holds :func:`packed_weights`, two bytes a row.
    primitives : str
        ``portable`` or ``ecp5``.
    places : sequence of str
        Of the multipliers: see :class:`hw.primitives.Multiplier`. Empty: anywhere.
    """

    def __init__(self, *, rows, outputs, primitives, places=()):
        if outputs not in (1, 2):
            raise ValueError(f"outputs must be 1 or 2, not {outputs!r}")
        check_primitives(primitives)
        self._rows, self._outputs, self._primitives = rows, outputs, primitives
        self._places = places or [None] * rows
        super().__init__(
            {
                "x": In(8 * rows),
                "weights": In(8 * rows * outputs),
                "o": Out(data.ArrayLayout(signed(16 + (rows - 1).bit_length()), outputs)),
            }
        )

    @staticmethod
    def latency(rows, outputs) -> int:
        """Cycles from ``x`` to its sums."""
        if outputs == 1:
            return Multiplier.latency + (rows - 1).bit_length()
        pairs = -(-rows // 2)
        return Multiplier.latency + 2 + (pairs - 1).bit_length() + 1

    def elaborate(self, platform):
        m = Module()
        if self._outputs == 1:
            products = [self._product(m, row, self.weights[8 * row :][:8]) for row in range(self._rows)]
            total, _ = adder_tree(m, "sum", products)
            m.d.comb += self.o[0].eq(total)
            return m
        sums, carries = [], []
        for first in range(0, self._rows, 2):
            rows = range(first, min(first + 2, self._rows))
            products, low_bits = [], []
            for row in rows:
                low, high = self.weights[16 * row :][:8], self.weights[16 * row + 8 :][:8]
                products.append(self._product(m, row, Cat(low, low[-1].replicate(LOW_BITS - 8), high)))
                low_bits.append(self._low_product(m, row, high, low[-1]))
            pair, _ = (
                adder_tree(m, f"pair_{first}", products)
                if len(rows) == 2
                else (delay(m, f"pair_{first}", products[0], 1), 1)
            )
            known = Signal(_TOP_BITS, name=f"known_{first}", reset_less=True)
            m.d.sync += known.eq(sum(low_bits[1:], low_bits[0]))
            carry = Signal(signed(_TOP_BITS), name=f"carry_{first}", reset_less=True)
            m.d.sync += carry.eq((pair[LOW_BITS:][:_TOP_BITS] - known)[:_TOP_BITS])
            sums.append(pair)
            carries.append(carry)
        # The parts' sums, and a cycle later the carries'.
        low, _ = adder_tree(m, "low", [Cat(pair[:LOW_BITS], 0).as_signed() for pair in sums])
        high, _ = adder_tree(m, "high", [pair[LOW_BITS:].as_signed() for pair in sums])
        carry, _ = adder_tree(m, "carry", carries)
        low, high = delay(m, "low", low, 1), delay(m, "high", high, 1)
        first, second = (Signal(self.o[n].shape(), name=f"total_{n}", reset_less=True) for n in range(2))
        m.d.sync += [first.eq(Cat(low[:LOW_BITS], (low >> LOW_BITS) + carry).as_signed()), second.eq(high - carry)]
        m.d.comb += [self.o[0].eq(first), self.o[1].eq(second)]
        return m

    def _product(self, m, row, operand):
        multiplier = m.submodules[f"multiplier_{row}"] = Multiplier(
            a_bits=len(operand), b_bits=8, primitives=self._primitives, place=self._places[row]
        )
        m.d.comb += [multiplier.a.eq(operand.as_signed()), multiplier.b.eq(self.x[8 * row :][:8].as_signed())]
        return multiplier.p

    def _low_product(self, m, row, high, negative):
        """The lowest bits of ``x`` times the second weight, which is ``high``, and one more where ``negative``.

        As late as the product.
        """
        x = self.x[8 * row :][:_TOP_BITS]

        def gated(name, a, n, b, k):
            """``(a if n) + (b if k)``, modulo 2**6, in a register."""
            total = Signal(_TOP_BITS, name=f"{name}_{row}", reset_less=True)
            m.d.sync += total.eq(
                gated_add(m, f"{name}_gates_{row}", a, n, b, k, width=_TOP_BITS, primitives=self._primitives)
            )
            return total

        def shifted(places):
            return Cat(*[0] * places, x)[:_TOP_BITS]

        rows = [
            gated("once", x, negative, shifted(1), high[1]),
            gated("twice", x, high[0], shifted(2), high[2]),
            gated("more", shifted(3), high[3], shifted(4), high[4]),
        ]
        last = Signal(name=f"last_{row}", reset_less=True)
        m.d.sync += last.eq(x[0] & high[5])
        left, right = (
            Signal(_TOP_BITS, name=f"left_{row}", reset_less=True),
            Signal(_TOP_BITS, name=f"right_{row}", reset_less=True),
        )
        total = Signal(_TOP_BITS, name=f"low_product_{row}", reset_less=True)
        m.d.sync += [
            left.eq(rows[0] + rows[1]),
            right.eq(rows[2] ^ Cat(*[0] * (_TOP_BITS - 1), last)),
            total.eq(left + right),
        ]
        return total
