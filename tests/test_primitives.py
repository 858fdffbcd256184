# amaranth: UnusedElaboratable=no

"""Portable primitives, adder trees, loops and dimensions, against Python integers."""

import random

import pytest
from amaranth import Module, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ports import corners, drive, packed, simulate, small_config, unpacked

from hw.delay import delay
from hw.depthwise import FabricMultiplier
from hw.loops import Loop
from hw.primitives import Multiplier, adder_tree, gated_add


@pytest.mark.parametrize("a_bits, b_bits", [(8, 8), (18, 18), (1, 7), (5, 12)])
def test_multiplier(a_bits, b_bits):
    """Signed products, three cycles later."""
    rng = random.Random(a_bits)
    pairs = [(a, b) for a in corners(a_bits) for b in corners(b_bits)]
    pairs += [(unpacked(rng.getrandbits(a_bits), a_bits, 1)[0], unpacked(rng.getrandbits(b_bits), b_bits, 1)[0])
              for _ in range(200)]  # fmt: skip
    dut = Multiplier(a_bits=a_bits, b_bits=b_bits, primitives="portable")
    seen = drive(dut, {"a": [a for a, _ in pairs] + [0] * 3, "b": [b for _, b in pairs] + [0] * 3}, ["p"])
    assert seen["p"][3:] == [a * b for a, b in pairs]


class Adder(wiring.Component):
    """Gated adders of operands of given shapes, as sum and difference."""

    def __init__(self, a, b, width):
        self._width = width
        super().__init__(
            {"a": In(a), "b": In(b), "x": In(1), "y": In(1), "plus": Out(signed(width)), "minus": Out(signed(width))}
        )

    def elaborate(self, platform):
        m = Module()
        common = dict(width=self._width, primitives="portable")
        m.d.comb += [
            self.plus.eq(gated_add(m, "plus", self.a, self.x, self.b, self.y, **common)),
            self.minus.eq(gated_add(m, "minus", self.a, self.x, self.b, self.y, **common, subtract=True)),
        ]
        return m


@pytest.mark.parametrize(
    "a, b, width", [(signed(8), signed(9), 10), (unsigned(8), unsigned(9), 12), (signed(12), unsigned(5), 6)]
)
def test_gated_add(a, b, width):
    """Every gate, sums and differences modulo 2**width, of signed and unsigned operands."""
    rng = random.Random(width)

    def value(shape):
        most = 1 << shape.width - shape.signed
        return rng.choice((most - 1, 0, -most * shape.signed, rng.randrange(-most * shape.signed, most)))

    cases = [(value(a), value(b), n & 1, n >> 1 & 1) for n in range(600)]
    seen = drive(Adder(a, b, width), dict(zip("abxy", zip(*cases, strict=True), strict=True)), ["plus", "minus"])
    for name, sign in (("plus", 1), ("minus", -1)):
        expected = [(b if y else 0) + sign * (a if x else 0) for a, b, x, y in cases]
        assert seen[name] == [unpacked(total, width, 1)[0] for total in expected]


class Tree(wiring.Component):
    """An adder tree over ``count`` operands of ``bits`` bits."""

    def __init__(self, count, bits):
        self._count, self._bits = count, bits
        super().__init__({"i": In(count * bits), "o": Out(signed(40))})

    def elaborate(self, platform):
        m = Module()
        operands = [self.i[n * self._bits :][: self._bits].as_signed() for n in range(self._count)]
        total, self.levels = adder_tree(m, "sum", operands)
        m.d.comb += self.o.eq(total)
        return m


@pytest.mark.parametrize("count, levels", [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (13, 4)])
def test_adder_tree(count, levels):
    """Sums that never overflow, as many cycles later as the logarithm says."""
    rng = random.Random(count)
    cases = [[end] * count for end in (-128, 127, -1)]
    cases += [[rng.randint(-128, 127) for _ in range(count)] for _ in range(60)]
    dut = Tree(count, 8)
    seen = drive(dut, {"i": [packed(case, 8) for case in cases] + [0] * levels}, ["o"])
    assert dut.levels == levels and seen["o"][levels:] == [sum(case) for case in cases]


class Delayed(wiring.Component):
    """``o`` is ``i`` of ``cycles`` cycles before."""

    def __init__(self, cycles):
        self._cycles = cycles
        super().__init__({"i": In(signed(5)), "o": Out(signed(5))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(delay(m, "i", self.i, self._cycles))
        return m


@pytest.mark.parametrize("cycles", [0, 1, 4])
def test_delay(cycles):
    values = [random.Random(cycles).randint(-16, 15) for _ in range(40)]
    assert drive(Delayed(cycles), {"i": values}, ["o"])["o"] == ([0] * cycles + values)[:40]


class Nest(wiring.Component):
    """Two loops, one inside the other."""

    def __init__(self):
        super().__init__(
            {"load": In(1), "advance": In(1), "inner": In(4), "outer": In(4), "ends": Out(2), "last": Out(2)}
        )

    def elaborate(self, platform):
        m = Module()
        inner_limit, outer_limit = Signal(4), Signal(4)
        with m.If(self.load):
            m.d.sync += [inner_limit.eq(self.inner), outer_limit.eq(self.outer)]
        inner = Loop(m, "inner", limit=inner_limit, load=self.load, load_limit=self.inner, advance=self.advance)
        outer = Loop(m, "outer", limit=outer_limit, load=self.load, load_limit=self.outer, advance=inner.ends)
        m.d.comb += [self.ends.eq(inner.ends | outer.ends << 1), self.last.eq(inner.last | outer.last << 1)]
        return m


@pytest.mark.parametrize("inner, outer", [(0, 0), (0, 3), (3, 0), (1, 1), (2, 4), (15, 15)])
def test_loops(inner, outer):
    """Limits are rounds less one; loops start over by themselves, and anew when loaded halfway."""
    dut, rng = Nest(), random.Random(inner + 16 * outer)
    wrong = []

    async def bench(ctx):
        for rounds in (5, 2 * (inner + 1) * (outer + 1)):
            ctx.set(dut.load, 1)
            ctx.set(dut.inner, inner)
            ctx.set(dut.outer, outer)
            ctx.set(dut.advance, 0)
            await ctx.tick()
            ctx.set(dut.load, 0)
            ctx.set(dut.inner, rng.randrange(16))
            ctx.set(dut.outer, rng.randrange(16))
            for number in range(rounds):
                while rng.random() < 0.3:
                    ctx.set(dut.advance, 0)
                    await ctx.tick()
                ctx.set(dut.advance, 1)
                last = number % (inner + 1) == inner, number // (inner + 1) % (outer + 1) == outer
                ends = last[0] | (last[0] and last[1]) << 1
                if (ctx.get(dut.ends), ctx.get(dut.last)) != (ends, last[0] | last[1] << 1):
                    wrong.append((rounds, number))
                await ctx.tick()

    simulate(dut, bench)
    assert not wrong


def test_config_figures():
    config = small_config(lanes=6, words=3, feature_depth=300)
    assert (config.array_rows, config.word_bits, config.narrow_channels, config.address_bits) == (18, 48, 4, 9)
    assert [small_config(words=words).taps_a_beat for words in range(1, 8)] == [1, 2, 3, 4, 5, 6, 7]
    assert small_config(lanes=3).narrow_channels == 3 and small_config(feature_depth=1).address_bits == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: Multiplier(a_bits=19, b_bits=8, primitives="portable"),
            "operands must have 1 to 18 bits, not 19 and 8",
        ),
        (
            lambda: Multiplier(a_bits=8, b_bits=0, primitives="portable"),
            "operands must have 1 to 18 bits, not 8 and 0",
        ),
        (
            lambda: Multiplier(a_bits=8, b_bits=8, primitives="ice40"),
            "primitives must be one of portable, ecp5, not 'ice40'",
        ),
        (lambda: FabricMultiplier(primitives=None), "primitives must be one of portable, ecp5, not None"),
        (lambda: small_config(lanes=0), "lanes must be positive, not 0"),
        (lambda: small_config(array_program_depth=-1), "array_program_depth must be positive, not -1"),
        (lambda: small_config(patch_depth=24), "patch_depth must be a power of two, not 24"),
        (lambda: small_config(depthwise_lanes=0, hard_lanes=1), "hard_lanes must be in 0..0, not 1"),
        (lambda: small_config(depthwise_lanes=3), "depthwise_lanes must divide 2 lanes, not 3"),
        (lambda: small_config(gathered_taps=2), "gathered_taps must be 0, 1 or 9, not 2"),
        (lambda: small_config(packed_channels=(1, 3)), "packed_channels must be in 1..2, not (1, 3)"),
        (lambda: small_config(primitives="gowin"), "primitives must be one of portable, ecp5, not 'gowin'"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message
