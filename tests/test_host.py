"""Host port: every operation, every broken check, under stalls on both streams."""

import binascii
import random

import pytest
from amaranth import Value
from ports import simulate

from hw.host import ACKNOWLEDGE, REFUSE, HostPort
from sim import driver

DIGEST = 0xC0FFEE42
READ_CYCLES = 9
RUN_CYCLES = 37


def memory_word(select, address):
    """What the feature memory holds, for reads."""
    return random.Random(select << 16 | address).getrandbits(36)


def talk(data, *, stall=0.0, seed=0, expect, cycles=20_000, run_cycles=RUN_CYCLES):
    """Send ``data`` and gather answers, ``expect`` bytes and what comes in the 40 cycles after.

    Returns the answers, all writes (select, address, data), and how often a run was started. Every stream rule is
    checked on the way: what is valid stays until it is taken.
    """
    rng = random.Random(seed)
    dut = HostPort(digest=DIGEST, read_cycles=READ_CYCLES)
    answers, writes, starts = bytearray(), [], []

    async def bench(ctx):
        position, offering, patience, finish_at, held = 0, False, 40, None, None
        peeks = [None] * (READ_CYCLES + 1)
        for cycle in range(cycles):
            if not offering:
                offering = position < len(data) and rng.random() >= stall
            ctx.set(dut.i.valid, offering)
            # What lies on an idle stream means nothing.
            ctx.set(dut.i.payload, data[position] if offering else rng.choice(b"WRSI\0"))
            ready = rng.random() >= stall
            ctx.set(dut.o.ready, ready)
            ctx.set(dut.finished, cycle == finish_at)
            peek = (ctx.get(dut.peek_select), ctx.get(dut.peek_address)) if ctx.get(dut.peek) else None
            peeks = [*peeks[1:], peek]
            steady = peek is not None and peeks[0] == peek
            ctx.set(dut.peek_data, memory_word(*peek) if steady else rng.getrandbits(36))
            if ctx.get(dut.start):
                starts.append(cycle)
                finish_at = cycle + run_cycles
            word = ctx.get(Value.cast(dut.fill))
            if word & 1:
                writes.append((word >> 1 & 0x3FF, word >> 11 & 0xFFFF, word >> 27))
            now = ctx.get(dut.o.payload) if ctx.get(dut.o.valid) else None
            if held is not None:
                assert now == held, "an offered byte changed before it was taken"
            held = None if ready else now
            if now is not None and ready:
                answers.append(now)
            if offering and ctx.get(dut.i.ready):
                position, offering = position + 1, False
            await ctx.tick()
            if position == len(data) and len(answers) >= expect:
                patience -= 1
                if not patience:
                    return
        raise AssertionError(f"{len(answers)} of {expect} answers, {position} of {len(data)} bytes sent")

    simulate(dut, bench)
    return bytes(answers), writes, len(starts)


def checked(data):
    return data + binascii.crc_hqx(data, 0).to_bytes(2, "big")


def test_driver_and_port_agree_on_replies():
    assert (driver.ACKNOWLEDGE, driver.REFUSE) == (ACKNOWLEDGE, REFUSE) == (0x06, 0x15)


def test_identify():
    answer, writes, starts = talk(driver.identify_frame(), expect=driver.INTEGER_REPLY)
    assert answer == b"\x06" + checked(DIGEST.to_bytes(4, "little"))
    assert driver.integer_reply(answer) == DIGEST and not writes and not starts


@pytest.mark.parametrize("run_cycles", [1, 2, 700])
def test_start_counts_cycles(run_cycles):
    answer, writes, starts = talk(driver.start_frame(), expect=driver.INTEGER_REPLY, run_cycles=run_cycles)
    assert driver.integer_reply(answer) == run_cycles and starts == 1 and not writes


@pytest.mark.parametrize("stall", [0.0, 0.6])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_write(count, stall):
    rng = random.Random(count)
    words = [rng.getrandbits(36) for _ in range(count)]
    answer, writes, _ = talk(driver.write_frame(0x2A5, 1000, words), stall=stall, expect=1)
    driver.check_write(answer)
    assert writes == [(0x2A5, 1000 + n, word) for n, word in enumerate(words)]


@pytest.mark.parametrize("stall", [0.0, 0.6])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_read(count, stall):
    frame = driver.read_frame(2, 1, 3, 0x1234, count)
    answer, writes, starts = talk(frame, stall=stall, seed=count, expect=driver.read_reply_size(count))
    assert len(answer) == driver.read_reply_size(count)
    select = 2 << 6 | 1 << 4 | 3
    assert driver.read_reply(answer) == [memory_word(select, 0x1234 + n) for n in range(count)]
    assert not writes and not starts


def test_every_header_bit_is_checked():
    """No single damaged bit of a header passes, whichever operation it turns it into."""
    identified = b"\x06" + checked(DIGEST.to_bytes(4, "little"))
    stream, expected = b"", b""
    for bit in range(72):
        frame = bytearray(driver.start_frame())
        frame[bit // 8] ^= 1 << bit % 8
        # A damaged operation that is none is passed over, and so are the bytes behind it.
        expected += bytes([REFUSE]) * (frame[0] in b"WRSI") + identified
        stream += bytes(frame) + driver.identify_frame()
    answer, writes, starts = talk(stream, expect=len(expected))
    assert answer == expected and not writes and not starts


@pytest.mark.parametrize("operation", "WRSI")
def test_refused_header_does_nothing(operation):
    """A wrong header is refused with one byte, and the frame behind it is obeyed."""
    frame = bytearray(checked(operation.encode() + bytes([0, 1, 0, 2, 0, 1])))
    frame[-1] ^= 0x40
    answer, writes, starts = talk(bytes(frame) + driver.identify_frame(), expect=1 + driver.INTEGER_REPLY, stall=0.3)
    assert answer[0] == REFUSE and driver.integer_reply(answer[1:]) == DIGEST
    assert not writes and not starts


@pytest.mark.parametrize("byte, bit", [(0, 0), (3, 7), (9, 4), (10, 0), (10, 7), (11, 0), (11, 7)])
def test_damaged_data_is_refused(byte, bit):
    words = [0x123456789, 0xFEDCBA987]
    frame = bytearray(driver.write_frame(7, 3, words))
    frame[9 + byte] ^= 1 << bit
    answer, writes, _ = talk(bytes(frame) + driver.write_frame(7, 3, words), stall=0.2, seed=bit, expect=2)
    assert answer == bytes([REFUSE, ACKNOWLEDGE])
    assert writes[-2:] == [(7, 3, words[0]), (7, 4, words[1])]


def test_damaged_check_of_no_data_is_refused():
    frame = bytearray(driver.write_frame(7, 3, []))
    frame[-1] ^= 1
    answer, writes, _ = talk(bytes(frame), expect=1)
    assert answer == bytes([REFUSE]) and not writes


@pytest.mark.parametrize("seed", range(4))
def test_garbage_between_frames(seed):
    """Frames of all kinds, in any order, with other bytes between them and random stalls."""
    rng = random.Random(seed)
    stream, expected, fills, runs = b"", b"", [], 0
    for _ in range(12):
        garbage = [byte for byte in rng.randbytes(rng.randrange(6)) if byte not in b"WRSI"]
        stream += bytes(garbage)
        select, address, count = rng.randrange(256), rng.randrange(1 << 16), rng.randrange(4)
        match rng.randrange(5):
            case 0:
                words = [rng.getrandbits(36) for _ in range(count)]
                stream += driver.write_frame(select, address, words)
                fills += [(select, (address + n) % (1 << 16), word) for n, word in enumerate(words)]
                expected += b"\x06"
            case 1:
                stream += driver.read_frame(select >> 6, select >> 4 & 3, select & 15, address, count)
                words = [memory_word(select, address + n) for n in range(count)]
                expected += b"\x06" + checked(b"".join(word.to_bytes(5, "little") for word in words))
            case 2:
                stream += driver.start_frame()
                expected += b"\x06" + checked(RUN_CYCLES.to_bytes(4, "little"))
                runs += 1
            case 3:
                stream += driver.identify_frame()
                expected += b"\x06" + checked(DIGEST.to_bytes(4, "little"))
            case 4:
                frame = bytearray(driver.write_frame(select, address, [1] * count))
                frame[rng.randrange(1, 9)] ^= 1 << rng.randrange(8)
                stream += bytes(frame[:9])
                expected += b"\x15"
    answer, writes, starts = talk(stream, stall=0.4, seed=seed, expect=len(expected))
    assert (answer, writes, starts) == (expected, fills, runs)


def test_zeros_find_the_way_back():
    """A host that stopped in the middle of a frame is answered after enough zeros."""
    frame = driver.write_frame(1, 2, [3, 4])
    answer, _, _ = talk(frame[:13] + bytes(20), expect=1)
    assert answer == bytes([REFUSE])


def test_driver_refuses_bad_answers():
    good = b"\x06" + checked(b"\x01\x02\x03\x04")
    assert driver.integer_reply(good) == 0x04030201
    for bad in (b"", b"\x15", b"\x06\x01", good[:-1] + bytes([good[-1] ^ 1]), b"\x07" + good[1:]):
        with pytest.raises(driver.FrameError):
            driver.integer_reply(bad)
    with pytest.raises(driver.FrameError, match="a write was answered by 15"):
        driver.check_write(b"\x15")


def test_driver_cuts_wide_words_into_slices():
    words = [(1 << 80) - 1, 5 << 72 | 6 << 36 | 7]
    assert driver.write_frames(4, 9, 80, words) == [
        driver.write_frame(4, 9, [2**36 - 1, 7]),
        driver.write_frame(5, 9, [2**36 - 1, 6]),
        driver.write_frame(6, 9, [0xFF, 5]),
    ]
