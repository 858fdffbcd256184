"""cocotb bench of a whole core: plays frames into its byte streams, keeps answers and traces.

What to play comes from the file that GEN_BENCH names, an .npz with ``frames`` (all bytes), ``frame_sizes``,
``reply_sizes``, ``stall`` (probability of an idle cycle on either stream), ``seed``, ``host_period`` (of the host's
clock, in cycles of the core; of 1, both have their edges together) and ``patience`` (cycles without a byte either way,
or of an inference, after which the core counts as hung); answers, traces and cycle counts go to the file that
GEN_BENCH_RESULT names. Each frame waits for the whole answer to the one before.
"""

import os
import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge

#: Engines whose words are traced, by the names of the core's ports.
ENGINES = ("depthwise", "array", "residual")

#: The core's clock in picoseconds.
PERIOD_PS = 10_000


@cocotb.test()
async def play(dut):
    """Play all frames."""
    script = np.load(os.environ["GEN_BENCH"])
    patience = int(script["patience"])
    stall, rng = float(script["stall"]), random.Random(int(script["seed"]))
    frames = script["frames"].tobytes()
    sizes, reply_sizes = script["frame_sizes"].tolist(), script["reply_sizes"].tolist()
    replies, running = bytearray(), []
    words = {engine: [] for engine in ENGINES}

    i_payload, i_valid, i_ready = dut.i__payload, dut.i__valid, dut.i__ready
    o_payload, o_valid, o_ready = dut.o__payload, dut.o__valid, dut.o__ready
    is_running = dut.trace_running
    for signal in (i_payload, i_valid, o_ready):
        signal.value = 0
    Clock(dut.clk, PERIOD_PS, unit="ps").start()
    Clock(dut.host_clk, 2 * round(float(script["host_period"]) * PERIOD_PS / 2), unit="ps").start()
    cocotb.start_soon(_watch(dut, words, running, patience))
    edge, ended = RisingEdge(dut.host_clk), FallingEdge(is_running)
    for _ in range(4):  # nothing happens before the first byte
        await edge

    position = 0
    for number, (size, reply_size) in enumerate(zip(sizes, reply_sizes, strict=True)):
        frame, position = frames[position : position + size], position + size
        sent = received = quiet = 0
        offering = accepting = False
        while sent < size or received < reply_size:
            if not offering and sent < size and (not stall or rng.random() >= stall):
                i_payload.value = frame[sent]
                i_valid.value = 1
                offering = True
            accept = received < reply_size and (not stall or rng.random() >= stall)
            if accept != accepting:
                o_ready.value = int(accept)
                accepting = accept
            await edge
            quiet += 1
            if offering and i_ready.value == 1:
                sent, offering, quiet = sent + 1, False, 0
                i_valid.value = 0
            if accepting and o_valid.value == 1:
                replies.append(int(o_payload.value))
                received, quiet = received + 1, 0
            if is_running.value == 1:  # no answer before it ends
                await ended
            assert quiet < patience, f"frame {number}: nothing for {patience} cycles"
        i_valid.value = 0
    width = len(dut.trace_array)
    np.savez(
        os.environ["GEN_BENCH_RESULT"],
        replies=np.frombuffer(bytes(replies), np.uint8),
        **{engine: _bytes(made, width // 8) for engine, made in words.items()},
        cycles=np.array(running, np.int64),
    )


async def _watch(dut, words, running, patience):
    """Keep each engine's ``words``, and of each inference how many cycles it was ``running``."""
    progress = os.environ.get("GEN_BENCH_PROGRESS")
    traces = [
        (getattr(dut, f"trace_{engine}_valid"), getattr(dut, f"trace_{engine}"), made) for engine, made in words.items()
    ]
    is_running, edge = dut.trace_running, RisingEdge(dut.clk)
    while True:
        await RisingEdge(is_running)
        cycles = 0
        await edge
        while is_running.value == 1:
            cycles += 1
            for valid, data, made in traces:
                if valid.value == 1:
                    made.append(int(data.value))
            assert cycles < patience, f"inference {len(running)}: nothing for {patience} cycles"
            await edge
        running.append(cycles)
        if progress:
            with open(progress, "a") as file:
                file.write("inference\n")


def _bytes(words, count):
    """Int8 (words, count), low byte first."""
    raw = b"".join(word.to_bytes(count, "little") for word in words)
    return np.frombuffer(raw, np.int8).reshape(len(words), count)
