"""From a .tflite file to a layer table, one row an operator, numbers as the file has them.

The table computes what TensorFlow Lite's reference kernels compute from the same file. Whatever the importer cannot
promise that for is refused: one :class:`gen.errors.GenError` lists every problem of a file with its place.
"""

import re
from collections import Counter
from pathlib import Path

from gen import tflite_file
from gen.errors import GenError
from gen.table import Table, TableError
from gen.tflite_operators import (
    OPERATORS,
    SHAPE_OPERATORS,
    ForeignTypeError,
    OperatorReader,
    UnreadableError,
    tensor_type,
)

__all__ = ["import_tflite", "load_tflite"]

#: Bytes of a file, and of all constants that its operators read: they may share weights, but not without end.
MAX_BYTES = 2**28

INT8_RECIPE = (
    "convert the float model with full int8 quantisation (optimizations = [DEFAULT], a representative_dataset, "
    "supported_ops = [TFLITE_BUILTINS_INT8])"
)
#: What a model is whose inner tensors have another element type than int8.
FOREIGN_MODELS = {
    "FLOAT32": "a float model (float32 weights or activations)",
    "FLOAT16": "a float16 model",
    "INT16": "a model with 16-bit activations",
    "INT4": "a model with 4-bit weights",
    "UINT8": "a legacy uint8 model, whose arithmetic is another",
}
#: The way out for unsupported operators that people meet.
HINTS = {
    "PADV2": "pad with zeros, which becomes PAD",
    "RELU": "convert again with a current converter, which fuses it into the convolution before it",
    "RELU6": "convert again with a current converter, which fuses it into the convolution before it",
}

#: What a row is called after, with the operator's index, when its tensor's name does not do.
SHORT_NAMES = {
    "AVERAGE_POOL_2D": "pool",
    "CONCATENATION": "concat",
    "CONV_2D": "conv",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "fc",
    "MAX_POOL_2D": "pool",
}
#: Components of tensor names that say what an operator is, not which one.
GENERIC_NAME = re.compile(
    r"(Relu6?|BiasAdd|Conv2D|depthwise|FusedBatchNormV3|MatMul|AvgPool|MaxPool|Mean|Reshape|Softmax|Pad"
    r"|(Stateful)?PartitionedCall|Identity)(:\d+|_\d+|_int8)*"
)
MAX_NAME = 40


def load_tflite(path):
    """Import the .tflite file at ``path``; the table is called after the file's stem.

    Returns
    -------
    gen.table.Table

    Raises
    ------
    GenError
        If the file cannot be read, is no .tflite file, is damaged, or holds anything that is not supported; the
        message lists every problem, one a line.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise GenError(f"{path}: there is no such file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise GenError(f"{path}: a model may have {MAX_BYTES} bytes at most, not {size}")
        data = path.read_bytes()
    except OSError as error:
        raise GenError(f"{path}: cannot be read: {error.strerror}") from None
    return import_tflite(data, path.stem)


def import_tflite(data, name):
    """Import the bytes of a .tflite file as a table called ``name``; raises what :func:`load_tflite` raises."""
    return _Importer(tflite_file.read(data, name), name).table()


class _Importer:
    """One import: walks the operators in order, notes every problem, and keeps the rows of those without any."""

    def __init__(self, graph, name):
        self.graph, self.name = graph, name
        self.names = _names(graph)
        self.problems = []
        self.foreign = {}  # element type: the operators that work on it
        self.types = {}  # of the tensors made so far, by index; None where none can be told, which has been noted
        self.shapes = {}  # values of the tensors that hold a RESHAPE's shape, by index; None likewise
        self.layers = []
        self.constant_bytes = 0

    def table(self):
        inputs = self._inputs()
        for op in self.graph.operators:
            self._operator(op)
        self._check_outputs()
        self._check_host_layers()
        problems = [
            f"this is {FOREIGN_MODELS[dtype]} (at {_listed(at)}): {INT8_RECIPE}" for dtype, at in self.foreign.items()
        ]
        problems += self.problems
        if len(problems) > 1:
            raise GenError("\n  ".join([f"{self.name}: {len(problems)} problems", *problems]))
        if problems:
            raise GenError(f"{self.name}: {problems[0]}")
        try:
            return Table(self.name, inputs, tuple(self.layers), tuple(self.names[i] for i in self.graph.outputs))
        except TableError as error:
            raise GenError(str(error)) from None

    def _inputs(self):
        if len(set(self.graph.inputs)) < len(self.graph.inputs):
            self.problems.append(f"inputs must be different tensors, not {list(self.graph.inputs)}")
        for index in self.graph.inputs:
            tensor = self.graph.tensors[index]
            try:
                self.types[index], problems = tensor_type(tensor)
            except ForeignTypeError:
                self.types[index], problems = None, []
                if tensor.dtype in FOREIGN_MODELS:
                    self.foreign.setdefault(tensor.dtype, []).append(self.names[index])
                else:
                    problems.append(f"must be int8, uint8 or float32, not {tensor.dtype}")
            if tensor.data is not None:
                problems.append("must not be a constant")
            self.problems += [f"input {self.names[index]}: {problem}" for problem in problems]
        return {self.names[index]: self.types[index] for index in self.graph.inputs}

    def _operator(self, op):
        constants = (self.graph.tensors[index].data for index in op.inputs if index >= 0)
        self.constant_bytes += sum(data.size for data in constants if data is not None)
        if self.constant_bytes > MAX_BYTES:
            raise GenError(f"{self.name}: the constants that its operators read exceed {MAX_BYTES} bytes")
        reader = OperatorReader(self.graph, op, self.shapes)
        layer = None
        try:
            for index in op.outputs:
                if index in self.types or index in self.shapes or self.graph.tensors[index].data is not None:
                    reader.reject(f"writes tensor {index}, which is written already, an input or a constant")
            if op.code in SHAPE_OPERATORS:
                self._fold(reader, op)
                return
            if op.code not in OPERATORS:
                reader.reject(f"{op.code} is not supported" + (f": {HINTS[op.code]}" if op.code in HINTS else ""))
            read, sources, output = self._activations(reader, op)
            inputs = tuple(self.names[index] for index in read)
            layer = reader.layer(self.names[op.outputs[0]], inputs, sources, output)
        except ForeignTypeError as foreign:
            dtype = foreign.args[0]
            if dtype in FOREIGN_MODELS:
                self.foreign.setdefault(dtype, []).append(_operator_name(self.names, op))
            else:
                reader.refuse(f"cannot work on {dtype} tensors; {INT8_RECIPE}")
        except UnreadableError:
            pass
        place = f"operator {op.index}, {_operator_name(self.names, op)}"
        self.problems += [f"{place}: {problem}" for problem in reader.problems]
        for index in op.outputs:
            # Past a problem, what the file says about the tensor lets the operators behind it be checked as well.
            self.types.setdefault(index, layer.output if layer else self._declared(index))
            if layer is None:
                self.shapes.setdefault(index, None)
        if layer is not None:
            self.layers.append(layer)

    def _declared(self, index):
        try:
            return tensor_type(self.graph.tensors[index])[0]
        except ForeignTypeError:
            return None

    def _fold(self, reader, op):
        """Evaluate a shape operator, if all that it reads is known already."""
        if not op.inputs or len(op.outputs) != 1:
            reader.reject(f"must read a tensor and make one, not {len(op.inputs)} and {len(op.outputs)}")
        if op.code == "SHAPE":
            # Only tensors that were checked have a shape to rely on.
            self._known(reader, op.inputs[0])
        self.shapes[op.outputs[0]] = SHAPE_OPERATORS[op.code](reader)

    def _activations(self, reader, op):
        """Indices and types of the tensors of the network that ``op`` reads, and the type of the one that it makes."""
        if not op.inputs or len(op.outputs) != 1:
            reader.reject(f"must read a tensor and make one, not {len(op.inputs)} and {len(op.outputs)}")
        read = reader.operands()
        sources = [self._known(reader, index) for index in read]
        output, problems = tensor_type(self.graph.tensors[op.outputs[0]])
        for problem in problems:
            reader.refuse(f"output {problem}")
        if output is None:
            raise UnreadableError
        return read, sources, output

    def _known(self, reader, index):
        """Type of the tensor ``index``, which an input or an earlier operator must have made."""
        if index < 0 or self.graph.tensors[index].data is not None:
            reader.reject("must read a tensor of the network, not a constant")
        if index not in self.types and index in self.shapes:
            reader.reject("must read a tensor of the network, not a shape")
        if index not in self.types:
            reader.reject(f"reads tensor {index} before any operator has written it")
        if self.types[index] is None:
            raise UnreadableError
        return self.types[index]

    def _check_outputs(self):
        if not self.graph.outputs:
            self.problems.append("the network has no outputs")
        for index in self.graph.outputs:
            if index in self.graph.inputs or index not in self.types:
                self.problems.append(f"output tensor {index}: no layer makes it")

    def _check_host_layers(self):
        """The host quantises the network's inputs, and works on what only the host reads."""
        inputs = {self.names[index] for index in self.graph.inputs}
        tails = {
            layer.name: layer
            for layer in self.layers
            if layer.on_host and not (layer.operator == "quantize" and layer.inputs[0] in inputs)
        }
        for reader in self.layers:
            for name in dict.fromkeys(reader.inputs):
                if name in tails and not reader.on_host:
                    self.problems.append(
                        f"{name}: {tails[name].operator} runs on the host, at the edges of the network, "
                        f"but {reader.name} reads it; end the network before it"
                    )


def _names(graph):
    """A name for every input and every operator's first output, by tensor index: unique, and short enough to read.

    A tensor keeps the last telling component of its name if that is unique; if not, or if the name lists several
    tensors fused into one, it is called after its operator and the operator's index.
    """
    plain = {index: f"input{position}" for position, index in enumerate(graph.inputs)}
    for op in graph.operators:
        for index in op.outputs[:1]:
            plain.setdefault(index, f"{SHORT_NAMES.get(op.code, _clean(op.code.lower()))}{op.index}")
    telling = {index: _telling(graph.tensors[index].name) for index in plain}
    taken = Counter(telling.values()) + Counter(plain.values())
    return {
        index: name if (name := telling[index]) and taken[name] - (name == plain[index]) == 1 else plain[index]
        for index in plain
    }


def _telling(name):
    """The last component of a tensor's name that tells it from others; empty if there is none."""
    components = [] if ";" in name else name.split("/")
    while components and (not components[-1] or GENERIC_NAME.fullmatch(components[-1])):
        components.pop()
    last = _clean(components[-1]) if components else ""
    return last if len(last) <= MAX_NAME else ""


def _clean(name):
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", re.sub(r":\d+$", "", name)).strip("_")


def _operator_name(names, op):
    return names[op.outputs[0]] if op.outputs else f"{_clean(op.code.lower())}{op.index}"


def _listed(names, most=5):
    """The first names of a list that may be long."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
