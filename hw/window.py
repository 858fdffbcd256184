"""Window generator: walks a tensor in the feature memory and shows 3 x 3 positions of it a cycle."""

from amaranth import Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import BANKS, TAPS, WINDOW, CoreConfig
from hw.delay import copies, delay, events_before
from hw.features import FeatureMemory
from hw.jobs import JobKind, WindowMode, layer_job, row_job, window_job_bits
from hw.loops import Loop
from hw.memory import FillMemory
from hw.primitives import chosen
from hw.requantise import ActivationBounds

__all__ = ["Ends", "WindowControl", "WindowGenerator"]


class Ends(data.Struct):
    """What a window, or a word made of it, is the last of; two pixels may share a patch."""

    pixel: unsigned(1)
    patch: unsigned(1)


class WindowControl(data.Struct):
    """What goes with a window on its way."""

    piece: unsigned(6)  # of the window: its first tap (wide), the patch word (narrow)
    count: unsigned(4)  # how many taps go on, that one and the next (wide); 1 (narrow)
    high_half: unsigned(WINDOW)
    first: unsigned(1)  # of the windows that cover a kernel
    last: unsigned(1)
    ends: Ends


class WindowGenerator(wiring.Component):
    """Shows the windows that the job words ask for, one a cycle, :attr:`latency` cycles after it issues them.

    A tensor lies in nine banks by row and column modulo 3, so that any 3 x 3 positions come in one access. For each
    pixel of a row of results it goes through the channel groups, and in each through the windows (``tiles``) that
    cover the kernel, ``step`` columns apart, each held for ``beats`` cycles. Positions outside the tensor read as
    ``pad``. A depthwise layer's groups are as many times as many as the engine takes parts of one, and ``part`` says
    which.

    Windows of more than one beat whose taps are feature words pass on ``taps`` of them in each, and what is left in the
    last.

    In a layer whose pixels are ``paired`` two neighbours of a row share a patch; the last of an odd number has one
    alone.

    A row waits until the array has written the rows it needs; a patch waits until it fits the patch buffer
    (``freed`` gives words back); a layer waits until everything before it has left the pipeline. Nothing else stalls.

    Parameters
    ----------
    config : CoreConfig
    drain_cycles : int
        Cycles from the issue of a window until its bytes are in the patch buffer, at most.
    """

    #: Cycles from issue to window.
    latency = 6 + FeatureMemory.latency

    def __init__(self, config: CoreConfig, *, drain_cycles):
        self._config, self._drain_cycles = config, drain_cycles
        super().__init__(
            {
                "start": In(1),
                "jobs": In(stream.Signature(window_job_bits(config))),
                "rows_written": In(16),
                "freed": In(range(config.patch_depth + 1)),
                "r_addr": Out(data.ArrayLayout(config.address_bits, BANKS)),
                "r_data": In(data.ArrayLayout(config.word_bits, BANKS)),
                "peek": In(1),
                "peek_address": In(config.address_bits),
                "peek_row": In(2),
                "peek_column": In(2),
                "window": Out(data.ArrayLayout(config.word_bits, TAPS)),
                "valid": Out(1),
                "control": Out(WindowControl),
                "part": Out(range(config.parts)),
                "coefficient": Out(range(config.coefficient_depth)),
                "scale": Out(range(config.depthwise_scale_depth)),
                "layer": Out(layer_job(config)),
                "bounds": Out(ActivationBounds),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, layer = self._config, self.layer
        m.d.comb += self.bounds.eq(layer.bounds)
        # The next job waits in a register, and whether it is due in another: counting and comparing take their time.
        pending, pending_valid = Signal(self.jobs.payload.shape()), Signal()
        next_layer = data.View(layer_job(config), pending[: layer_job(config).size])
        next_row = data.View(row_job(config), pending[: row_job(config).size])
        running, drained, due = Signal(), Signal(init=1), Signal()
        take, take_layer, take_row = Signal(), Signal(), Signal()
        behind = Signal(signed(16))
        m.d.comb += [
            behind.eq(self.rows_written - next_row.written),
            take.eq(due & ~running),
            take_layer.eq(take & (next_layer.kind == JobKind.LAYER)),
            take_row.eq(take & (next_layer.kind == JobKind.ROW)),
            self.jobs.ready.eq(~pending_valid),
        ]
        with m.If(~pending_valid):
            m.d.sync += [pending.eq(self.jobs.payload), pending_valid.eq(self.jobs.valid)]
        with m.Switch(next_layer.kind):
            with m.Case(JobKind.LAYER):
                m.d.sync += due.eq(pending_valid & drained & ~running)
            with m.Case(JobKind.ROW):
                m.d.sync += due.eq(pending_valid & ~behind[-1])
            with m.Default():
                m.d.sync += due.eq(0)
        with m.If(take | self.start):
            m.d.sync += [pending_valid.eq(0), due.eq(0)]
        # A cycle later, for its enable goes far. The next job is not there before that.
        with m.If(delay(m, "layer_taken", take_layer, 1, reset_less=False)):
            m.d.sync += layer.eq(next_layer)

        # Patches begin while there is room: ``spare`` is the room left once this one is written.
        spare = Signal(signed(config.patch_depth.bit_length() + 2))
        patch_begins, issue = Signal(), Signal()
        m.d.comb += issue.eq(running & ~(patch_begins & spare[-1]))
        # A layer's own patch size counts a cycle after it is taken, long before its first pixel.
        resized, taken = (Signal(signed(len(layer.patch_words) + 1), name=name) for name in ("resized", "taken"))
        m.d.sync += resized.eq(Mux(take_layer, -taken - next_layer.patch_words, 0))
        with m.If(take_layer):
            m.d.sync += taken.eq(-next_layer.patch_words)
        # Whether a patch begins is known last: it selects between two sums.
        begun, same = (spare + (self.freed + change) for change in (taken, resized))
        m.d.sync += spare.eq(Mux(issue & patch_begins, begun, same))
        with m.If(self.start):
            m.d.sync += [spare.eq(config.patch_depth), taken.eq(0), resized.eq(0)]

        loops = {}
        advance = issue
        for name, limit in {
            "beat": layer.beats, "tile_x": layer.tiles_x, "tile_y": layer.tiles_y,
            "group": layer.groups, "pixel": layer.pixels,
        }.items():  # fmt: skip
            loop = loops[name] = Loop(m, name, limit=limit, load=take_row, load_limit=limit, advance=advance)
            advance = loop.ends
        tile, line, group, pixel, row = (loops[n].ends for n in ("beat", "tile_x", "tile_y", "group", "pixel"))
        patch = pixel
        if config.pixels > 1:
            first_of_pair = Signal()
            patch = pixel & (~first_of_pair | loops["pixel"].last)
            with m.If(take_row):
                m.d.sync += first_of_pair.eq(layer.paired)
            with m.Elif(pixel):
                m.d.sync += first_of_pair.eq(layer.paired & ~first_of_pair)
        with m.If(take_row):
            m.d.sync += [running.eq(1), patch_begins.eq(1)]
        with m.Elif(issue):
            m.d.sync += [running.eq(~row), patch_begins.eq(patch)]
        with m.If(self.start):
            m.d.sync += running.eq(0)
        since = Signal(range(self._drain_cycles + 1))
        with m.If(issue):
            m.d.sync += [since.eq(self._drain_cycles), drained.eq(0)]
        with m.Elif(~drained):
            m.d.sync += [since.eq(since - 1), drained.eq(since == 1)]

        # What the loops decided acts a cycle later: their chain ends in a few registers, not in all that follows.
        row_now = Signal(row_job(config))
        with m.If(take_row):
            m.d.sync += row_now.eq(next_row)
        last = loops["tile_x"].last & loops["tile_y"].last
        events = {
            "issued": issue, "begun": take_row, "tile": tile, "line": line, "group": group, "pixel": pixel,
            "patch": patch, "last": last,
        }  # fmt: skip

        # Where the window stands: across ...
        begun, pixel, line, tile = events_before(m, "across", events, "begun", "pixel", "line", "tile")
        address = unsigned(config.address_bits)
        place = data.StructLayout({"x": signed(11), "base": address, "residue": 2})
        here, here_pixel = Signal(place), Signal(place)
        begin, beside, next_pixel = Signal(place), Signal(place), Signal(place)
        m.d.comb += [
            begin.x.eq(layer.x), begin.base.eq(layer.column_base), begin.residue.eq(layer.column_residue)
        ]  # fmt: skip
        for there, origin, columns in ((beside, here, layer.step), (next_pixel, here_pixel, 1 + layer.stride)):
            stepped = origin.residue + columns
            wraps = stepped >= WINDOW
            m.d.comb += [
                there.x.eq(origin.x + columns),
                there.base.eq(origin.base + Mux(wraps, layer.column_pitch, 0)),
                there.residue.eq(Mux(wraps, stepped - WINDOW, stepped)),
            ]
        with m.If(begun):
            m.d.sync += [here.eq(begin), here_pixel.eq(begin)]
        with m.Elif(pixel):
            m.d.sync += [here.eq(next_pixel), here_pixel.eq(next_pixel)]
        with m.Elif(line):
            m.d.sync += here.eq(here_pixel)
        with m.Elif(tile):
            m.d.sync += here.eq(beside)
        # ... down ...
        begun, group, line = events_before(m, "down", events, "begun", "group", "line")
        y = Signal(signed(11))
        rows = Signal(data.ArrayLayout(address, WINDOW))
        with m.If(begun | group):
            m.d.sync += [y.eq(row_now.y), rows.eq(row_now.row_base)]
        with m.Elif(line):
            m.d.sync += [y.eq(y + WINDOW), *(rows[r].eq(rows[r] + layer.row_pitch) for r in range(WINDOW))]
        # ... and in depth.
        begun, pixel, group, tile = events_before(m, "depth", events, "begun", "pixel", "group", "tile")
        offset = Signal(address)
        coefficient, scale = Signal.like(self.coefficient), Signal.like(self.scale)
        first = Signal()
        part, last_part = Signal(range(config.parts)), Const(1)
        if config.parts > 1:
            divided = delay(m, "divided", layer.mode == WindowMode.DEPTHWISE, 1)  # it holds for long
            last_part = ~divided | (part == config.parts - 1)
        with m.If(begun | pixel):
            m.d.sync += [
                offset.eq(0), part.eq(0), coefficient.eq(layer.coefficients), scale.eq(layer.scales), first.eq(1)
            ]  # fmt: skip
        with m.Elif(group):
            m.d.sync += [
                offset.eq(offset + last_part), part.eq(Mux(last_part, 0, part + 1)),
                coefficient.eq(coefficient + 1), scale.eq(scale + 1), first.eq(1),
            ]  # fmt: skip
        with m.Elif(tile):
            m.d.sync += [coefficient.eq(coefficient + 1), first.eq(0)]
        # Which of the taps go on, and what ends with them.
        issued, begun, pixel, patch, tile, last = events_before(
            m, "taps", events, "issued", "begun", "pixel", "patch", "tile", "last"
        )
        piece = Signal.like(layer.beats)
        with m.If(begun | tile):
            m.d.sync += piece.eq(0)
        with m.Elif(issued):
            m.d.sync += piece.eq(piece + layer.taps)

        # Addresses: column, plus channel group, plus row. Banks whose residue comes before the window's first
        # column (or row) hold the following group of three.
        column = Signal(data.ArrayLayout(address, WINDOW), reset_less=True)
        column_group = Signal(data.ArrayLayout(address, WINDOW), reset_less=True)
        for c in range(WINDOW):
            m.d.sync += [
                column[c].eq(here.base + Mux(c < here.residue, layer.column_pitch, 0)),
                column_group[c].eq(column[c] + delay(m, f"offset_{c}", offset, 1)),
            ]
        row_address = delay(m, "row_address", rows.as_value(), 2)
        peek, peek_turn, peek_kept = copies(m, "peek", self.peek, 3)
        for r in range(WINDOW):
            for c in range(WINDOW):
                at = self.r_addr[WINDOW * r + c]
                this = row_address[r * config.address_bits :][: config.address_bits]
                m.d.sync += at.eq(this + column_group[c])
                with m.If(peek):
                    m.d.sync += at.eq(self.peek_address)

        # Which positions lie inside the tensor.
        inside_y, inside_x = Signal(WINDOW, reset_less=True), Signal(WINDOW, reset_less=True)
        for n in range(WINDOW):
            at_y, at_x = (Signal(unsigned(11), name=f"at_{d}_{n}", reset_less=True) for d in "yx")
            m.d.sync += [
                at_y.eq(y + n), inside_y[n].eq(at_y < layer.height),
                at_x.eq(here.x + n), inside_x[n].eq(at_x < layer.width),
            ]  # fmt: skip

        # Banks to window positions.
        data_stage = 3 + FeatureMemory.latency
        turn_y = Mux(peek_turn, self.peek_row, delay(m, "turn_y", row_now.row_residue, data_stage - 1))
        turn_x = Mux(peek_turn, self.peek_column, delay(m, "turn_x", here.residue, data_stage))
        turn_y, turn_x = copies(m, "turn_y", turn_y, TAPS), copies(m, "turn_x", turn_x, TAPS)
        kept_y = delay(m, "kept_y", inside_y, data_stage - 2)
        kept_x = delay(m, "kept_x", inside_x, data_stage - 2)
        turned = Signal(data.ArrayLayout(config.word_bits, TAPS), reset_less=True)
        pads = copies(m, "pad", layer.pad.as_unsigned(), TAPS)  # it holds for long
        for i in range(WINDOW):
            for j in range(WINDOW):
                tap = WINDOW * i + j
                banks = {r: self.r_data[WINDOW * ((r + i) % WINDOW) + j] for r in range(WINDOW)}
                words = {c: turned[WINDOW * i + (c + j) % WINDOW] for c in range(WINDOW)}
                kept = Signal(name=f"kept_{tap}")
                m.d.sync += [kept.eq(kept_y[i] & kept_x[j] | peek_kept), turned[tap].eq(chosen(banks, turn_y[tap]))]
                with m.If(kept):
                    m.d.sync += self.window[tap].eq(chosen(words, turn_x[tap]))
                with m.Else():
                    m.d.sync += self.window[tap].eq(pads[tap].replicate(config.lanes))

        control = Signal(WindowControl)
        m.d.comb += [
            control.piece.eq(piece), control.count.eq(Mux(tile, layer.last_taps, layer.taps)),
            control.high_half.eq(row_now.high_half),
            control.first.eq(first), control.last.eq(last),
            control.ends.pixel.eq(pixel), control.ends.patch.eq(patch),
            self.control.eq(delay(m, "control", control.as_value(), self.latency - 1)),
            self.valid.eq(delay(m, "valid", issued, self.latency - 1, reset_less=False)),
            *(
                port.eq(delay(m, name, value, self.latency - 1 - FillMemory.latency))
                for name, port, value in (
                    ("part", self.part, part), ("coefficient", self.coefficient, coefficient),
                    ("scale", self.scale, scale),
                )
            ),
        ]  # fmt: skip
        return m
