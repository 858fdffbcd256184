"""Residual adder: a word of another tensor added to each word that the array makes, as TensorFlow Lite's ADD does."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import CoreConfig
from hw.delay import delay
from hw.memory import FillMemory, FillWord, Ram
from hw.requantise import Activation, ActivationBounds, Requantiser

__all__ = ["ResidualAdder", "residual_memories"]

#: ``x - zero_point`` in the input requantisers; TFLite shifts it left by 20, which moves their point to 31 - 20.
_DIFFERENCE_BITS, _POINT = 10, 11

#: 255 times 2**20, at most halved, and a bit below the point for the requantiser; so is the sum of two.
_SCALED_BITS = 29


def residual_memories(config: CoreConfig) -> dict[str, tuple[int, int]]:
    """Width and depth of the parameters' memories by name: each is read when its parameters are needed."""
    scale = Requantiser.scale_bits
    widths = {
        "residual_zero_points": 2 * 9 + 1,  # negated, and whether to subtract
        "residual_input_scales": 2 * scale(31),
        "residual_output_scale": scale(31),
        "residual_bounds": data.Layout.cast(ActivationBounds).size,
    }
    return {name: (width, config.residual_scale_depth) for name, width in widths.items()}


class ResidualAdder(wiring.Component):
    """``o``: ``i``, or ``rescale(rescale(i - z1) +- rescale(next residual word - z2)) + z``, clamped, by channel.

    Residual words wait in a ring until an ``i`` whose ``scale``, the number of its parameters, is not 0 takes the next
    of them; they must be there by then. Between two words that are added lie at least ``config.residual_beats`` cycles;
    words that are not may come at any time. Latency :meth:`latency` cycles for either, no stall, no reset.

    Golden model: ``sim.golden.run_layer`` for ``add`` and ``sub`` of two tensors.

    Source: AddElementwise, tensorflow/lite/kernels/internal/reference/integer_ops/add.h.

    Parameters
    ----------
    config : CoreConfig
        With at least one residual lane.
    select, init : dict
        Fill selects and first words of the :func:`residual_memories`.
    passed_bits : int
        Width of what passes beside the words, from ``passed`` to ``passed_out``.
    """

    def __init__(self, config: CoreConfig, *, select, init, passed_bits):
        if not config.residual_lanes:
            raise ValueError("residual_lanes must be at least 1 for a residual adder")
        self._config = config
        self._memories = {
            name: FillMemory(
                width=width, depth=depth, select=select[name], init=init.get(name, ()), primitives=config.primitives
            )
            for name, (width, depth) in residual_memories(config).items()
        }
        super().__init__(
            {
                "fill": In(FillWord),
                "start": In(1),
                "residual": In(config.word_bits),
                "residual_valid": In(1),
                "i": In(config.word_bits),
                "valid": In(1),
                "scale": In(range(config.residual_scale_depth)),
                "passed": In(passed_bits),
                "o": Out(config.word_bits),
                "passed_out": Out(passed_bits),
                "added": Out(1),
            }
        )

    #: Cycles until a word, its residual word and its parameters stand side by side.
    _fetch = Ram.latency + 1

    @classmethod
    def _sum_delay(cls):
        return cls._fetch + Requantiser.latency(_DIFFERENCE_BITS) + 1

    @classmethod
    def latency(cls, config) -> int:
        """Cycles from ``i`` to ``o``; 0 for a core without a residual adder."""
        if not config.residual_lanes:
            return 0
        rescaled = cls._sum_delay() + Requantiser.latency(config.residual_window_bits)
        return rescaled + Activation.latency + config.residual_beats + 1

    @classmethod
    def waiting_depth(cls, config) -> int:
        """Words of the ring in which results wait for theirs."""
        return 1 << cls.latency(config).bit_length()

    def elaborate(self, platform):
        m = Module()
        config, lanes = self._config, self._config.residual_lanes
        for name, memory in self._memories.items():
            m.submodules[name] = memory
            m.d.comb += memory.fill.eq(self.fill)

        # Residual words in a ring.
        m.submodules.ring = ring = Ram(
            width=config.word_bits, depth=config.residual_depth, primitives=config.primitives
        )
        add = Signal()
        w_addr, r_addr = Signal.like(ring.w_addr), Signal.like(ring.r_addr)
        m.d.comb += [
            add.eq(self.valid & self.scale.any()),
            ring.w_en.eq(self.residual_valid), ring.w_data.eq(self.residual),
            ring.w_addr.eq(w_addr), ring.r_addr.eq(r_addr),
        ]  # fmt: skip
        with m.If(self.residual_valid):
            m.d.sync += w_addr.eq(w_addr + 1)
        with m.If(add):
            m.d.sync += r_addr.eq(r_addr + 1)
        with m.If(self.start):
            m.d.sync += [w_addr.eq(0), r_addr.eq(0)]

        # A word stays for as many cycles as the lanes need, and moves past them.
        number = Signal.like(self.scale)
        with m.If(add):
            m.d.sync += number.eq(self.scale)
        left, right = Signal(config.word_bits, reset_less=True), Signal(config.word_bits, reset_less=True)
        word = delay(m, "word", self.i, Ram.latency)
        with m.If(delay(m, "add", add, Ram.latency, reset_less=False)):
            m.d.sync += [left.eq(word), right.eq(ring.r_data)]
        with m.Else():
            m.d.sync += [left.eq(left >> 8 * lanes), right.eq(right >> 8 * lanes)]

        # Every parameter is fetched so as to be there when it is needed; ``number`` is a cycle behind the word.
        needed = {
            "residual_zero_points": self._fetch,
            "residual_input_scales": self._fetch + Requantiser.scale_delay,
            "residual_output_scale": self._sum_delay() + Requantiser.scale_delay,
            "residual_bounds": self._sum_delay()
            + Requantiser.latency(config.residual_window_bits)
            - Activation.bounds_lead,
        }
        address, behind = number, 1
        for name, when in needed.items():
            memory = self._memories[name]
            address, behind = delay(m, name, address, when - FillMemory.latency - behind), when - FillMemory.latency
            m.d.comb += memory.r_addr.eq(address)
        zero_points = self._memories["residual_zero_points"].r_data
        subtract = delay(m, "subtract", zero_points[-1], Requantiser.latency(_DIFFERENCE_BITS))
        input_scales = self._memories["residual_input_scales"].r_data
        output_scale = self._memories["residual_output_scale"].r_data

        m.submodules.activation = activation = Activation(lanes=lanes)
        m.d.comb += activation.bounds.eq(self._memories["residual_bounds"].r_data)
        for lane in range(lanes):
            scaled = []
            for n, word in enumerate((left, right)):
                requantiser = m.submodules[f"input_{lane}_{n}"] = Requantiser(
                    accumulator_bits=8, bias_bits=9, window_bits=_DIFFERENCE_BITS, multiplier_bits=31, hard=False,
                    primitives=config.primitives, point=_POINT, output_bits=_SCALED_BITS,
                )  # fmt: skip
                bits = len(input_scales) // 2
                m.d.comb += [
                    requantiser.acc.eq(word[8 * lane :][:8].as_signed()),
                    requantiser.bias.eq(zero_points[9 * n :][:9].as_signed()),
                    Cat(requantiser.multiplier, requantiser.shift).eq(input_scales[bits * n :][:bits]),
                ]
                scaled.append(requantiser.o)
            total = Signal(signed(_SCALED_BITS), name=f"total_{lane}", reset_less=True)
            m.d.sync += total.eq(Mux(subtract, scaled[0] - scaled[1], scaled[0] + scaled[1]))
            requantiser = m.submodules[f"output_{lane}"] = Requantiser(
                accumulator_bits=len(total), bias_bits=1, window_bits=config.residual_window_bits, multiplier_bits=31,
                hard=False, primitives=config.primitives,
            )  # fmt: skip
            m.d.comb += [
                requantiser.acc.eq(total), requantiser.bias.eq(0),
                Cat(requantiser.multiplier, requantiser.shift).eq(output_scale),
                activation.i[lane].eq(requantiser.o),
            ]  # fmt: skip
        made = Signal(config.word_bits, reset_less=True)
        m.d.sync += made.eq(Cat(made, activation.o)[8 * lanes :])

        # What is not added waits meanwhile, in a ring of as many words as cycles.
        latency = self.latency(config)
        depth = self.waiting_depth(config)
        m.submodules.waiting = waiting = Ram(
            width=config.word_bits + len(self.passed), depth=depth, primitives=config.primitives
        )
        now, then = Signal(range(depth)), Signal(range(depth), init=-(latency - 1 - Ram.latency) % depth)
        m.d.sync += [now.eq(now + 1), then.eq(then + 1)]
        m.d.comb += [
            waiting.w_en.eq(1), waiting.w_addr.eq(now), waiting.w_data.eq(Cat(self.i, self.passed)),
            waiting.r_addr.eq(then),
        ]  # fmt: skip
        added = delay(m, "added", add, latency - 1, reset_less=False)
        m.d.sync += [
            self.o.eq(Mux(added, made, waiting.r_data[: config.word_bits])),
            self.passed_out.eq(waiting.r_data[config.word_bits :]),
            self.added.eq(added),
        ]
        return m
