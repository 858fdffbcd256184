"""Vendor primitives, each behind a portable twin.

Every component that uses one takes ``primitives``: ``"ecp5"`` instantiates the vendor's cell, ``"portable"`` writes
the same arithmetic in plain Amaranth, which simulates anywhere. The tests hold the two against each other.
"""

from pathlib import Path

from amaranth import C, Cat, ClockSignal, Instance, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = [
    "BLOCK_RAM_WIDTHS",
    "GATED_ADDER",
    "PRIMITIVES",
    "BlockRam",
    "Multiplier",
    "RegisteredMemory",
    "adder_tree",
    "chosen",
    "gated_add",
    "ram_ports",
    "tree",
]

PRIMITIVES = ("portable", "ecp5")

#: Depths of a block RAM in words, and the width in bits that goes with each.
BLOCK_RAM_WIDTHS = {2048: 9, 1024: 18, 512: 36}

#: Verilog of the module GATED_ADDER, for synthesis.
GATED_ADDER = Path(__file__).with_name("gated_adder.v")


def check_primitives(primitives):
    """Raise ValueError unless ``primitives`` is known."""
    if primitives not in PRIMITIVES:
        raise ValueError(f"primitives must be one of {', '.join(PRIMITIVES)}, not {primitives!r}")


class Multiplier(wiring.Component):
    """``p = a * b``, signed, registered three times: inputs, product, output.

    Latency 3 cycles, one product a cycle, no stall, no reset. On ECP5 it is one MULT18X18D with its own registers.

    Parameters
    ----------
    a_bits, b_bits : int
        Operand widths, at most 18.
    primitives : str
        ``portable`` or ``ecp5``.
    place : str, optional
        Where on the die, as place and route names it; left out, it decides.
    """

    latency = 3

    def __init__(self, *, a_bits, b_bits, primitives, place=None):
        if not (1 <= a_bits <= 18 and 1 <= b_bits <= 18):
            raise ValueError(f"operands must have 1 to 18 bits, not {a_bits} and {b_bits}")
        check_primitives(primitives)
        self._primitives, self._place = primitives, place
        super().__init__({"a": In(signed(a_bits)), "b": In(signed(b_bits)), "p": Out(signed(a_bits + b_bits))})

    def elaborate(self, platform):
        m = Module()
        if self._primitives == "portable":
            a, b = Signal.like(self.a, reset_less=True), Signal.like(self.b, reset_less=True)
            product = Signal.like(self.p, reset_less=True)
            m.d.sync += [a.eq(self.a), b.eq(self.b), product.eq(a * b), self.p.eq(product)]
            return m
        a, b, p = Signal(signed(18)), Signal(signed(18)), Signal(36)
        m.d.comb += [a.eq(self.a), b.eq(self.b), self.p.eq(p)]
        registers = {f"p_REG_{r}_CLK": "CLK0" for r in ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT")}
        m.submodules.mult18x18d = Instance(
            "MULT18X18D",
            **({"a_BEL": self._place} if self._place else {}),
            **registers,
            **{f"i_A{n}": a[n] for n in range(18)},
            **{f"i_B{n}": b[n] for n in range(18)},
            **{f"o_P{n}": p[n] for n in range(36)},
            i_CLK0=ClockSignal(), i_CE0=C(1), i_RST0=C(0), i_SIGNEDA=C(1), i_SIGNEDB=C(1),
            i_SOURCEA=C(0), i_SOURCEB=C(0),
        )  # fmt: skip
        return m


def ram_ports(width, depth):
    """Ports of a memory with one port to write and one to read."""
    return {
        "w_en": In(1),
        "w_addr": In(range(depth)),
        "w_data": In(width),
        "r_addr": In(range(depth)),
        "r_data": Out(width),
    }


class RegisteredMemory(wiring.Component):
    """As :class:`BlockRam`, in plain Amaranth, of words of any width and number.

    Parameters
    ----------
    width, depth : int
        Word width in bits, number of words.
    init : sequence of int
        First words; the rest is 0.
    attrs : dict
        Attributes of the memory, for synthesis.
    """

    def __init__(self, *, width, depth, init, attrs=None):
        self._width, self._depth, self._init, self._attrs = width, depth, init, attrs or {}
        super().__init__(ram_ports(width, depth))

    def elaborate(self, platform):
        m = Module()
        memory = Memory(shape=self._width, depth=self._depth, init=self._init, attrs=self._attrs)
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.w_en), write.addr.eq(self.w_addr), write.data.eq(self.w_data),
            read.en.eq(1), read.addr.eq(self.r_addr),
        ]  # fmt: skip
        m.d.sync += self.r_data.eq(read.data)
        return m


class BlockRam(wiring.Component):
    """One block RAM of 18 Kb, with a port to write, a port to read, and a register behind it.

    ``r_data`` is word ``r_addr`` of two cycles before; undefined when that word was written in the same cycle. What
    is written is there for the next cycle's read. No stall, no reset. On ECP5 it is one DP16KD with its own output
    register, which is five times as fast as the memory alone.

    Parameters
    ----------
    depth : int
        Words: 2048 of 9 bits, 1024 of 18, or 512 of 36.
    init : sequence of int
        First words; the rest is 0.
    primitives : str
        ``portable`` or ``ecp5``.
    place : str, optional
        Where on the die, as place and route names it; left out, it decides.
    """

    latency = 2

    def __init__(self, *, depth, init=(), primitives, place=None):
        if depth not in BLOCK_RAM_WIDTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, BLOCK_RAM_WIDTHS))}, not {depth}")
        if len(init) > depth:
            raise ValueError(f"init holds {len(init)} words, more than the depth of {depth}")
        check_primitives(primitives)
        self.depth, self.width = depth, BLOCK_RAM_WIDTHS[depth]
        self._init, self._primitives, self._place = list(init), primitives, place
        super().__init__(ram_ports(self.width, depth))

    def elaborate(self, platform):
        m = Module()
        if self._primitives == "portable":
            m.submodules.memory = memory = RegisteredMemory(width=self.width, depth=self.depth, init=self._init)
            m.d.comb += [
                memory.w_en.eq(self.w_en), memory.w_addr.eq(self.w_addr), memory.w_data.eq(self.w_data),
                memory.r_addr.eq(self.r_addr), self.r_data.eq(memory.r_data),
            ]  # fmt: skip
            return m
        # The upper address bits choose the word; of the lower ones, the write's are byte enables.
        free = 14 - len(self.r_addr)
        w_addr, r_addr = Cat(C(-1, free), self.w_addr), Cat(C(0, free), self.r_addr)
        # Words of 36 bits use the data of both ports in both directions.
        w_data, r_data = Signal(36), Signal(36)
        m.d.comb += w_data.eq(self.w_data)
        m.d.comb += self.r_data.eq(r_data if self.width == 36 else r_data[18:])
        m.submodules.dp16kd = Instance(
            "DP16KD",
            **({"a_BEL": self._place} if self._place else {}),
            p_DATA_WIDTH_A=self.width, p_DATA_WIDTH_B=self.width, p_REGMODE_A="OUTREG", p_REGMODE_B="OUTREG",
            **{f"p_INITVAL_{n:02X}": row for n, row in enumerate(self._initial_rows()) if row.value},
            i_CLKA=ClockSignal(), i_CLKB=ClockSignal(), i_CEA=self.w_en, i_WEA=C(1),
            **{f"i_ADA{n}": w_addr[n] for n in range(14)},
            **{f"i_ADB{n}": r_addr[n] for n in range(14)},
            **{f"i_DI{'AB'[n // 18]}{n % 18}": w_data[n] for n in range(36)},
            **{f"o_DO{'AB'[n // 18]}{n % 18}": r_data[n] for n in range(36)},
        )  # fmt: skip
        return m

    def _initial_rows(self):
        """DP16KD's initial values: 64 rows of 16 fields, 20 bits each, of which 18 are used."""
        words = self._init + [0] * (self.depth - len(self._init))
        content = sum(word << number * self.width for number, word in enumerate(words))
        for row in range(64):
            fields = (content >> (16 * row + n) * 18 & (1 << 18) - 1 for n in range(16))
            yield C(sum(field << 20 * n for n, field in enumerate(fields)), 320)


def _extend(value, width):
    """``value``, signed or not, as ``width`` bits."""
    value = value if value.shape().signed else Cat(value, C(0, 1)).as_signed()
    return Cat(value, value[-1].replicate(max(width - len(value), 0)))[:width]


def gated_add(m, name, a, x, b, y, *, width, primitives, subtract=False):
    """``(b if y else 0) + (a if x else 0)`` modulo ``2**width``, signed; with ``subtract`` the difference.

    Combinational. On ECP5 it is the module GATED_ADDER of ``hw/gated_adder.v``, one LUT4 a bit.
    """
    total = Signal(signed(width), name=f"{name}_sum")
    a, b = _extend(a, width), _extend(b, width)
    if primitives == "portable":
        a, b = a & x.replicate(width), b & y.replicate(width)
        m.d.comb += total.eq(b - a if subtract else b + a)
    else:
        m.submodules[name] = Instance(
            "GATED_ADDER", p_WIDTH=width, p_SUBTRACT=int(subtract), i_A=a, i_X=x, i_B=b, i_Y=y, o_S=total
        )
    return total


def tree(m, name, operands, combine):
    """Combine signed ``operands`` pairwise, a register after every level.

    Returns
    -------
    (Signal, int)
        What ``combine`` makes of all of them, and its latency in cycles: the logarithm of the number of operands,
        rounded up. Registers have no reset.
    """
    level = 0
    while len(operands) > 1:
        level += 1
        pairs = [operands[i : i + 2] for i in range(0, len(operands), 2)]
        operands = []
        for index, pair in enumerate(pairs):
            value = combine(*pair) if len(pair) == 2 else pair[0]
            register = Signal(value.shape(), name=f"{name}_{level}_{index}", reset_less=True)
            m.d.sync += register.eq(value)
            operands.append(register)
    return operands[0], level


def adder_tree(m, name, operands):
    """:func:`tree` of sums, wide enough never to overflow."""
    return tree(m, name, operands, lambda a, b: a + b)


def chosen(values, index):
    """The value at ``index`` of those by number, any at another: a tree of multiplexers, half of an Array's."""
    if len(values) == 1:
        return next(iter(values.values()))
    bit = max(values).bit_length() - 1
    while len({number >> bit & 1 for number in values}) == 1:
        bit -= 1
    halves = [{number: value for number, value in values.items() if number >> bit & 1 == side} for side in (0, 1)]
    return Mux(index[bit], chosen(halves[1], index), chosen(halves[0], index))
