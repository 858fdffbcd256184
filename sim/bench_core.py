"""cocotb bench of a whole core: plays frames into its byte streams, keeps answers and traces.

What to play comes from the file that GEN_BENCH names, an .npz with ``frames`` (all bytes), ``frame_sizes``,
``reply_sizes``, ``stall`` (probability of an idle cycle on either stream), ``seed`` and ``patience`` (cycles without
a byte either way after which the core counts as hung); answers, traces and cycle
counts go to the file that GEN_BENCH_RESULT names. Each frame waits for the whole answer to the one before.
"""

import os
import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

#: Engines whose words are traced, by the names of the core's ports.
ENGINES = ("depthwise", "array", "residual")


@cocotb.test()
async def play(dut):
    """Play all frames."""
    script = np.load(os.environ["GEN_BENCH"])
    progress = os.environ.get("GEN_BENCH_PROGRESS")
    patience = int(script["patience"])
    stall, rng = float(script["stall"]), random.Random(int(script["seed"]))
    frames = script["frames"].tobytes()
    sizes, reply_sizes = script["frame_sizes"].tolist(), script["reply_sizes"].tolist()
    replies, running = bytearray(), []
    words = {engine: [] for engine in ENGINES}

    clk = dut.clk
    i_payload, i_valid, i_ready = dut.i__payload, dut.i__valid, dut.i__ready
    o_payload, o_valid, o_ready = dut.o__payload, dut.o__valid, dut.o__ready
    traces = [
        (getattr(dut, f"trace_{engine}_valid"), getattr(dut, f"trace_{engine}"), words[engine]) for engine in ENGINES
    ]
    is_running = dut.trace_running
    width = len(dut.trace_depthwise)
    most = (1 << width) - 1
    for signal in (i_payload, i_valid, o_ready):
        signal.value = 0
    Clock(clk, 10, unit="ns").start()
    edge = RisingEdge(clk)
    for _ in range(4):  # nothing happens before the first byte
        await edge

    position = 0
    for number, (size, reply_size) in enumerate(zip(sizes, reply_sizes, strict=True)):
        frame, position = frames[position : position + size], position + size
        sent = received = quiet = active = 0
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
            if is_running.value == 1:
                active += 1
                for valid, data, made in traces:
                    which = int(valid.value)
                    if which:
                        word = int(data.value)
                        made.append(word & most)
                        if which > 1:
                            made.append(word >> width)
            assert quiet < patience, f"frame {number}: nothing for {patience} cycles"
        if active:
            running.append(active)
            if progress:
                with open(progress, "a") as file:
                    file.write("inference\n")
        i_valid.value = 0
    np.savez(
        os.environ["GEN_BENCH_RESULT"],
        replies=np.frombuffer(bytes(replies), np.uint8),
        **{engine: _bytes(made, width // 8) for engine, made in words.items()},
        cycles=np.array(running, np.int64),
    )


def _bytes(words, count):
    """Int8 (words, count), low byte first."""
    raw = b"".join(word.to_bytes(count, "little") for word in words)
    return np.frombuffer(raw, np.int8).reshape(len(words), count)
