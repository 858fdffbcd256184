"""Driver: the host port's frames, as bytes. What talks to a simulated core talks to a board the same way."""

import binascii
import struct

__all__ = ["FrameError", "identify_frame", "integer_reply", "read_frame", "read_reply", "start_frame", "write_frame"]

ACKNOWLEDGE, REFUSE = 0x06, 0x15
WORD_BYTES = 5
SLICE_BITS = 36

#: Bytes of an answer to START and IDENTIFY, and to a write.
INTEGER_REPLY, WRITE_REPLY = 7, 1


class FrameError(Exception):
    """An answer that is none: the core refused a frame, or its check is wrong."""


def _checked(data: bytes) -> bytes:
    """``data`` and its CRC-16/XMODEM, high byte first."""
    return data + binascii.crc_hqx(data, 0).to_bytes(2, "big")


def _header(operation, select=0, address=0, count=0):
    return _checked(struct.pack(">BHHH", ord(operation), select, address, count))


def write_frame(select: int, address: int, words: list[int]) -> bytes:
    """Write 36-bit ``words`` into slice ``select`` from ``address`` on; at most 65,535 of them."""
    data = b"".join(word.to_bytes(WORD_BYTES, "little") for word in words)
    return _header("W", select, address, len(words)) + _checked(data)


def write_frames(select: int, address: int, width: int, words: list[int]) -> list[bytes]:
    """Frames that write words of ``width`` bits, a slice of 36 bits after the other."""
    mask = (1 << SLICE_BITS) - 1
    return [
        write_frame(select + low // SLICE_BITS, address, [word >> low & mask for word in words])
        for low in range(0, width, SLICE_BITS)
    ]


def read_frame(row: int, column: int, part: int, address: int, count: int) -> bytes:
    """Read ``count`` words of slice ``part`` of the feature bank of ``row`` and ``column`` modulo 3."""
    return _header("R", row << 6 | column << 4 | part, address, count)


def start_frame() -> bytes:
    """Run an inference."""
    return _header("S")


def identify_frame() -> bytes:
    """Ask which core this is."""
    return _header("I")


def read_reply_size(count: int) -> int:
    """Bytes of the answer to a read of ``count`` words."""
    return 1 + WORD_BYTES * count + 2


def read_reply(reply: bytes) -> list[int]:
    """Words of an answer to a read."""
    data = _payload(reply)
    return [int.from_bytes(data[n : n + WORD_BYTES], "little") for n in range(0, len(data), WORD_BYTES)]


def integer_reply(reply: bytes) -> int:
    """Cycles from an answer to START, digest from an answer to IDENTIFY."""
    return int.from_bytes(_payload(reply), "little")


def check_write(reply: bytes) -> None:
    """Raise unless a write was acknowledged."""
    if reply != bytes([ACKNOWLEDGE]):
        raise FrameError(f"a write was answered by {reply.hex(' ') or 'nothing'}")


def _payload(reply):
    if not reply or reply[0] != ACKNOWLEDGE:
        raise FrameError(f"a frame was answered by {reply[:8].hex(' ') or 'nothing'}")
    if len(reply) < 3 or _checked(reply[1:-2]) != reply[1:]:
        raise FrameError("an answer's check is wrong")
    return reply[1:-2]
