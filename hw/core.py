"""The accelerator: everything between the two byte streams of the host port."""

from dataclasses import dataclass

from amaranth import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.array import MacArray, column_memories
from hw.config import BANKS, CoreConfig
from hw.delay import copies, delay
from hw.depthwise import DepthwiseEngine, depthwise_memories
from hw.features import FeatureMemory
from hw.gather import Gather
from hw.host import HostPort
from hw.jobs import WindowMode, array_job, window_job_bits
from hw.memory import SLICE_BITS, slices_of
from hw.patch import PatchBuffer
from hw.places import CORE_ANYWHERE
from hw.program import Sequencer
from hw.residual import residual_memories
from hw.window import Ends, WindowGenerator

__all__ = ["Core", "FilledMemory", "filled_memories"]


@dataclass(frozen=True)
class FilledMemory:
    """A memory that the host can fill: its word width in bits, its depth, and its first fill select."""

    width: int
    depth: int
    select: int


def filled_memories(config: CoreConfig) -> dict[str, FilledMemory]:
    """All memories that the fill bus reaches, by name, with their selects in ascending order."""
    shapes = {f"features_{n}": (config.word_bits, config.feature_depth) for n in range(BANKS)}
    shapes |= {
        "window_program": (window_job_bits(config), config.window_program_depth),
        "array_program": (array_job(config).size, config.array_program_depth),
        **depthwise_memories(config),
    }
    columns = [item for n in range(config.columns) for item in column_memories(config, n).items()]
    shapes |= sorted(columns, key=lambda item: not item[0].startswith("weights_"))  # all weights, then the others
    if config.residual_lanes:
        shapes |= residual_memories(config)
    memories, select = {}, 0
    for name, (width, depth) in shapes.items():
        memories[name] = FilledMemory(width, depth, select)
        select += slices_of(width)
    return memories


class Core(wiring.Component):
    """A network's accelerator.

    ``i`` and ``o`` are the host port's byte streams: see :class:`hw.host.HostPort`. The ``trace`` outputs show every
    word that the array makes (of two pixels, where a bit of ``trace_array_valid`` each says so), that the depthwise
    engine passes on, and that the residual adder makes of the array's, for whoever compares them with the golden model;
    a board leaves them open.

    Parameters
    ----------
    config : CoreConfig
        Dimensions.
    init : dict of str to sequence of int
        First words of the memories, by the names of :func:`filled_memories`.
    digest : int
        32 bits that tell which core this is.
    places : CorePlaces
        Where on the die its parts stand.
    """

    #: Cycles from the host's start to the engines', which may be at the other end of the die.
    start_cycles = 4

    def __init__(self, config: CoreConfig, *, init=None, digest=0, places=CORE_ANYWHERE):
        self._config, self._init, self._digest, self._places = config, init or {}, digest, places
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "trace_array_valid": Out(config.pixels),
                "trace_array": Out(config.word_bits * config.pixels),
                "trace_depthwise_valid": Out(1),
                "trace_depthwise": Out(config.word_bits),
                "trace_residual_valid": Out(1),
                "trace_residual": Out(config.word_bits),
                "trace_running": Out(1),
            }
        )

    @staticmethod
    def drain_cycles(config) -> int:
        """Cycles from the issue of a window until its bytes are in the patch buffer, whichever way they take."""
        depthwise = DepthwiseEngine.latency(config) if config.depthwise_lanes else 0
        return WindowGenerator.latency + max(depthwise, Gather.latency) + 4

    def elaborate(self, platform):
        m = Module()
        config, init, places = self._config, self._init, self._places.memories
        memories = filled_memories(config)
        select = {name: memory.select for name, memory in memories.items()}

        def memory(name):
            return {
                **vars(memories[name]), "init": init.get(name, ()), "primitives": config.primitives,
                "places": places.get(name, ()),
            }  # fmt: skip

        banks = [f"features_{n}" for n in range(BANKS)]
        features = m.submodules.features = FeatureMemory(
            config,
            select=[select[name] for name in banks],
            init=[init.get(name, ()) for name in banks],
            places=places.get("features", ()),
        )
        gather = m.submodules.gather = Gather(config)
        window = m.submodules.window = WindowGenerator(config, drain_cycles=self.drain_cycles(config))
        window_program = m.submodules.window_program = Sequencer(**memory("window_program"))
        array_program = m.submodules.array_program = Sequencer(**memory("array_program"))
        patch = m.submodules.patch = PatchBuffer(config)
        array = m.submodules.array = MacArray(config, select=select, init=init, places=self._places)
        # From the header's address: two registers on the way, r_addr in two cycles, then the memory, two turns and the
        # register here, then one more to be safe.
        host = m.submodules.host = HostPort(digest=self._digest, read_cycles=WindowGenerator.latency + 4)
        wiring.connect(m, wiring.flipped(self.i), host.i)
        wiring.connect(m, wiring.flipped(self.o), host.o)
        wiring.connect(m, window_program.jobs, window.jobs)
        wiring.connect(m, array_program.jobs, array.jobs)

        start = delay(m, "start", host.start, self.start_cycles - 1, reset_less=False)
        started = (window_program, array_program, window, patch, array)
        for component, its_start in zip(started, copies(m, "start", start, len(started)), strict=True):
            m.d.comb += component.start.eq(its_start)
        # Each with a copy of its own, so that no register drives memories all over the die.
        fill = delay(m, "fill", host.fill.as_value(), 3, reset_less=False)
        filled = [features, window_program, array_program, array]
        if config.depthwise_lanes:
            depthwise = DepthwiseEngine(config, select=select, init=init, places=self._places)
            m.submodules.depthwise = depthwise
            filled.append(depthwise)
        for component, its_fill in zip(filled, copies(m, "fill", fill, len(filled)), strict=True):
            m.d.comb += component.fill.eq(its_fill)

        # Feature memory: the window generator reads, the array writes, the host does both while they rest.
        m.d.comb += [
            features.r_addr.eq(window.r_addr), window.r_data.eq(features.r_data),
            features.w_en.eq(array.w_en), features.w_addr.eq(array.w_addr), features.w_data.eq(array.w_data),
        ]  # fmt: skip
        slices = slices_of(config.word_bits)
        peeked = Array(window.window[0][n * SLICE_BITS :][:SLICE_BITS] for n in range(slices))
        m.d.comb += Cat(window.peek_column, window.peek_row, window.peek_address, window.peek).eq(
            delay(m, "peek", Cat(host.peek_select[4:8], host.peek_address[: config.address_bits], host.peek), 2)
        )
        m.d.sync += host.peek_data.eq(peeked[host.peek_select[:4]])

        # Windows become patches, either through the depthwise engine or as they are.
        # The mode holds from well before a layer's first window, so it can take its time.
        mode = delay(m, "mode", window.layer.mode.as_value(), 1)
        as_is, residual, narrow, whole, paired = (
            delay(m, name, flag, 1)
            for name, flag in (
                ("as_is", mode != WindowMode.DEPTHWISE.value), ("residual", mode == WindowMode.RESIDUAL.value),
                ("narrow", mode == WindowMode.NARROW.value), ("whole", window.layer.whole),
                ("paired", window.layer.paired if config.pixels > 1 else Const(0)),
            )
        )  # fmt: skip
        filtered, filtered_valid, filtered_ends = Signal(config.word_bits), Signal(), Signal(Ends)
        if config.depthwise_lanes:
            m.d.comb += [
                *([depthwise.part.eq(window.part)] if config.parts > 1 else []),
                depthwise.window.eq(window.window), depthwise.valid.eq(window.valid & ~as_is),
                depthwise.first.eq(window.control.first), depthwise.last.eq(window.control.last),
                depthwise.ends.eq(window.control.ends), depthwise.bounds.eq(window.bounds),
                depthwise.coefficient.eq(window.coefficient), depthwise.scale.eq(window.scale),
                *([depthwise.maximum.eq(window.layer.maximum)] if config.max_pool else []),
                filtered.eq(depthwise.o), filtered_valid.eq(depthwise.o_valid), filtered_ends.eq(depthwise.o_ends),
            ]  # fmt: skip
        m.d.comb += [
            gather.window.eq(window.window), gather.valid.eq(window.valid & as_is),
            gather.control.eq(window.control), gather.narrow.eq(narrow), gather.channels.eq(window.layer.channels),
        ]  # fmt: skip
        valid, residual_valid = Signal(), Signal()
        taken = Signal(
            data.StructLayout({"data": 8 * config.array_rows, "count": 4, "full": 1, "ends": Ends}), reset_less=True
        )
        m.d.sync += [
            valid.eq(filtered_valid | gather.o_valid & ~residual),
            residual_valid.eq(gather.o_valid & residual),
            # Beyond a feature word, nobody looks at what comes with the depthwise engine's.
            taken.data.eq(Cat(Mux(as_is, gather.o[: config.word_bits], filtered), gather.o[config.word_bits :])),
            taken.count.eq(Mux(as_is, gather.o_count, 1)),
            taken.full.eq(whole),
            taken.ends.eq(Mux(as_is, gather.o_ends, filtered_ends)),
        ]
        rows_written = Signal(16)
        with m.If(start):
            m.d.sync += rows_written.eq(0)
        with m.Elif(array.row_written):
            m.d.sync += rows_written.eq(rows_written + 1)
        m.d.comb += [
            patch.valid.eq(valid), patch.data.eq(taken.data), patch.full.eq(taken.full), patch.ends.eq(taken.ends),
            *([patch.paired.eq(paired)] if config.pixels > 1 else []),
            patch.count.eq(taken.count), patch.r_addr.eq(array.patch), array.x.eq(patch.r_data),
            array.residual.eq(taken.data), array.residual_valid.eq(residual_valid),
            array.arrived.eq(patch.arrived), window.freed.eq(array.freed), window.rows_written.eq(rows_written),
        ]  # fmt: skip

        running = Signal()
        finished = delay(m, "finished", array.finished, 2, reset_less=False)  # in the memory by then
        m.d.sync += running.eq((running | host.start) & ~finished)
        m.d.comb += [
            host.finished.eq(finished),
            self.trace_array_valid.eq(array.made_valid), self.trace_array.eq(array.made),
            self.trace_depthwise_valid.eq(filtered_valid), self.trace_depthwise.eq(filtered),
            self.trace_residual_valid.eq(array.added), self.trace_residual.eq(array.w_data[0]),
            self.trace_running.eq(running),
        ]  # fmt: skip
        return m
