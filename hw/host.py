"""Host port: framed and checked commands on a byte stream."""

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.crc.catalog import CRC16_XMODEM
from amaranth.lib.wiring import In, Out

from hw.delay import delay
from hw.memory import SLICE_BITS, FillWord

__all__ = ["ACKNOWLEDGE", "REFUSE", "WORD_BYTES", "HostPort", "Operation"]

#: Replies to a frame whose checks were right, and wrong.
ACKNOWLEDGE, REFUSE = 0x06, 0x15

#: Bytes of a word on the stream, little end first.
WORD_BYTES = -(-SLICE_BITS // 8)


class Operation(enum.Enum, shape=8):
    """First byte of a frame."""

    WRITE = ord("W")
    READ = ord("R")
    START = ord("S")
    IDENTIFY = ord("I")


class HostPort(wiring.Component):
    """Obeys frames from ``i`` and answers on ``o``.

    A frame is a header of operation, select, address and count (1, 2, 2, 2 bytes, high byte first) and the header's
    CRC-16/XMODEM (2 bytes, high first). WRITE goes on with ``count`` words of five bytes, low byte first, and their
    CRC: word by word into the slice ``select`` from ``address`` on. READ takes ``select`` as bank row (bits 6 and 7),
    bank column (bits 4 and 5) and slice (bits 0 to 3) of the feature memory, and answers with words and their CRC.
    START runs an inference and answers with its cycles, IDENTIFY with the core's digest: four bytes, low byte first,
    and their CRC.

    Every frame is answered: :data:`ACKNOWLEDGE`, or :data:`REFUSE` where a CRC is wrong, and nothing more then. Other
    bytes between frames are passed over, so a host that lost its place sends zeros until it is answered. Refused data
    is in the memory already: write it again.

    Parameters
    ----------
    digest : int
        32 bits that tell which core this is.
    read_cycles : int
        Cycles from ``peek`` to its ``peek_data``.
    """

    def __init__(self, *, digest, read_cycles):
        self._digest, self._read_cycles = digest, read_cycles
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "fill": Out(FillWord),
                "peek": Out(1),
                "peek_address": Out(16),
                "peek_select": Out(8),
                "peek_data": In(SLICE_BITS),
                "start": Out(1),
                "finished": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        header = Signal(
            data.StructLayout(
                {"count": unsigned(16), "address": unsigned(16), "select": unsigned(16), "operation": unsigned(8)}
            )
        )
        m.submodules.checker = checker = CRC16_XMODEM(data_width=8).create()
        # Bytes get there a cycle later: what the state decides, and what a byte does to the check, is a cycle each.
        crc = Signal(data.StructLayout({"start": 1, "valid": 1, "data": 8}))
        checked = data.View(crc.shape(), delay(m, "crc", crc.as_value(), 1))
        m.d.comb += [getattr(checker, name).eq(checked[name]) for name in ("start", "valid", "data")]
        counter = Signal(range(self._read_cycles + 16))
        word = Signal(8 * WORD_BYTES, reset_less=True)
        more = Signal()  # whether header.count is not 0
        cycles = Signal(32)
        received = self.i.valid & self.i.ready
        sent = self.o.valid & self.o.ready
        m.d.comb += [
            self.peek_address.eq(header.address), self.peek_select.eq(header.select),
            self.fill.select.eq(header.select), self.fill.address.eq(header.address), self.fill.data.eq(word),
        ]  # fmt: skip

        with m.FSM():
            with m.State("idle"):
                m.d.comb += [self.i.ready.eq(1), crc.start.eq(~received)]
                known = [operation.value for operation in Operation]
                with m.If(received & self.i.payload.matches(*known)):
                    m.d.comb += [crc.data.eq(self.i.payload), crc.valid.eq(1)]
                    m.d.sync += [header.operation.eq(self.i.payload), counter.eq(7)]
                    m.next = "header"
            with m.State("header"):
                m.d.comb += [self.i.ready.eq(1), crc.data.eq(self.i.payload), crc.valid.eq(received)]
                with m.If(received):
                    m.d.sync += counter.eq(counter - 1)
                    with m.If(counter >= 2):
                        m.d.sync += header.as_value()[:48].eq(Cat(self.i.payload, header.as_value()[:40]))
                    with m.If(counter == 0):
                        m.next = "header received"
            with m.State("header received"):
                m.next = "header checked"
            with m.State("header checked"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [counter.eq(WORD_BYTES - 1), cycles.eq(0), more.eq(header.count != 0)]
                with m.If(~checker.match_detected):
                    m.next = "refuse"
                with m.Else(), m.Switch(header.operation):
                    with m.Case(Operation.WRITE):
                        m.next = "write"
                    with m.Case(Operation.START):
                        m.d.comb += self.start.eq(1)
                        m.next = "run"
                    with m.Default():
                        m.next = "acknowledge"

            with m.State("write"):
                m.d.comb += [self.i.ready.eq(more), crc.data.eq(self.i.payload), crc.valid.eq(received)]
                with m.If(~more):
                    m.d.sync += counter.eq(1)
                    m.next = "write check"
                with m.Elif(received):
                    m.d.sync += [counter.eq(counter - 1), word.eq(Cat(word[8:], self.i.payload))]
                    with m.If(counter == 0):
                        m.next = "fill"
            with m.State("fill"):
                m.d.comb += self.fill.write.eq(1)
                m.d.sync += [
                    header.address.eq(header.address + 1), header.count.eq(header.count - 1),
                    more.eq(header.count != 1), counter.eq(WORD_BYTES - 1),
                ]  # fmt: skip
                m.next = "write"
            with m.State("write check"):
                m.d.comb += [self.i.ready.eq(1), crc.data.eq(self.i.payload), crc.valid.eq(received)]
                with m.If(received):
                    m.d.sync += counter.eq(counter - 1)
                    with m.If(counter == 0):
                        m.next = "write received"
            with m.State("write received"):
                m.next = "written"
            with m.State("written"):
                m.next = "refuse"
                with m.If(checker.match_detected):
                    m.next = "acknowledge"

            with m.State("run"):
                m.d.sync += cycles.eq(cycles + 1)
                with m.If(self.finished):
                    m.next = "acknowledge"

            with m.State("refuse"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(REFUSE), crc.start.eq(1)]
                with m.If(sent):
                    m.next = "idle"
            with m.State("acknowledge"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(ACKNOWLEDGE), crc.start.eq(1)]
                m.d.sync += counter.eq(self._read_cycles)
                with m.If(sent), m.Switch(header.operation):
                    with m.Case(Operation.WRITE):
                        m.next = "idle"
                    with m.Case(Operation.READ):
                        m.next = "read"
                    with m.Default():
                        digest = header.operation == Operation.IDENTIFY.value
                        with m.If(digest):
                            m.d.sync += word.eq(self._digest)
                        with m.Else():
                            m.d.sync += word.eq(cycles)
                        m.d.sync += [header.count.eq(1), more.eq(1), counter.eq(3)]
                        m.next = "send"

            with m.State("read"):
                m.d.comb += self.peek.eq(1)
                m.d.sync += counter.eq(counter - 1)
                with m.If(~more):
                    m.next = "send check"
                    m.d.sync += counter.eq(1)
                with m.Elif(counter == 0):
                    m.d.sync += [word.eq(self.peek_data), counter.eq(WORD_BYTES - 1)]
                    m.next = "send"
            with m.State("send"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(word[:8]), crc.data.eq(word[:8]), crc.valid.eq(sent)]
                with m.If(sent):
                    m.d.sync += [word.eq(word >> 8), counter.eq(counter - 1)]
                    with m.If(counter == 0):
                        m.d.sync += [
                            header.address.eq(header.address + 1), header.count.eq(header.count - 1),
                            more.eq(header.count != 1), counter.eq(self._read_cycles),
                        ]  # fmt: skip
                        m.next = "read"
            with m.State("send check"):
                check = Cat(checker.crc[8:], checker.crc[:8])
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(check.word_select(~counter[0], 8))]
                with m.If(sent):
                    m.d.sync += counter.eq(counter - 1)
                    with m.If(counter == 0):
                        m.d.comb += crc.start.eq(1)
                        m.next = "idle"
        return m
