"""Host port: framed and checked commands on a byte stream."""

from amaranth import Cat, Module, Signal, signed, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.crc.catalog import CRC16_XMODEM
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.delay import delay
from hw.memory import SLICE_BITS, FillWord

__all__ = ["ACKNOWLEDGE", "REFUSE", "WORD_BYTES", "HostPort", "Operation"]

#: Replies to a frame whose checks were right, and wrong.
ACKNOWLEDGE, REFUSE = 0x06, 0x15

#: Bytes of a frame's header behind its first.
_HEADER_BYTES = 8

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
        # What the state decides, and what waits for it outside, are not of the same cycle. Bytes come from registers,
        # each with a bit that tells whether a frame may begin with it.
        byte = data.StructLayout({"byte": 8, "begins": 1})
        m.submodules.inward = inward = SyncFIFOBuffered(width=byte.size, depth=3)
        m.submodules.outward = outward = SyncFIFO(width=8, depth=2)
        begins = self.i.payload.matches(*(operation.value for operation in Operation))
        m.d.comb += [
            inward.w_data.eq(Cat(self.i.payload, begins)), inward.w_en.eq(self.i.valid), self.i.ready.eq(inward.w_rdy),
        ]  # fmt: skip
        wiring.connect(m, outward.r_stream, wiring.flipped(self.o))
        i, o, arriving = inward.r_stream, outward.w_stream, data.View(byte, inward.r_data)
        header = Signal(
            data.StructLayout(
                dict.fromkeys(("check", "count", "address", "select"), unsigned(16)) | {"operation": unsigned(8)}
            )
        )
        m.submodules.checker = checker = CRC16_XMODEM(data_width=8).create()
        # Bytes get there a cycle later: what the state decides, and what a byte does to the check, is a cycle each.
        crc = Signal(data.StructLayout({"start": 1, "valid": 1, "data": 8}))
        checked = data.View(crc.shape(), delay(m, "crc", crc.as_value(), 1))
        m.d.comb += [getattr(checker, name).eq(checked[name]) for name in ("start", "valid", "data")]
        # Two less than what is to come: the sign tells the last.
        counter = Signal(signed(1 + (self._read_cycles + 16).bit_length()))
        last = counter[-1]
        # A byte goes as one comes: with zeros behind it, the word would get a synchronous reset that goes far.
        word = Signal(8 * WORD_BYTES, reset_less=True)
        shifted = Cat(word[8:], arriving.byte)
        # Where the next word goes or comes from; one less than the words to come, whose sign tells that there are none.
        address, left = Signal(16), Signal(signed(17))
        more = ~left[-1]
        # What START and IDENTIFY answer.
        answer = Signal(32)
        received = i.valid & i.ready
        sent = o.valid & o.ready
        m.d.comb += [
            self.peek_address.eq(address), self.peek_select.eq(header.select),
            self.fill.select.eq(header.select), self.fill.address.eq(address), self.fill.data.eq(word),
        ]  # fmt: skip

        with m.FSM():
            with m.State("idle"):
                m.d.comb += [i.ready.eq(1), crc.start.eq(~received)]
                with m.If(received & arriving.begins):
                    m.d.comb += [crc.data.eq(arriving.byte), crc.valid.eq(1)]
                    m.d.sync += [header.operation.eq(arriving.byte), counter.eq(_HEADER_BYTES - 2)]
                    m.next = "header"
            with m.State("header"):
                m.d.comb += [i.ready.eq(1), crc.data.eq(arriving.byte), crc.valid.eq(received)]
                with m.If(received):
                    m.d.sync += counter.eq(counter - 1)
                    m.d.sync += header.as_value()[:64].eq(Cat(arriving.byte, header.as_value()[:56]))
                    with m.If(last):
                        m.next = "header received"
            with m.State("header received"):
                m.next = "header checked"
            with m.State("header checked"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [counter.eq(WORD_BYTES - 2), address.eq(header.address), left.eq(header.count - 1)]
                with m.If(header.operation == Operation.IDENTIFY.value):
                    m.d.sync += answer.eq(self._digest)
                with m.Else():
                    m.d.sync += answer.eq(0)
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
                m.d.comb += [i.ready.eq(more), crc.data.eq(arriving.byte), crc.valid.eq(received)]
                with m.If(~more):
                    m.d.sync += counter.eq(0)
                    m.next = "write check"
                with m.Elif(received):
                    m.d.sync += [counter.eq(counter - 1), word.eq(shifted)]
                    with m.If(last):
                        m.next = "fill"
            with m.State("fill"):
                m.d.comb += self.fill.write.eq(1)
                m.d.sync += [address.eq(address + 1), left.eq(left - 1), counter.eq(WORD_BYTES - 2)]
                m.next = "write"
            with m.State("write check"):
                m.d.comb += [i.ready.eq(1), crc.data.eq(arriving.byte), crc.valid.eq(received)]
                with m.If(received):
                    m.d.sync += counter.eq(counter - 1)
                    with m.If(last):
                        m.next = "write received"
            with m.State("write received"):
                m.next = "written"
            with m.State("written"):
                m.next = "refuse"
                with m.If(checker.match_detected):
                    m.next = "acknowledge"

            with m.State("run"):
                m.d.sync += answer.eq(answer + 1)
                with m.If(self.finished):
                    m.next = "acknowledge"

            with m.State("refuse"):
                m.d.comb += [o.valid.eq(1), o.payload.eq(REFUSE), crc.start.eq(1)]
                with m.If(sent):
                    m.next = "idle"
            with m.State("acknowledge"):
                m.d.comb += [o.valid.eq(1), o.payload.eq(ACKNOWLEDGE), crc.start.eq(1)]
                m.d.sync += counter.eq(self._read_cycles - 1)
                with m.If(sent), m.Switch(header.operation):
                    with m.Case(Operation.WRITE):
                        m.next = "idle"
                    with m.Case(Operation.READ):
                        m.next = "read"
                    with m.Default():
                        m.d.sync += [word.eq(Cat(answer, word[32:])), left.eq(-1), counter.eq(2)]
                        m.next = "send"

            with m.State("read"):
                m.d.comb += self.peek.eq(1)
                m.d.sync += counter.eq(counter - 1)
                with m.If(~more):
                    m.next = "send check"
                    m.d.sync += counter.eq(0)
                with m.Elif(last):
                    m.d.sync += [word.eq(self.peek_data), counter.eq(WORD_BYTES - 2)]
                    m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
                    m.next = "send"
            with m.State("send"):
                m.d.comb += [o.valid.eq(1), o.payload.eq(word[:8]), crc.data.eq(word[:8]), crc.valid.eq(sent)]
                with m.If(sent):
                    m.d.sync += [word.eq(shifted), counter.eq(counter - 1)]
                    with m.If(last):
                        m.d.sync += counter.eq(self._read_cycles - 1)
                        m.next = "read"
            with m.State("send check"):
                check = Cat(checker.crc[8:], checker.crc[:8])
                m.d.comb += [o.valid.eq(1), o.payload.eq(check.word_select(last, 8))]
                with m.If(sent):
                    m.d.sync += counter.eq(counter - 1)
                    with m.If(last):
                        m.d.comb += crc.start.eq(1)
                        m.next = "idle"
        return m
