"""What stands for the vendor's cells in simulation, and engines built of them, in Verilator.

One Verilog top holds everything; one simulation plays it. The models are Python integers and NumPy.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth import Cat, Const, Instance, Module, Signal, Value
from amaranth.back import rtlil
from amaranth.hdl import Fragment
from amaranth.lib import wiring
from ports import corners, packed, small_config, unpacked
from test_array import Run, check, made_words, random_contents, random_patches, random_rows, selects, written
from test_depthwise import SELECT, engine_results, engine_script

from gen import tools
from hw.array import MacArray
from hw.depthwise import DepthwiseEngine, FabricMultiplier
from hw.jobs import array_job
from hw.patch import PatchBuffer
from hw.primitives import BLOCK_RAM_WIDTHS, GATED_ADDER, BlockRam, Multiplier, gated_add
from hw.program import Sequencer

pytestmark = pytest.mark.cocotb

ROOT = Path(__file__).parent.parent
WIDTHS = (1, 2, 5, 8, 10, 34, 36)
LOOKUPS = (0x7888, 0x8777, 0x0000, 0xFFFF, 0x6996, 0x1B4D, 0xA5C3)
OPERANDS = ((8, 8), (18, 18), (5, 12))
RAM_CYCLES = 6000
CONFIG = small_config(primitives="ecp5", patch_depth=128)
ENGINE_SEED, ARRAY_SEED = 21, 22


class Top:
    """A module under test with its ports by name; every port is an unsigned integer."""

    def __init__(self):
        self.m, self.ports = Module(), {}

    def drive(self, name, *targets):
        """An input port as wide as the first target."""
        values = [Value.cast(target) for target in targets]
        port = self.ports[name] = Signal(len(values[0]), name=name)
        self.m.d.comb += [value.eq(port) for value in values]
        return port

    def watch(self, name, value):
        """An output port that shows ``value``."""
        value = Value.cast(value)
        port = self.ports[name] = Signal(len(value), name=name)
        self.m.d.comb += port.eq(value)

    def verilog(self):
        return tools.rtlil_to_verilog(rtlil.convert(self.m, name="bench_top", ports=list(self.ports.values())))


def ram_init(depth):
    """First words of a block RAM; the last few are left out."""
    rng = random.Random(depth)
    return [rng.getrandbits(BLOCK_RAM_WIDTHS[depth]) for _ in range(depth - 5)]


def array_program():
    rng = random.Random(ARRAY_SEED)
    rows = random_rows(rng, CONFIG, 8)
    while sum(row.pixels * row.words for row in rows) > CONFIG.patch_depth:
        rows = random_rows(rng, CONFIG, 8)
    return rows, random_patches(rows, CONFIG, ARRAY_SEED)


def add_cells(top):
    """Gated adders (both bodies), multipliers, block RAMs and carry cells."""
    m = top.m
    a, b, x, y = (Signal(bits, name=f"operand_{n}") for n, bits in enumerate((36, 36, 1, 1)))
    for name, signal in (("add_a", a), ("add_b", b), ("add_x", x), ("add_y", y)):
        top.drive(name, signal)
    for width in WIDTHS:
        for subtract in (0, 1):
            name = f"adder_{width}_{subtract}"
            body = gated_add(
                m, name, a[:width], x, b[:width], y, width=width, primitives="ecp5", subtract=bool(subtract)
            )
            top.watch(f"{name}_body", body)
            cells = Signal(width, name=f"{name}_of_cells")
            m.submodules[f"{name}_cells"] = Instance(
                "GATED_ADDER_CELLS", p_WIDTH=width, p_SUBTRACT=subtract,
                i_A=a[:width], i_B=b[:width], i_X=x, i_Y=y, o_S=cells,
            )  # fmt: skip
            top.watch(f"{name}_cells", cells)
    for n, (a_bits, b_bits) in enumerate(OPERANDS):
        multiplier = m.submodules[f"multiplier_{n}"] = Multiplier(a_bits=a_bits, b_bits=b_bits, primitives="ecp5")
        top.drive(f"multiply_{n}_a", multiplier.a)
        top.drive(f"multiply_{n}_b", multiplier.b)
        top.watch(f"multiply_{n}_p", multiplier.p)
    bits = Signal(9, name="cell_bits")
    top.drive("cell_in", bits)
    for depth in BLOCK_RAM_WIDTHS:
        ram = m.submodules[f"ram_{depth}"] = BlockRam(depth=depth, init=ram_init(depth), primitives="ecp5")
        for name in ("w_en", "w_addr", "w_data", "r_addr"):
            top.drive(f"ram_{depth}_{name}", getattr(ram, name))
        top.watch(f"ram_{depth}_r_data", ram.r_data)
    shown = []
    for n, init in enumerate(LOOKUPS):
        out = Signal(3, name=f"cell_{n}")
        m.submodules[f"cell_{n}"] = Instance(
            "CCU2C", p_INIT0=Const(init, 16), p_INIT1=Const(LOOKUPS[n - 1], 16), p_INJECT1_0="NO", p_INJECT1_1="NO",
            i_CIN=bits[0], **{f"i_{pin}": bits[1 + k] for k, pin in enumerate(("A0", "B0", "C0", "D0"))},
            **{f"i_{pin}": bits[5 + k] for k, pin in enumerate(("A1", "B1", "C1", "D1"))},
            o_S0=out[0], o_S1=out[1], o_COUT=out[2],
        )  # fmt: skip
        shown.append(out)
    top.watch("cell_out", Cat(shown))


def add_engines(top):
    """Fabric multipliers for eight parts of a's range, a depthwise engine, an array between its buffers."""
    m = top.m
    a, b, products = Signal(5, name="fabric_low"), Signal(8, name="fabric_other"), []
    top.drive("fabric_a", a)
    top.drive("fabric_b", b)
    for part in range(8):
        multiplier = m.submodules[f"fabric_{part}"] = FabricMultiplier(primitives="ecp5")
        m.d.comb += [multiplier.a.eq(Cat(a, Const(part, 3)).as_signed()), multiplier.b.eq(b.as_signed())]
        products.append(multiplier.p)
    top.watch("fabric_p", Cat(products))

    contents, script, _ = engine_script(CONFIG, ENGINE_SEED, 400)
    engine = m.submodules.engine = DepthwiseEngine(CONFIG, select=SELECT, init=contents)
    for name in script:
        top.drive(f"engine_{name}", getattr(engine, name))
    for name in ("o", "o_valid", "o_ends"):
        top.watch(f"engine_{name}", getattr(engine, name))

    rows, _ = array_program()
    select = selects(CONFIG)
    array = m.submodules.array = MacArray(CONFIG, select=select, init=random_contents(CONFIG, ARRAY_SEED).words(CONFIG))
    program = m.submodules.program = Sequencer(
        width=array_job(CONFIG).size, depth=len(rows), select=0, init=[row.encoded(CONFIG) for row in rows],
        primitives=CONFIG.primitives,
    )  # fmt: skip
    patch = m.submodules.patch = PatchBuffer(CONFIG)
    wiring.connect(m, program.jobs, array.jobs)
    m.d.comb += [patch.r_addr.eq(array.patch), array.x.eq(patch.r_data), array.arrived.eq(patch.arrived)]
    top.drive("array_start", array.start, program.start, patch.start)
    for name in ("valid", "ends", "data"):
        top.drive(f"patch_{name}", getattr(patch, name))
    m.d.comb += patch.full.eq(1)
    top.watch("array_arrived", patch.arrived)
    top.watch("array_offers", program.jobs.valid)
    top.watch("array_takes", program.jobs.valid & array.jobs.ready)
    for name in ("freed", "made", "made_valid", "w_en", "w_addr", "w_data", "row_written", "finished"):
        top.watch(f"array_{name}", getattr(array, name))


def stimuli():
    """Values for every input."""
    rng = random.Random(20)
    ends = [value & (1 << 36) - 1 for bits in WIDTHS for value in corners(max(bits, 2))]
    adds = [(a, b, x, y) for a in ends[::3] for b in ends[::3] for x in (0, 1) for y in (0, 1)]
    adds += [(rng.getrandbits(36), rng.getrandbits(36), rng.getrandbits(1), rng.getrandbits(1)) for _ in range(2000)]
    inputs = {f"add_{name}": list(values) for name, values in zip("abxy", zip(*adds, strict=True), strict=True)}
    for n, (a_bits, b_bits) in enumerate(OPERANDS):
        pairs = [(a, b) for a in corners(a_bits) for b in corners(b_bits)]
        pairs += [(rng.randrange(1 << a_bits), rng.randrange(1 << b_bits)) for _ in range(2000)]
        inputs[f"multiply_{n}_a"] = [a & (1 << a_bits) - 1 for a, _ in pairs]
        inputs[f"multiply_{n}_b"] = [b & (1 << b_bits) - 1 for _, b in pairs]
    for depth, width in BLOCK_RAM_WIDTHS.items():
        # Every word is read before anything is written, then reads and writes mix.
        reads = [*range(depth), *(rng.randrange(depth) for _ in range(RAM_CYCLES - depth))]
        writes = [(address + rng.randrange(1, depth)) % depth for address in reads]
        inputs[f"ram_{depth}_r_addr"], inputs[f"ram_{depth}_w_addr"] = reads, writes
        inputs[f"ram_{depth}_w_en"] = [int(n >= depth and rng.random() < 0.7) for n in range(RAM_CYCLES)]
        inputs[f"ram_{depth}_w_data"] = [rng.getrandbits(width) for _ in range(RAM_CYCLES)]
    inputs["cell_in"] = list(range(512))
    inputs["fabric_a"] = [a for a in range(32) for _ in range(256)]
    inputs["fabric_b"] = list(range(256)) * 32
    for name in "ab":
        inputs[f"fabric_{name}"] += [0] * FabricMultiplier.latency
    _, script, _ = engine_script(CONFIG, ENGINE_SEED, 400)
    inputs |= {f"engine_{name}": values for name, values in script.items()}
    rows, patches = array_program()
    inputs["array_start"] = [0, 1, 0]
    for name in ("valid", "ends", "data"):
        inputs[f"patch_{name}"] = [0] * 6
    for patch in patches:
        for n, word in enumerate(patch):
            gap = rng.choice((0, 0, 0, 4))
            inputs["patch_valid"] += [1] + [0] * gap
            inputs["patch_ends"] += [3 * (n == len(patch) - 1)] + [0] * gap
            inputs["patch_data"] += [packed(word, 8)] + [0] * gap
    inputs["patch_valid"] += [0]
    return inputs


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """What every port showed: inputs and outputs by name, a value a cycle."""
    folder = tmp_path_factory.mktemp("ecp5")
    top = Top()
    add_cells(top)
    add_engines(top)
    (folder / "bench_top.v").write_text(top.verilog(), encoding="utf-8")
    of_cells = GATED_ADDER.read_text(encoding="utf-8").replace("module GATED_ADDER", "module GATED_ADDER_CELLS")
    (folder / "cells.v").write_text(of_cells, encoding="utf-8")
    inputs = stimuli()
    script, result, log = folder / "script.json", folder / "result.json", folder / "verilator.log"
    outputs = [name for name in top.ports if name not in inputs]
    script.write_text(json.dumps({"inputs": inputs, "outputs": outputs}), encoding="utf-8")
    environment = tools.verilator_environment() | {
        "GEN_BENCH": str(script),
        "GEN_BENCH_RESULT": str(result),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    sources = [folder / "bench_top.v", folder / "cells.v", ROOT / "sim" / "carry_cell.v"]
    command = [sys.executable, "-m", "sim.runner", str(folder / "build"), "bench_top", "sim.bench_ports"]
    (folder / "build").mkdir()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*command, *map(str, sources)], env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    assert done.returncode == 0, log.read_text(encoding="utf-8", errors="replace")[-3000:]
    return inputs | json.loads(result.read_text(encoding="utf-8"))


@pytest.mark.parametrize("subtract", [0, 1])
@pytest.mark.parametrize("width", WIDTHS)
def test_gated_adder(played, width, subtract):
    """The body for simulation and the carry cells for synthesis make the same sums, and the right ones."""
    mask = (1 << width) - 1
    expected = [
        ((b if y else 0) + (-a if subtract else a) * x) & mask
        for a, b, x, y in zip(*(played[f"add_{name}"] for name in "abxy"), strict=True)
    ]
    for body in ("body", "cells"):
        assert played[f"adder_{width}_{subtract}_{body}"][: len(expected)] == expected


@pytest.mark.parametrize("number", range(len(OPERANDS)))
def test_multiplier(played, number):
    """Signed products, three cycles later."""
    a_bits, b_bits = OPERANDS[number]
    a, b = played[f"multiply_{number}_a"], played[f"multiply_{number}_b"]
    expected = [
        unpacked(x, a_bits, 1)[0] * unpacked(y, b_bits, 1)[0] & (1 << a_bits + b_bits) - 1
        for x, y in zip(a, b, strict=True)
    ]
    assert played[f"multiply_{number}_p"][3 : 3 + len(a)] == expected


@pytest.mark.parametrize("depth", BLOCK_RAM_WIDTHS)
def test_block_ram(played, depth):
    """First words, and words written and read at random, two cycles later."""
    words, expected = ram_init(depth) + [0] * 5, []
    ports = (played[f"ram_{depth}_{name}"] for name in ("r_addr", "w_en", "w_addr", "w_data"))
    for r_addr, w_en, w_addr, w_data in zip(*ports, strict=True):
        expected.append(words[r_addr])
        if w_en:
            words[w_addr] = w_data
    latency = BlockRam.latency
    assert played[f"ram_{depth}_r_data"][latency : len(expected)] == expected[:-latency]


@pytest.mark.parametrize("depth", BLOCK_RAM_WIDTHS)
def test_block_ram_contents(depth):
    """Where each word's bits lie in the primitive's initial values.

    Source: the mapping of block RAMs in Yosys' lattice/brams_map_16kd.v: of a row's 320 bits, 16 fields of 20 bits hold
    18 each; words of 9 bits lie in pairs in a field, words of 36 bits in two fields.
    """
    init, width = ram_init(depth), BLOCK_RAM_WIDTHS[depth]
    fragment = Fragment.get(BlockRam(depth=depth, init=init, primitives="ecp5"), None)
    ((instance, _, _),) = fragment.subfragments
    rows = [instance.parameters.get(f"INITVAL_{n:02X}", Const(0, 320)).value for n in range(64)]
    bits = "".join(f"{row >> 20 * n & (1 << 20) - 1:020b}"[:1:-1] for row in rows for n in range(16))
    assert [int(bits[n : n + width][::-1], 2) for n in range(0, len(bits), width)] == init + [0] * 5


def test_carry_cell(played):
    """All inputs of the cell, with several tables.

    Source: CCU2C in Yosys' ecp5/ccu2c_sim.vh: each half's sum is a LUT4 of A, B, C, D exclusive or the carry; a half
    whose LUT4 is 1 passes the carry on, another puts out the LUT2 of A and B, the LUT4's first four bits.
    """
    for bits, seen in zip(range(512), played["cell_out"], strict=False):
        halves = bits >> 1 & 15, bits >> 5 & 15
        for n, init in enumerate(LOOKUPS):
            carry, out = bits & 1, []
            for table, pins in zip((init, LOOKUPS[n - 1]), halves, strict=True):
                propagate = table >> pins & 1
                out.append(propagate ^ carry)
                carry = carry if propagate else (table & 15) >> (pins & 3) & 1
            assert seen >> 3 * n & 7 == out[0] | out[1] << 1 | carry << 2


def test_fabric_multiplier(played):
    """All 65,536 products of bytes."""
    seen = played["fabric_p"][FabricMultiplier.latency :]
    for a, b, products in zip(played["fabric_a"], played["fabric_b"], seen, strict=False):
        values = [unpacked(a | part << 5, 8, 1)[0] * unpacked(b, 8, 1)[0] for part in range(8)]
        assert unpacked(products, 16, 8) == values
    assert len(seen) == 8192


def test_depthwise_engine(played):
    """The emitted engine on the vendor's cells, cycle by cycle."""
    _, script, expected = engine_script(CONFIG, ENGINE_SEED, 400)
    cycles = len(script["valid"])
    seen = {name: played[f"engine_{name}"][:cycles] for name in ("o", "o_valid", "o_ends")}
    assert engine_results(seen, CONFIG) == expected and len(expected) > 100


def test_array(played):
    """The emitted array on the vendor's multipliers, between sequencer and patch buffer, cycle by cycle."""
    rows, patches = array_program()
    done = Run()
    offers = played["array_offers"]
    done.offered = [cycle for cycle, valid in enumerate(offers) if valid and not (cycle and offers[cycle - 1])]
    done.taken = [cycle for cycle, bit in enumerate(played["array_takes"]) if bit]
    done.arrived = [cycle for cycle, bit in enumerate(played["array_arrived"]) if bit]
    done.freed = [(cycle, words) for cycle, words in enumerate(played["array_freed"]) if words]
    done.made = [
        (cycle, made_words(valid, word, CONFIG))
        for cycle, (valid, word) in enumerate(zip(played["array_made_valid"], played["array_made"], strict=True))
        if valid
    ]
    fields = ("w_en", "w_addr", "w_data", "row_written", "finished")
    for cycle, (enable, addresses, words, row, finished) in enumerate(
        zip(*(played[f"array_{name}"] for name in fields), strict=True)
    ):
        if enable:
            done.writes.append((cycle, written(enable, addresses, words, CONFIG), row, finished))
    check(done, rows, patches, random_contents(CONFIG, ARRAY_SEED), CONFIG)
