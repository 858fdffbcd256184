"""Depthwise engine: one window of several channels a cycle, requantised."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import TAPS, CoreConfig
from hw.delay import copies, delay
from hw.memory import FillMemory, FillWord
from hw.places import CORE_ANYWHERE
from hw.primitives import adder_tree, check_primitives, chosen, gated_add, tree
from hw.requantise import Activation, ActivationBounds, Requantiser
from hw.window import Ends

__all__ = ["DepthwiseEngine", "DepthwiseLane", "FabricMultiplier", "depthwise_memories"]


#: Registers on the windows' way in, for the lanes are many and windows come from one place.
_WAY_IN = 2

#: Registers between the requantisers, which lie apart, and what brings their results together.
_WAY_OUT = 1


class FabricMultiplier(wiring.Component):
    """``p = a * b`` of two signed bytes, in LUTs: four gated adders, then a tree.

    Latency 3 cycles, one product a cycle, no stall, no reset.
    """

    latency = 3

    def __init__(self, *, primitives):
        check_primitives(primitives)
        self._primitives = primitives
        super().__init__({"a": In(signed(8)), "b": In(signed(8)), "p": Out(signed(16))})

    def elaborate(self, platform):
        m = Module()
        a, twice = self.a, Cat(0, self.a).as_signed()
        pairs = []
        for bit in range(0, 8, 2):
            gates = dict(width=10, primitives=self._primitives)
            if bit < 6:
                pair = gated_add(m, f"pair_{bit}", a, self.b[bit], twice, self.b[bit + 1], **gates)
            else:
                pair = gated_add(m, f"pair_{bit}", twice, self.b[7], a, self.b[6], **gates, subtract=True)
            register = Signal(signed(10), name=f"partial_{bit}", reset_less=True)
            m.d.sync += register.eq(pair)
            pairs.append(register)
        low, high = Signal(signed(13), reset_less=True), Signal(signed(13), reset_less=True)
        m.d.sync += [
            low.eq(Cat(pairs[0][:2], (pairs[0] >> 2) + pairs[1])),
            high.eq(Cat(pairs[2][:2], (pairs[2] >> 2) + pairs[3])),
            self.p.eq(Cat(low[:4], (low >> 4) + high)),
        ]
        return m


class DepthwiseLane(wiring.Component):
    """Nine products of one channel, summed, and accumulated over the windows that cover the kernel.

    ``acc`` holds the sum of ``window * weights`` from the window flagged ``first`` on, :attr:`latency` cycles later.
    While ``maximum`` is set it is twice the greatest of those values whose weight is not 0 instead, or of -128. One
    window a cycle, no stall, no reset.

    Parameters
    ----------
    accumulator_bits : int
        Width of ``acc``; whoever sizes it vouches that no sum leaves it.
    max_pool : bool
        Whether there is a ``maximum``.
    primitives : str
        ``portable`` or ``ecp5``.
    """

    _tree_levels = (TAPS - 1).bit_length()
    latency = FabricMultiplier.latency + _tree_levels + 1

    def __init__(self, *, accumulator_bits, max_pool=False, primitives):
        self._max_pool, self._primitives = max_pool, primitives
        super().__init__(
            {
                "window": In(data.ArrayLayout(signed(8), TAPS)),
                "weights": In(data.ArrayLayout(signed(8), TAPS)),
                "first": In(1),
                "maximum": In(1),
                "acc": Out(signed(accumulator_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        products = []
        for tap in range(TAPS):
            multiplier = m.submodules[f"multiplier_{tap}"] = FabricMultiplier(primitives=self._primitives)
            m.d.comb += [multiplier.a.eq(self.window[tap]), multiplier.b.eq(self.weights[tap])]
            products.append(multiplier.p)
        total, levels = adder_tree(m, "sum", products)
        (first,) = copies(m, "first", delay(m, "first", self.first, FabricMultiplier.latency + levels - 1), 1)
        base, following = Signal.like(self.acc, name="base"), Signal.like(self.acc, name="following")
        with m.If(~first):
            m.d.comb += base.eq(self.acc)
        m.d.comb += following.eq(base + total)
        if self._max_pool:
            # What a window shows beyond the kernel, where weights are 0, must not win.
            values = [Signal(signed(8), name=f"value_{tap}", reset_less=True) for tap in range(TAPS)]
            m.d.sync += [
                value.eq(Mux(weight.any(), shown, -128))
                for value, weight, shown in zip(values, self.weights, self.window, strict=True)
            ]
            greatest, levels = tree(m, "greatest", values, _greater)
            greatest = delay(m, "greatest", greatest, self.latency - 2 - levels)
            twice = Cat(Const(0, 1), greatest).as_signed()
            with m.If(self.maximum):
                m.d.comb += following.eq(Mux(first | (twice > self.acc), twice, self.acc))
        m.d.sync += self.acc.eq(following)
        return m


def _greater(a, b):
    return Mux(a > b, a, b)


def depthwise_memories(config: CoreConfig) -> dict[str, tuple[int, int]]:
    """Width and depth of the engine's memories by name."""
    lanes, depth = config.depthwise_lanes, config.depthwise_scale_depth
    if not lanes:
        return {}
    return {
        "coefficients": (8 * TAPS * lanes, config.coefficient_depth),
        "depthwise_bias": (config.bias_bits * lanes, depth),
        "depthwise_scale": (Requantiser.scale_bits(config.multiplier_bits) * lanes, depth),
    }


class DepthwiseEngine(wiring.Component):
    """``o``: a depthwise convolution (or a pool, whose weights are all alike) of ``lanes`` channels, requantised.

    Takes ``depthwise_lanes`` channels of a window a cycle. The windows that cover a kernel come one after another,
    framed by ``first`` and ``last``. With as many lanes as channels each such run gives a result; with fewer, ``part``
    says which of their parts a run is for, in order from 0, and the last part's gives the result of all. It is valid
    :meth:`latency` cycles after the last window. ``maximum``, which stays while windows are on their way, takes their
    greatest value in place of the sum of products: see :class:`DepthwiseLane`. ``coefficient``, ``scale``, which are
    addresses, and ``part`` are given :attr:`lead` cycles before their window. No stall; ``o_valid`` is 0 after reset.

    Golden model: ``sim.golden.run_layer`` for ``depthwise_conv2d``, ``average_pool2d``, ``max_pool2d`` and ``mean``.

    Parameters
    ----------
    config : CoreConfig
    select : dict of str to int
        Fill selects of ``coefficients``, ``depthwise_bias``, ``depthwise_scale``.
    init : dict of str to sequence of int
        First words of the same memories.
    places : CorePlaces
        Of which its ``lanes`` and its ``memories``.
    """

    #: Cycles from the addresses, and the part, to their window.
    lead = FillMemory.latency

    def __init__(self, config: CoreConfig, *, select, init, places=CORE_ANYWHERE):
        self._config, self._select, self._init, self._places = config, select, init, places
        self._requantisers = [
            Requantiser(
                accumulator_bits=config.depthwise_accumulator_bits, bias_bits=config.bias_bits,
                window_bits=window_bits, windows=config.depthwise_window_bits, multiplier_bits=config.multiplier_bits,
                hard=n < config.hard_lanes, primitives=config.primitives,
                places=places.lanes[n] if n < len(places.lanes) else (),
            ) for n, window_bits in enumerate(config.depthwise_window_bits)
        ]  # fmt: skip
        super().__init__(
            {
                "fill": In(FillWord),
                "window": In(data.ArrayLayout(data.ArrayLayout(signed(8), config.lanes), TAPS)),
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "ends": In(Ends),
                "maximum": In(1),
                **({"part": In(range(config.parts))} if config.parts > 1 else {}),
                "coefficient": In(range(config.coefficient_depth)),
                "scale": In(range(config.depthwise_scale_depth)),
                "bounds": In(ActivationBounds),
                "o": Out(data.ArrayLayout(signed(8), config.lanes)),
                "o_valid": Out(1),
                "o_ends": Out(Ends),
            }
        )

    @staticmethod
    def latency(config) -> int:
        """Cycles from a result's last window to the result."""
        requantised = Requantiser.latency(*config.depthwise_window_bits) + _WAY_OUT
        return _WAY_IN + DepthwiseLane.latency + requantised + Activation.latency

    def elaborate(self, platform):
        m = Module()
        config = self._config
        lanes, parts = config.depthwise_lanes, config.parts
        latency = self.latency(config)
        scale_bits = Requantiser.scale_bits(config.multiplier_bits)
        shapes = depthwise_memories(config)
        memories = {}
        # A copy of the fill word for each memory, for they do not stand together.
        fills = copies(m, "fill", self.fill.as_value(), len(shapes))
        for (name, (width, depth)), fill in zip(shapes.items(), fills, strict=True):
            memory = memories[name] = m.submodules[name.removeprefix("depthwise_")] = FillMemory(
                width=width, depth=depth, select=self._select[name], init=self._init.get(name, ()),
                primitives=config.primitives, places=self._places.memories.get(name, ()),
            )  # fmt: skip
            m.d.comb += memory.fill.eq(fill)
        coefficients, bias, scale = memories.values()
        shown, whole = [tap.as_value() for tap in self.window], Const(1)
        if parts > 1:
            whole = delay(m, "whole", self.part == parts - 1, self.lead)
            selects = copies(m, "part", delay(m, "part", self.part, self.lead - 1), TAPS)
            shown = [
                chosen({n: tap[8 * lanes * n :][: 8 * lanes] for n in range(parts)}, select)
                for tap, select in zip(shown, selects, strict=True)
            ]
        window = data.View(
            data.ArrayLayout(data.ArrayLayout(signed(8), lanes), TAPS), delay(m, "window", Cat(shown), _WAY_IN)
        )
        first = delay(m, "first", self.first, _WAY_IN)
        at_bias = delay(m, "scale", self.scale, _WAY_IN + DepthwiseLane.latency)
        m.d.comb += [
            coefficients.r_addr.eq(delay(m, "coefficient", self.coefficient, _WAY_IN)),
            bias.r_addr.eq(at_bias),
            scale.r_addr.eq(delay(m, "multiplier", at_bias, Requantiser.scale_delay)),
        ]
        m.submodules.activation = activation = Activation(lanes=lanes)
        weights = data.View(data.ArrayLayout(data.ArrayLayout(signed(8), TAPS), lanes), coefficients.r_data)
        for n, requantiser in enumerate(self._requantisers):
            m.submodules[f"requantiser_{n}"] = requantiser
            lane = m.submodules[f"lane_{n}"] = DepthwiseLane(
                accumulator_bits=config.depthwise_accumulator_bits, max_pool=config.max_pool,
                primitives=config.primitives,
            )  # fmt: skip
            m.d.comb += [lane.window[tap].eq(window[tap][n]) for tap in range(TAPS)]
            m.d.comb += [
                lane.weights.eq(weights[n]), lane.first.eq(first), lane.maximum.eq(self.maximum),
                requantiser.acc.eq(lane.acc),
                requantiser.bias.eq(bias.r_data[n * config.bias_bits :][: config.bias_bits]),
                Cat(requantiser.multiplier, requantiser.shift).eq(scale.r_data[n * scale_bits :][:scale_bits]),
                activation.i[n].eq(delay(m, f"requantised_{n}", requantiser.o, _WAY_OUT)),
            ]  # fmt: skip
        m.d.comb += [
            # They hold while results are on their way, so they can take their time.
            activation.bounds.eq(delay(m, "bounds", self.bounds.as_value(), 1)),
            self.o.eq(Cat(self._earlier(m, activation.o), activation.o)),
            self.o_valid.eq(delay(m, "valid", self.valid & self.last & whole, latency, reset_less=False)),
            self.o_ends.eq(delay(m, "ends", self.ends.as_value(), latency)),
        ]
        return m

    def _earlier(self, m, part):
        """The parts of a word before the last, which wait for it."""
        config = self._config
        waiting = Signal(8 * (config.lanes - config.depthwise_lanes), reset_less=True)
        if config.parts > 1:
            with m.If(delay(m, "part_valid", self.valid & self.last, self.latency(config))):
                m.d.sync += waiting.eq(Cat(waiting, part)[-len(waiting) :])
        return waiting
