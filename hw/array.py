"""Systolic MAC array: output-stationary columns that patches flow through."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.config import BANKS, WINDOW, CoreConfig
from hw.delay import copies, delay, events_before
from hw.dot import DotProduct
from hw.jobs import array_job
from hw.loops import Loop
from hw.memory import FillMemory, FillWord
from hw.patch import PatchBuffer
from hw.places import CORE_ANYWHERE
from hw.requantise import ROUNDED_BITS, Activation, ActivationBounds, Requantiser
from hw.residual import ResidualAdder

__all__ = ["ArrayController", "Column", "MacArray", "column_memories", "result_layout"]


def column_memories(config: CoreConfig, number: int) -> dict[str, tuple[int, int]]:
    """Width and depth of a column's memories by name: its weights, then bias and scale of each of its channels."""
    shapes = {f"weights_{number}": (8 * config.array_rows * config.outputs, config.weight_depths[number])}
    for n in range(number * config.outputs, (number + 1) * config.outputs):
        shapes[f"bias_{n}"] = (config.bias_bits, config.scale_depth)
        shapes[f"scale_{n}"] = (Requantiser.scale_bits(config.multiplier_bits), config.scale_depth)
    return shapes


class Column(wiring.Component):
    """One column: K multipliers, their trees, and an accumulator and a requantiser for each of its output channels.

    With ``config.pixels`` 2, there are two of these, and ``o`` has results of two pixels: for the second they are of
    the second half of ``x`` and its weights, for the first of the other half, or of all where ``joined`` is set.

    ``x`` belongs to the ``weight`` address of :attr:`weight_latency` cycles before, ``first`` (of a sum) to the ``x``
    of :meth:`sum_delay` cycles before, ``joined`` to that of one less, ``scale`` (address of bias and multiplier) to
    the address of :meth:`scale_delay` cycles before. ``o`` follows the last weight's address by :meth:`latency` cycles.
    No stall, no reset.

    Golden model: ``sim.golden.run_layer`` for ``conv2d`` and ``fully_connected``.

    Parameters
    ----------
    config : CoreConfig
    number : int
        Which column; its output channels are ``number * outputs`` and the next.
    select, init : dict
        Fill selects and first words of ``weights_{number}``, and of ``bias_{n}`` and ``scale_{n}`` for each channel.
    places : CorePlaces
        Of which its channels' ``columns``, and its ``memories``.
    """

    def __init__(self, config: CoreConfig, *, number, select, init, places=CORE_ANYWHERE):
        self._config = config
        channels = range(number * config.outputs, (number + 1) * config.outputs)
        columns = places.columns[channels.start : channels.stop]
        self._memories = {
            name: FillMemory(
                width=width, depth=depth, select=select[name], init=init.get(name, ()), primitives=config.primitives,
                places=places.memories.get(name, ()), apart=name == f"weights_{number}",
            ) for name, (width, depth) in column_memories(config, number).items()
        }  # fmt: skip
        self._products = DotProduct(
            rows=config.array_rows, outputs=config.outputs, pixels=config.pixels, primitives=config.primitives,
            places=[name for column in columns for name in column.multipliers],
        )  # fmt: skip
        self._channels = channels
        self._requantisers = {
            (pixel, n): Requantiser(
                accumulator_bits=config.accumulator_bits, bias_bits=config.bias_bits,
                window_bits=config.window_bits[pixel * config.lanes + n], windows=config.window_bits,
                multiplier_bits=config.multiplier_bits, hard=pixel == 0 and n in config.hard_columns,
                primitives=config.primitives, places=columns[index].requantiser if columns and pixel == 0 else (),
            ) for pixel in range(config.pixels) for index, n in enumerate(channels)
        }  # fmt: skip
        super().__init__(
            {
                "fill": In(FillWord),
                "x": In(8 * config.array_rows),
                "weight": In(range(config.weight_depth)),
                "first": In(1),
                **({"joined": In(1)} if config.pixels > 1 else {}),
                "scale": In(range(config.scale_depth)),
                "o": Out(data.ArrayLayout(data.ArrayLayout(signed(ROUNDED_BITS), config.outputs), config.pixels)),
            }
        )

    #: Cycles from a weight's address to the weight, whose memory stands along the whole column.
    weight_latency = FillMemory.latency + 1

    @staticmethod
    def sum_delay(config) -> int:
        """Cycles from ``x`` to its sum: multipliers and trees."""
        return DotProduct.latency(config.array_rows, config.outputs, config.pixels)

    @classmethod
    def scale_delay(cls, config) -> int:
        """Cycles from a weight's address to its output channel's ``scale`` address."""
        return cls.weight_latency - FillMemory.latency + cls.sum_delay(config) + 1

    @classmethod
    def latency(cls, config) -> int:
        """Cycles from the last weight's address to ``o``."""
        return cls.weight_latency + cls.sum_delay(config) + 1 + Requantiser.latency(*config.window_bits)

    def elaborate(self, platform):
        m = Module()
        config = self._config
        # A copy of the fill word for each memory: what they share in telling whether it is theirs would travel far.
        fills = copies(m, "fill", self.fill.as_value(), len(self._memories))
        for (name, memory), fill in zip(self._memories.items(), fills, strict=True):
            m.submodules[name] = memory
            m.d.comb += memory.fill.eq(fill)
        m.submodules.products = products = self._products
        weights, *parameters = self._memories.values()
        m.d.comb += [weights.r_addr.eq(self.weight), products.weights.eq(weights.r_data), products.x.eq(self.x)]
        if config.pixels > 1:
            m.d.comb += products.joined.eq(self.joined)
        # Synthesis would share what a column delays for itself with what is on the way to the next.
        at_multiplier = delay(m, "multiplier", self.scale, Requantiser.scale_delay - 2)
        (at_multiplier,) = copies(m, "multiplier", at_multiplier, 1)
        for index in range(config.outputs):
            bias, scale = parameters[2 * index : 2 * index + 2]
            m.d.comb += [bias.r_addr.eq(self.scale), scale.r_addr.eq(at_multiplier)]
        for (pixel, n), requantiser in self._requantisers.items():
            index = self._channels.index(n)
            bias, scale = parameters[2 * index : 2 * index + 2]
            m.submodules[f"requantiser_{n}" + f"_{pixel}" * (pixel > 0)] = requantiser
            acc = Signal(signed(config.accumulator_bits), name=f"acc_{pixel}_{index}", reset_less=True)
            base = Signal.like(acc, name=f"base_{pixel}_{index}")
            with m.If(~self.first):
                m.d.comb += base.eq(acc)
            m.d.sync += acc.eq(base + products.o[pixel][index])
            (multiplier,) = copies(m, f"scale_{pixel}_{index}", scale.r_data, 1)
            m.d.comb += [
                requantiser.acc.eq(acc),
                requantiser.bias.eq(bias.r_data.as_signed()),
                Cat(requantiser.multiplier, requantiser.shift).eq(multiplier),
                self.o[pixel][index].eq(requantiser.o),
            ]
        return m


def destination_layout(config: CoreConfig) -> data.StructLayout:
    """Where a word of results goes, what it ends, what else happens to it; and where that of a second pixel goes."""
    return data.StructLayout(
        {
            "address": config.address_bits,
            **({"beside": config.address_bits, "pair": 1} if config.pixels > 1 else {}),
            "row": 2,
            "column": 2,
            "row_ends": 1,
            "program_ends": 1,
            "bounds": ActivationBounds,
            "residual": range(config.residual_scale_depth),
        }
    )


def result_layout(config):
    """What passes the residual adder: the destination, and the word of the next pixel."""
    beside = {"beside": config.word_bits} if config.pixels > 1 else {}
    return data.StructLayout({"destination": destination_layout(config), **beside})


class ArrayController(wiring.Component):
    """Issues a patch word and a weight address a cycle, patch by patch, output group by output group.

    A patch is one pixel's, or in a row of pairs two pixels'. It starts when it is complete in the patch buffer, a row
    when its job is there and the row before is through; nothing else stalls. A sum may be longer than its patch, by
    words that read the last one again. The addresses of an issue, and its ``result``, come :attr:`latency` cycles
    later. ``freed`` gives back the patch's words after its last one.

    Parameters
    ----------
    config : CoreConfig
    """

    latency = 1

    def __init__(self, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "jobs": In(stream.Signature(array_job(config).size)),
                "arrived": In(1),
                "freed": Out(range(config.patch_depth + 1)),
                "patch": Out(range(config.patch_depth)),
                "weight": Out(range(config.weight_depth)),
                "scale": Out(range(config.scale_depth)),
                "first": Out(1),
                **({"joined": Out(1)} if config.pixels > 1 else {}),
                "result": Out(1),
                "destination": Out(destination_layout(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        layout = array_job(self._config)
        job, next_job = Signal(layout), data.View(layout, self.jobs.payload)
        active, pixel_begins, take, ended = Signal(), Signal(), Signal(), Signal()
        # Patches that wait, less one: the sign tells, without a comparison, that there is none.
        spare = Signal(signed(self._config.patch_depth.bit_length() + 1), init=-1)
        issue = Signal()
        m.d.comb += issue.eq(active & ~(pixel_begins & spare[-1]))
        begins = issue & pixel_begins
        m.d.sync += spare.eq(spare + self.arrived - begins)

        loops = {}
        advance = issue
        for name in ("words", "groups", "pixels"):
            loop = loops[name] = Loop(m, name, limit=job[name], load=take, load_limit=next_job[name], advance=advance)
            advance = loop.ends
        word, pixel, row = (loops[name].ends for name in ("words", "groups", "pixels"))
        m.d.comb += [take.eq(self.jobs.valid & self.jobs.ready), self.jobs.ready.eq(~active & ~ended)]
        with m.If(take):
            m.d.sync += [job.eq(next_job), active.eq(1), pixel_begins.eq(1), ended.eq(next_job.last)]
        with m.Elif(issue):
            m.d.sync += [active.eq(~row), pixel_begins.eq(pixel)]

        # What the loops decided acts a cycle later: their chain ends in a few registers, some for each of what follows.
        events = {"taken": take, "issued": issue, "word": word, "pixel": pixel, "row": row}
        events = {name: event & ~self.start for name, event in events.items()}
        issued, word, pixel = events_before(m, "patch", events, "issued", "word", "pixel")
        m.d.sync += self.freed.eq(Mux(pixel, job.freed + 1, 0))
        patch_begin = Signal.like(self.patch)
        moves = Const(1)
        if self._config.residual_lanes:
            moves = delay(m, "moves", loops["words"].left > job.idle, self.latency)
        with m.If(pixel):
            m.d.sync += [self.patch.eq(self.patch + 1), patch_begin.eq(self.patch + 1)]
        with m.Elif(word):
            m.d.sync += self.patch.eq(patch_begin)
        with m.Elif(issued & moves):
            m.d.sync += self.patch.eq(self.patch + 1)

        taken, word, pixel, row = events_before(m, "destination", events, "taken", "word", "pixel", "row")
        m.d.comb += self.result.eq(word)
        address, residue = Signal(self._config.address_bits), Signal(2)
        base, paired = Signal.like(address), Const(0)
        if self._config.pixels > 1:
            paired = job.paired
        steps = Mux(paired, 2, 1)
        wraps = residue + steps >= WINDOW
        following = base + Mux(wraps, job.column_pitch, 0)
        with m.If(taken):
            m.d.sync += [address.eq(job.address), base.eq(job.address), residue.eq(job.column_residue)]
        with m.Elif(pixel):
            m.d.sync += [
                address.eq(following), base.eq(following),
                residue.eq(Mux(wraps, residue + steps - WINDOW, residue + steps)),
            ]  # fmt: skip
        with m.Elif(word):
            m.d.sync += address.eq(address + 1)
        if self._config.pixels > 1:
            # The pixel beside: of a pair behind another, it is always in the next group of three columns.
            beside = Signal.like(address)
            with m.If(taken):
                wraps = job.column_residue == WINDOW - 1
                m.d.sync += beside.eq(job.address + Mux(wraps, job.column_pitch, 0))
            with m.Elif(pixel):
                m.d.sync += beside.eq(base + job.column_pitch)
            with m.Elif(word):
                m.d.sync += beside.eq(beside + 1)
            alone = delay(m, "alone", loops["pixels"].last & job.odd, self.latency)
            m.d.comb += [
                self.joined.eq(~paired), self.destination.beside.eq(beside), self.destination.pair.eq(paired & ~alone)
            ]  # fmt: skip
        taken, issued, word, pixel = events_before(m, "weight", events, "taken", "issued", "word", "pixel")
        with m.If(taken | pixel):
            m.d.sync += [self.weight.eq(job.weights), self.scale.eq(job.scales), self.first.eq(1)]
        with m.Elif(word):
            m.d.sync += [self.weight.eq(self.weight + 1), self.scale.eq(self.scale + 1), self.first.eq(1)]
        with m.Elif(issued):
            m.d.sync += [self.weight.eq(self.weight + 1), self.first.eq(0)]
        with m.If(self.start):
            m.d.sync += [active.eq(0), ended.eq(0), spare.eq(-1), self.patch.eq(0), patch_begin.eq(0)]

        m.d.comb += [
            self.destination.address.eq(address),
            self.destination.row.eq(job.row_residue),
            self.destination.column.eq(residue),
            self.destination.row_ends.eq(row),
            self.destination.program_ends.eq(row & job.last),
            self.destination.bounds.eq(job.bounds),
            *([self.destination.residual.eq(job.residual)] if self._config.residual_lanes else []),
        ]
        return m


class MacArray(wiring.Component):
    """Controller, columns, requantisers and activation: patches in, feature words out.

    A feature word, or one of each of two pixels, is written :meth:`latency` cycles after the last patch word of its
    output group was issued, with an address and a word for each column of banks. ``row_written`` pulses with the last
    word of a row, ``finished`` with the last of the program. Words of ``residual``, which come before the patch of
    their pixel, are added to results whose job says so. ``made`` and ``added`` show what the array makes, a word for
    each pixel, and which words written were added to.

    Parameters
    ----------
    config : CoreConfig
    select, init : dict
        Of all columns: see :class:`Column`.
    places : CorePlaces
        See :class:`Column`.
    """

    def __init__(self, config: CoreConfig, *, select, init, places=CORE_ANYWHERE):
        self._config = config
        self._columns = [
            Column(config, number=n, select=select, init=init, places=places) for n in range(config.columns)
        ]
        if config.residual_lanes:
            self._residual = ResidualAdder(config, select=select, init=init, passed_bits=result_layout(config).size)
        super().__init__(
            {
                "fill": In(FillWord),
                "start": In(1),
                "jobs": In(stream.Signature(array_job(config).size)),
                "arrived": In(1),
                "freed": Out(range(config.patch_depth + 1)),
                "patch": Out(range(config.patch_depth)),
                "residual": In(config.word_bits),
                "residual_valid": In(1),
                "x": In(8 * config.array_rows),
                "made": Out(config.word_bits * config.pixels),
                "made_valid": Out(config.pixels),
                "added": Out(1),
                "w_en": Out(BANKS),
                "w_addr": Out(data.ArrayLayout(config.address_bits, WINDOW)),
                "w_data": Out(data.ArrayLayout(config.word_bits, WINDOW)),
                "row_written": Out(1),
                "finished": Out(1),
            }
        )

    #: Cycles until the controller hears of a patch, which comes from the other end of the die.
    arrival_delay = 1

    #: Cycles that weights wait for their patch word.
    _wait = PatchBuffer.latency - Column.weight_latency

    @classmethod
    def latency(cls, config) -> int:
        """Cycles from the last issue of an output group to its word at the feature memory."""
        made = ArrayController.latency + cls._wait + Column.latency(config) + cls._spread(config) + Activation.latency
        return made + ResidualAdder.latency(config) + (config.pixels - 1)

    @staticmethod
    def _spread(config):
        """Cycles from a result of the first column to the word of all columns'."""
        return (config.columns - 1) * config.hop + 1

    def elaborate(self, platform):
        m = Module()
        config, columns = self._config, self._columns
        m.submodules.controller = controller = ArrayController(config)
        wiring.connect(m, wiring.flipped(self.jobs), controller.jobs)
        m.d.comb += [
            controller.start.eq(self.start),
            controller.arrived.eq(delay(m, "arrived", self.arrived, self.arrival_delay, reset_less=False)),
            self.freed.eq(controller.freed),
            self.patch.eq(controller.patch),
        ]
        # Columns: everything enters the first one and moves on from column to column.
        first, previous, wait = columns[0], None, self._wait
        m.d.comb += [
            first.x.eq(self.x),
            first.weight.eq(delay(m, "weight", controller.weight, wait)),
            first.first.eq(delay(m, "first", controller.first, PatchBuffer.latency + Column.sum_delay(config))),
            first.scale.eq(delay(m, "scale", controller.scale, wait + Column.scale_delay(config))),
        ]
        if config.pixels > 1:
            joined = PatchBuffer.latency + Column.sum_delay(config) - 1
            m.d.comb += first.joined.eq(delay(m, "joined", controller.joined, joined))
        fill = self.fill.as_value()
        m.submodules.activation = activation = Activation(lanes=config.lanes * config.pixels)
        for n, column in enumerate(columns):
            m.submodules[f"column_{n}"] = column
            if previous is not None:
                for name in ("x", "weight", "first", "scale", *(["joined"] if config.pixels > 1 else [])):
                    (passed,) = copies(m, f"{name}_{n}", getattr(previous, name), 1)
                    m.d.comb += getattr(column, name).eq(delay(m, f"{name}_{n}", passed, config.hop - 1))
                fill = delay(m, f"fill_{n}", *copies(m, f"fill_{n}", fill, 1), config.hop)  # it has time
            m.d.comb += column.fill.eq(fill)
            previous = column
            even = delay(m, f"even_{n}", column.o.as_value(), self._spread(config) - n * config.hop)
            lanes = (pixel * config.lanes + n * config.outputs for pixel in range(config.pixels))
            m.d.comb += Cat(activation.i[lane + index] for lane in lanes for index in range(config.outputs)).eq(even)

        # Destinations wait in a ring for their results, which come in order and are never more than it holds.
        layout = destination_layout(config)
        wait += Column.latency(config) + self._spread(config)
        # In LUT RAM, for a block RAM without the register behind it is slow.
        m.submodules.ring = ring = Memory(
            shape=layout, depth=1 << wait.bit_length(), init=[], attrs={"ram_style": "distributed"}
        )
        write, read = ring.write_port(), ring.read_port()
        due = delay(m, "due", controller.result, wait - Activation.bounds_lead - 1, reset_less=False)
        bounds_due = delay(m, "bounds_due", due, 1, reset_less=False)
        with m.If(controller.result):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(due):
            m.d.sync += read.addr.eq(read.addr + 1)
        with m.If(self.start):
            m.d.sync += [write.addr.eq(0), read.addr.eq(0)]
        m.d.comb += [
            write.data.eq(controller.destination), write.en.eq(controller.result), read.en.eq(1),
            activation.bounds.eq(read.data.bounds),
        ]  # fmt: skip
        to_made = Activation.bounds_lead + Activation.latency
        valid = delay(m, "made_valid", bounds_due, to_made, reset_less=False)
        destination = delay(m, "destination", read.data.as_value(), to_made)
        word, beside = self.made[: config.word_bits], self.made[config.word_bits :]
        added = Const(0)
        results = result_layout(config)
        result = data.View(results, Cat(destination, beside))
        m.d.comb += [self.made_valid[0].eq(valid), self.made.eq(activation.o)]
        if config.pixels > 1:
            m.d.comb += self.made_valid[1].eq(valid & result.destination.pair)
        if config.residual_lanes:
            m.submodules.residual = residual = self._residual
            m.d.comb += [
                residual.fill.eq(self.fill), residual.start.eq(self.start),
                residual.residual.eq(self.residual), residual.residual_valid.eq(self.residual_valid),
                residual.i.eq(word), residual.valid.eq(valid), residual.scale.eq(result.destination.residual),
                residual.passed.eq(result),
            ]  # fmt: skip
            word, added, result = residual.o, residual.added, data.View(results, residual.passed_out)
            valid = delay(m, "valid", valid, ResidualAdder.latency(config), reset_less=False)
        self._write(m, valid, word, added, result)
        return m

    def _write(self, m, valid, word, added, result):
        """A word and its address for each column of banks, and what it ends; a cycle later where there may be two."""
        paired, to = self._config.pixels > 1, result.destination
        domain = m.d.sync if paired else m.d.comb
        for c in range(WINDOW):
            first = to.column == c
            second = to.pair & (to.column == (c - 1) % WINDOW) if paired else Const(0)
            domain += [
                self.w_addr[c].eq(Mux(second, to.beside, to.address) if paired else to.address),
                self.w_data[c].eq(Mux(second, result.beside, word) if paired else word),
                *(self.w_en[WINDOW * r + c].eq(valid & (to.row == r) & (first | second)) for r in range(WINDOW)),
            ]
        domain += [
            self.added.eq(added), self.row_written.eq(valid & to.row_ends), self.finished.eq(valid & to.program_ends)
        ]  # fmt: skip
