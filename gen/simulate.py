"""Simulation of a whole network in Verilator, compared with the golden model layer by layer."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gen import tools
from gen.contents import feature_contents, words_to_bytes
from gen.errors import GenError
from gen.layout import ceil_div, patches_of, tensor_from_words
from gen.plan import Plan
from gen.stages import MOVED, results_of, sources_of
from gen.steps import Steps
from hw.core import filled_memories
from hw.memory import SLICE_BITS, slices_of
from sim import driver, golden

#: Engines whose words are traced, by the names of the core's ports.
ENGINES = ("depthwise", "array", "residual")

__all__ = ["input_frames", "load_frames", "simulate"]


@dataclass
class Script:
    """Frames to play and the sizes of their answers."""

    frames: list[bytes]
    reply_sizes: list[int]

    def add(self, frame: bytes, reply_size: int = driver.WRITE_REPLY) -> None:
        """Append a frame."""
        self.frames.append(frame)
        self.reply_sizes.append(reply_size)


def load_frames(plan: Plan) -> list[bytes]:
    """Frames that load the plan's weights, parameters and programs into a core of its dimensions."""
    memories = filled_memories(plan.config)
    return [
        frame
        for name, words in plan.contents.items()
        for frame in driver.write_frames(memories[name].select, 0, memories[name].width, words)
        if words
    ]


def input_frames(plan: Plan, tensors: dict[str, np.ndarray]) -> list[bytes]:
    """Frames that load the accelerator's inputs, out of ``tensors`` (H, W, C) or (C,) by name."""
    memories = filled_memories(plan.config)
    frames = []
    for name in sources_of(plan.stages):
        place = plan.places[name]
        for n, words in enumerate(feature_contents(place, tensors[name], plan.config)):
            select = memories[f"features_{n}"].select
            frames += driver.write_frames(select, place.base, plan.config.word_bits, words)
    return frames


def _read_frames(plan, name):
    """Frames that read tensor ``name``, and the words each brings: banks outside, slices inside."""
    place = plan.places[name]
    for bank in range(9):
        for part in range(slices_of(plan.config.word_bits)):
            yield driver.read_frame(bank // 3, bank % 3, part, place.base, place.words), place.words


def _tensor_read(plan, name, replies):
    """The tensor from the answers to :func:`_read_frames`, in its own shape."""
    parts = slices_of(plan.config.word_bits)
    banks = []
    for bank in range(9):
        words = [driver.read_reply(reply) for reply in replies[bank * parts : (bank + 1) * parts]]
        joined = [sum(value << SLICE_BITS * n for n, value in enumerate(pieces)) for pieces in zip(*words, strict=True)]
        banks.append(words_to_bytes(joined, plan.config.lanes))
    return tensor_from_words(plan.places[name], banks, plan.config).reshape(plan.table.tensor(name).shape)


def simulate(
    plan: Plan,
    inputs: list[dict[str, np.ndarray]],
    *,
    directory: Path,
    rtl: Path | None = None,
    stall: float = 0.0,
    seed: int = 0,
    load: Plan | None = None,
) -> dict:
    """Run ``inputs`` back to back through the plan's core in Verilator.

    Parameters
    ----------
    plan : Plan
        What to simulate.
    inputs : list of dict of str to array
        The table's inputs, without the batch.
    directory : Path
        Takes core.v, output.npy (or output_0.npy, ...), report.json's content comes back.
    rtl : Path, optional
        Simulate this file in place of the core just generated.
    stall, seed : float, int
        Probability of an idle cycle on either byte stream, and the seed of these.
    load : Plan, optional
        Another plan of the same dimensions, whose contents the host loads first; it is what then runs.

    Returns
    -------
    dict
        Fields of report.json; ``difference`` says where the first difference is when ``bit_exact`` is false.

    Raises
    ------
    GenError
        If the simulation cannot be built or does not end.
    """
    steps = Steps()
    directory.mkdir(parents=True, exist_ok=True)
    running = load or plan
    with steps.step("golden", "Golden model"):
        expected = [golden.run(running.table, values) for values in inputs]
    with steps.step("emit", "Verilog"):
        core = directory / "core.v"
        core.write_text(plan.verilog(), encoding="utf-8")
    script = Script([], [])
    if load:
        for frame in load_frames(load):
            script.add(frame)
    results = sorted(results_of(running.table))
    starts = []
    loading = 0
    for values in expected:
        for frame in input_frames(running, values):
            script.add(frame)
            loading += len(frame)
        starts.append(len(script.frames))
        script.add(driver.start_frame(), driver.INTEGER_REPLY)
        for name in results:
            for frame, count in _read_frames(running, name):
                script.add(frame, driver.read_reply_size(count))
    with steps.step("verilator", f"Verilator, {len(inputs)} inference{'s' * (len(inputs) > 1)}"):
        played = _play(script, directory / "verilator", rtl or core, stall, seed, 4 * running.cycles + 10_000)
    replies = _split(played["replies"].tobytes(), script.reply_sizes)
    try:
        _check(replies, starts, script)
        read = _results(running, results, replies, starts)
        measured = [driver.integer_reply(replies[at]) for at in starts]
    except driver.FrameError as error:
        raise GenError(f"{running.table.name}: the simulated core answered wrongly: {error}") from error
    difference = _compare(running, expected, played, read)
    outputs = [_host(running.table, values, tensors) for values, tensors in zip(expected, read, strict=True)]
    difference = difference or _compare_outputs(running.table, inputs, outputs)
    _save(directory, [np.stack(values) for values in zip(*outputs, strict=True)])
    if difference is None and set(measured) != set(played["cycles"].tolist()):
        difference = f"the core counted {measured} cycles, the bench {played['cycles'].tolist()}"
    report = running.report()
    report |= {
        "cycles_measured": max(measured),
        "bit_exact": difference is None,
        "inferences": len(inputs),
        "host_load_us": loading / len(inputs) * 10 / plan.board.baud * 1e6,
        "tools": {name: tools.version(name) for name in ("verilator", "yosys")},
        "seconds": steps.seconds,
    }
    if difference is not None:
        report["difference"] = difference
    return report


def _play(script, folder, source, stall, seed, patience):
    """Compile ``source``, play the script, and return what the bench wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments, result = folder / "script.npz", folder / "result.npz"
    result.unlink(missing_ok=True)
    np.savez(
        arguments,
        frames=np.frombuffer(b"".join(script.frames), np.uint8),
        frame_sizes=[len(frame) for frame in script.frames],
        reply_sizes=script.reply_sizes,
        stall=stall,
        seed=seed,
        patience=patience,
    )
    root = Path(__file__).resolve().parent.parent
    environment = tools.verilator_environment() | {
        "GEN_BENCH": str(arguments.resolve()),
        "GEN_BENCH_RESULT": str(result.resolve()),
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    command = [sys.executable, "-m", "sim.runner", str(folder.resolve()), "core", "sim.bench_core"]
    log = folder / "verilator.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*command, str(source.resolve())], env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode or not result.exists():
        tail = "\n  ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:])
        raise GenError(f"the simulation of {source} failed; its log is {log}\n  {tail}")
    return np.load(result)


def _split(data, sizes):
    """``data`` cut into pieces of these sizes."""
    ends = np.cumsum([0, *sizes])
    return [data[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


def _check(replies, starts, script):
    """Raise unless every write was acknowledged."""
    for reply, size in zip(replies, script.reply_sizes, strict=True):
        if size == driver.WRITE_REPLY:
            driver.check_write(reply)


def _results(plan, names, replies, starts):
    """The tensors read back, for each inference."""
    per_tensor = 9 * slices_of(plan.config.word_bits)
    read = []
    for start in starts:
        at = start + 1
        tensors = {}
        for name in names:
            tensors[name] = _tensor_read(plan, name, replies[at : at + per_tensor])
            at += per_tensor
        read.append(tensors)
    return read


def _compare(plan, expected, played, read):
    """The first difference between traces and golden model as a sentence, or None."""
    table, lanes = plan.table, plan.config.lanes
    position = Counter()
    for number, values in enumerate(expected):
        made = {}  # what the engines made of each layer
        for at, y in plan.order:
            stage = plan.stages[at]
            for engine, layer, channels in _traced(stage):
                count = len(stage.region.columns) * ceil_div(channels, lanes)
                words = played[engine][position[engine] : position[engine] + count]
                position[engine] += count
                if len(words) < count:
                    return f"input {number}, {stage.name}, row {y}: the {engine} made {len(words)} of {count} words"
                if layer is not None:
                    shape = _shape(values[layer.name])
                    tensor = made.setdefault(layer.name, np.zeros(shape, np.int8))
                    pixels = patches_of(stage, plan.config).pixels if engine == "array" else 1
                    row = _by_pixel(words, len(stage.region.columns), pixels)[:, : shape[2]]
                    tensor[y, stage.region.left : stage.region.right] = row
        for layer in table.layers:
            if layer.name in made:
                wanted = values[layer.name]
                if sentence := _first_difference(wanted.reshape(_shape(wanted)), made[layer.name]):
                    return f"input {number}, {layer.name}: {sentence}"
        for name, tensor in read[number].items():
            if sentence := _first_difference(values[name].reshape(_shape(tensor)), tensor.reshape(_shape(tensor))):
                return f"input {number}, {name} as read back: {sentence}"
    for engine in ENGINES:
        if position[engine] != len(played[engine]):
            return f"{table.name}: the {engine} made {len(played[engine])} words in all, not {position[engine]}"
    return None


def _by_pixel(words, width, at_once):
    """Values (width, channels) of a row from the words of an engine that makes so many pixels' at a time."""
    groups, lanes = len(words) // width, words.shape[1]
    paired = width - width % at_once
    together = words[: paired * groups].reshape(-1, groups, at_once, lanes).swapaxes(1, 2)
    return np.concatenate([together.reshape(-1, lanes), words[paired * groups :]]).reshape(width, -1)


def _compare_outputs(table, inputs, outputs):
    """The first difference to the outputs of the network as it was before folding, as a sentence, or None."""
    whole = table.unfolded or table
    for number, (values, ours) in enumerate(zip(inputs, outputs, strict=True)):
        expected = golden.run(whole, values)
        for name, output in zip(table.outputs, ours, strict=True):
            if not np.array_equal(expected[name], output):
                return f"input {number}, output {name}: differs from the network's own, before constant channels fold"
    return None


def _traced(stage):
    """For each engine that a stage uses: its name, the layer that it makes there (None: a copy), and the channels."""
    if stage.front is not None:
        yield "depthwise", stage.front, stage.source_shape[2]
    yield "array", stage.array, stage.output_shape[2]
    if stage.sum is not None:
        yield "residual", stage.sum, stage.output_shape[2]


def _shape(tensor):
    """Height, width, channels; a vector is one pixel."""
    return (1,) * (3 - tensor.ndim) + tensor.shape


def _first_difference(expected, got):
    """Where two (H, W, C) tensors differ first, as a sentence, or None."""
    differs = expected != got
    if not differs.any():
        return None
    y, x, c = np.unravel_index(np.argmax(differs), differs.shape)
    return (
        f"row {y}, column {x}, channel {c}: expected {expected[y, x, c]}, got {got[y, x, c]} "
        f"({differs.sum()} of {differs.size} values differ)"
    )


def _host(table, inputs, tensors):
    """The table's outputs from what the accelerator left, through the host's operators."""
    values = {name: inputs[name] for name in table.inputs} | tensors
    for layer in table.layers:
        ours = layer.on_host or layer.operator in MOVED
        if ours and all(name in values for name in layer.inputs):
            values[layer.name] = golden.run_layer(table, layer, *(values[name] for name in layer.inputs))
    return [values[name] for name in table.outputs]


def _save(directory, outputs):
    """Write output.npy, or output_0.npy and so on."""
    for number, values in enumerate(outputs):
        name = "output.npy" if len(outputs) == 1 else f"output_{number}.npy"
        np.save(directory / name, values)
