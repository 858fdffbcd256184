"""The .tflite operators that the importer understands, each checked and turned into the fields of a table row.

An :class:`OperatorReader` looks at one operator: it notes every problem it finds in ``problems``, and raises
:class:`UnreadableError` where nothing more can be said. :data:`OPERATORS` lists what becomes a row,
:data:`SHAPE_OPERATORS` what only computes the shape of a RESHAPE and folds away.
"""

import math

import numpy as np

from gen.table import ELEMENTWISE, WEIGHTED, Layer, Quantization, Table, TableError, TensorType
from sim import golden

__all__ = [
    "OPERATORS",
    "SHAPE_OPERATORS",
    "OperatorReader",
    "UnreadableError",
    "addition_problem",
    "tensor_type",
    "worst_case",
]

#: Bounds what a hostile file can make anybody allocate; no network for a small FPGA comes near.
MAX_ELEMENTS = 2**26
MAX_KERNEL = 255

ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}
PADDINGS = {0: "SAME", 1: "VALID"}
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int32": (-(2**31), 2**31 - 1)}
#: Element types that a tensor of the network may have, and those that constants of integers may have.
DTYPES = {"INT8": "int8", "UINT8": "uint8", "FLOAT32": "float32"}
INTEGERS = {"INT32": np.int32, "INT64": np.int64}


class UnreadableError(Exception):
    """Nothing more can be said about the operator at hand; why has been noted."""


class ForeignTypeError(UnreadableError):
    """The operator works on the element type in ``args[0]`` where only int8 will do."""


def tensor_type(tensor):
    """What ``tensor`` is without its batch, and a list of what keeps it out of a table: (TensorType or None, problems).

    Raises
    ------
    ForeignTypeError
        If its element type is none that a table knows.
    """
    if tensor.dtype not in DTYPES:
        raise ForeignTypeError(tensor.dtype)
    problems = []
    if tensor.special:
        problems.append(f"must be a plain array, not {tensor.special}")
    if len(tensor.shape) < 2 or tensor.shape[0] != 1 or tensor.signature[:1] not in ((), (1,), (-1,)):
        problems.append(f"shape must have a batch of 1 in front, not {list(tensor.signature or tensor.shape)}")
    elif -1 in tensor.signature[1:]:
        problems.append(f"shape must be fixed, not {list(tensor.signature)}; convert with a fixed input shape")
    elif min(tensor.shape) < 1 or math.prod(tensor.shape) > MAX_ELEMENTS:
        problems.append(f"shape must have 1 to {MAX_ELEMENTS} elements, not {list(tensor.shape)}")
    dtype = DTYPES[tensor.dtype]
    quantization = None
    if dtype != "float32":
        quantization, wrong = _quantization(tensor, dtype)
        problems += wrong
    return (None if problems else TensorType(tensor.shape[1:], dtype, quantization)), problems


def _quantization(tensor, dtype):
    """The one scale and zero point of ``tensor``, and a list of what is wrong with them."""
    if tensor.scales.size != 1 or tensor.zero_points.size != 1:
        return None, [f"must have one scale and one zero point, not {tensor.scales.size} and {tensor.zero_points.size}"]
    problems = []
    quantization = Quantization(float(tensor.scales[0]), int(tensor.zero_points[0]))
    if not 0 < quantization.scale < math.inf:
        problems.append(f"scale must be positive and finite, not {quantization.scale}")
    low, high = LIMITS[dtype]
    if not low <= quantization.zero_point <= high:
        problems.append(f"zero point must be in {low}..{high}, not {quantization.zero_point}")
    return quantization, problems


def addition_problem(table, layer):
    """Why the kernels cannot run an ``add`` or ``sub``, whose three multipliers they want in 0..1; None if they can.

    Nothing else can go wrong: behind such multipliers every int8 input stays in int32.
    """
    scales = golden.addition_scales(table, layer)
    if ((scales > 0) & (scales < 1)).all():
        return None
    first, second = (quantization.scale for quantization in golden.operand_quantizations(table, layer))
    return (
        f"output scale must be above 2**-19 times the greater of the operands' scales {first:.6g} and {second:.6g} "
        f"and below 2**108, not {layer.output.quantization.scale:.6g}"
    )


def worst_case(table, layer):
    """Least and greatest accumulator of a weighted, ``mean`` or ``mul`` layer over every int8 input: two int64 arrays.

    (C_out,) of ``bias + sum w * (x - z_in)`` for weighted layers, (1,) of ``sum x - N * z_in`` for ``mean``, (1,) of
    ``(x_1 - z_1) * (x_2 - z_2)`` for ``mul``. Bounds the partial sums too when the zero point is folded into the bias:
    they are sums whose remaining ``x`` are 0.
    """
    if layer.operator == "mul":
        limits = [LIMITS["int8"]] * 2
        if layer.constant is not None:
            limits[1] = int(layer.constant.min()), int(layer.constant.max())
        zero_points = [quantization.zero_point for quantization in golden.operand_quantizations(table, layer)]
        products = np.multiply.outer(*(np.array(ends) - zero for ends, zero in zip(limits, zero_points, strict=True)))
        return np.array([products.min()]), np.array([products.max()])
    source = table.source(layer)
    low, high = (limit - source.quantization.zero_point for limit in LIMITS["int8"])
    if layer.operator == "mean":
        pixels = source.size // source.shape[-1]
        return np.array([pixels * low]), np.array([pixels * high])
    axes = (0, 1) if layer.operator == "depthwise_conv2d" else tuple(range(1, layer.weights.ndim))
    positive = np.maximum(layer.weights, 0).sum(axis=axes, dtype=np.int64)
    negative = np.minimum(layer.weights, 0).sum(axis=axes, dtype=np.int64)
    return layer.bias + positive * low + negative * high, layer.bias + positive * high + negative * low


class OperatorReader:
    """Reads one operator of ``graph``.

    Parameters
    ----------
    graph : gen.tflite_file.Graph
    op : gen.tflite_file.Operator
    shapes : dict of int to array or None
        Values of the tensors that earlier shape operators computed, by tensor index; None for what earlier operators
        with problems should have made.
    """

    def __init__(self, graph, op, shapes):
        self.graph, self.op, self.shapes = graph, op, shapes
        self.sources = ()  # types of the tensors that the row reads
        self.problems = []

    def refuse(self, reason):
        """Note a problem and go on."""
        self.problems.append(reason)

    def reject(self, reason):
        """Note a problem after which nothing more can be said."""
        self.problems.append(reason)
        raise UnreadableError

    def operands(self):
        """Indices of the tensors of the network that the row will read; an operator's other inputs are constants."""
        inputs = self.op.inputs
        operator = OPERATORS[self.op.code][0]
        if operator == "concatenation":
            return inputs
        if operator not in ELEMENTWISE:
            return inputs[:1]
        if len(inputs) != 2:
            self.reject(f"must read two tensors, not {len(inputs)}")
        constants = [index for index in inputs if index >= 0 and self.graph.tensors[index].data is not None]
        # Two constants are no layer: the importer will refuse both.
        return tuple(index for index in inputs if index not in constants) if len(constants) == 1 else inputs

    def layer(self, name, inputs, sources, output):
        """The row called ``name`` that reads tensors ``inputs`` of types ``sources``; None with problems."""
        operator, read = OPERATORS[self.op.code]
        if operator not in ("quantize", "dequantize"):
            for tensor in (*sources, output):
                if tensor.dtype != "int8":
                    raise ForeignTypeError(tensor.dtype.upper())
        self.sources = tuple(sources)
        fields = {"operator": operator} | read(self, sources[0], output)
        layer = Layer(name=name, inputs=inputs, output=output, **fields)
        if not self.problems:
            self._check_arithmetic(layer)
        return None if self.problems else layer

    def _check_arithmetic(self, layer):
        """Refuse what the kernels' int32 arithmetic cannot hold, and rows that are no layer."""
        source = self.sources[0]
        try:
            # A table of one row brings the table's own checks, and the golden model's multipliers.
            table = Table("", dict(zip(layer.inputs, self.sources, strict=True)), (layer,), (layer.name,))
        except TableError as error:
            self.problems += [line.removeprefix(f": {layer.name}: ") for line in str(error).splitlines()]
            return
        if layer.operator == "quantize" and source.dtype != "float32":
            low, high = np.array([-255]), np.array([255])
            shifts = golden.quantize_multiplier(
                np.array([source.quantization.scale / layer.output.quantization.scale])
            )[1]
        elif layer.operator in ("add", "sub"):
            problem = addition_problem(table, layer)
            if problem:
                self.refuse(problem)
            return
        elif layer.operator in (*WEIGHTED, "mean", "mul"):
            low, high = worst_case(table, layer)
            with np.errstate(over="ignore", under="ignore"):
                if layer.operator != "mean" and not np.isfinite(golden.effective_scales(table, layer)).all():
                    factors = "the operands' scales" if layer.operator == "mul" else "input scale times weight scale"
                    self.reject(f"{factors} over output scale is infinite")
                shifts = golden.layer_multipliers(table, layer)[1]
        else:
            return
        left = np.clip(shifts, 0, 31)
        least, most = (limit >> left for limit in LIMITS["int32"])
        bad = (low < least) | (high > most) | (shifts > 31)
        if bad.any():
            channel = int(bad.argmax())
            shifted = f" when shifted left by {shifts[channel]}" if shifts[channel] > 0 else ""
            self.reject(
                f"the worst accumulator of channel {channel}, {low[channel]} to {high[channel]}, leaves int32{shifted}"
            )

    # Constants and options

    def constant(self, position, what, dtypes):
        """The constant that is operand ``position``: its tensor, once its bytes fill its shape exactly."""
        index = self.op.inputs[position] if position < len(self.op.inputs) else -1
        tensor = self.graph.tensors[index] if index >= 0 else None
        if tensor is None or tensor.data is None:
            self.reject(f"{what} must be a constant in the file")
        if tensor.special:
            self.reject(f"{what} must be a plain array, not {tensor.special}")
        if tensor.dtype not in dtypes:
            if what == "weights":
                raise ForeignTypeError(tensor.dtype)
            self.reject(f"{what} must be {' or '.join(dtypes)}, not {tensor.dtype}")
        needed = math.prod(tensor.shape) * np.dtype(dtypes[tensor.dtype]).itemsize
        if min(tensor.shape, default=1) < 1 or needed != tensor.data.size:
            self.reject(f"{what} of shape {list(tensor.shape)} cannot be what {tensor.data.size} bytes hold")
        return tensor

    def constant_operand(self, source):
        """``constant``, its quantisation and place: the operand of an elementwise operator on ``source`` alone.

        Axes of size 1 in front mean nothing, the batch among them.
        """
        position = int(self.graph.tensors[self.op.inputs[1]].data is not None)
        tensor = self.constant(position, "the constant operand", {"INT8": np.int8})
        quantization, problems = _quantization(tensor, "int8")
        for problem in problems:
            self.refuse(f"the constant operand's {problem}")
        shape = tensor.shape
        while shape[:1] == (1,):
            shape = shape[1:]
        fits = len(shape) <= len(source.shape) and all(
            size in (1, whole) for size, whole in zip(shape[::-1], source.shape[::-1], strict=False)
        )
        if not fits:
            self.reject(f"the constant operand must spread over {source.shape}, not have shape {list(tensor.shape)}")
        constant = tensor.data.view(np.int8).reshape(shape)
        return {"constant": constant, "constant_quantization": quantization, "constant_first": position == 0}

    def integers(self, position, what):
        """Integers that are operand ``position``: a constant, or what folded operators compute."""
        index = self.op.inputs[position] if position < len(self.op.inputs) else -1
        if index in self.shapes:
            if self.shapes[index] is None:
                raise UnreadableError
            return self.shapes[index]
        tensor = self.constant(position, what, INTEGERS)
        return tensor.data.view(INTEGERS[tensor.dtype]).reshape(tensor.shape)

    def option(self, name, allowed, what):
        """Option ``name``, translated by ``allowed``."""
        if name not in self.op.options:
            self.reject(f"{self.op.code} lacks its options")
        if self.op.options[name] not in allowed:
            self.reject(f"{what}, not {self.op.options[name]}")
        return allowed[self.op.options[name]]

    def same_quantization(self, source, output):
        """Refuse another quantisation behind an operator that only copies or averages numbers."""
        if source.quantization != output.quantization:
            self.refuse(f"must keep its quantisation {source.quantization}, not make {output.quantization}")

    # Fields of rows

    def activation(self, output):
        """``activation`` and ``clamp``.

        Source: CalculateActivationRangeQuantized, tensorflow/lite/kernels/kernel_util.cc.
        """
        activation = self.option("FusedActivationFunction", ACTIVATIONS, "activation must be NONE, RELU or RELU6")
        low, high = LIMITS["int8"]
        scale, zero_point = np.float32(output.quantization.scale), output.quantization.zero_point
        if activation != "none":
            low = max(low, zero_point)
        if activation == "relu6":
            with np.errstate(over="ignore"):
                six = float(np.float32(6) / scale)
            # From 255 on the sum is beyond int8 whatever the zero point.
            high = min(high, zero_point + math.floor(min(six, 255) + 0.5))
        return {"activation": activation, "clamp": (low, high)}

    def window(self, source, output, kernel, *, any_stride_to_one=False):
        """``kernel``, ``stride`` and ``padding``, explicit.

        ``any_stride_to_one`` allows any stride in a direction whose output has size 1, where no step is taken.
        """
        if len(source.shape) != 3 or len(output.shape) != 3:
            self.reject(f"needs (height, width, channels) in and out, not {source.shape} to {output.shape}")
        if not all(1 <= k <= MAX_KERNEL for k in kernel):
            self.reject(f"kernel must be 1x1 to {MAX_KERNEL}x{MAX_KERNEL}, not {kernel[0]}x{kernel[1]}")
        scheme = self.option("Padding", PADDINGS, "padding must be SAME or VALID")
        stride = self.op.options["StrideH"], self.op.options["StrideW"]
        padding, expected = [], []
        for size, k, step, made in zip(source.shape, kernel, stride, output.shape, strict=False):
            if not (1 <= step <= 2 or (any_stride_to_one and made == 1 <= step)):
                self.reject(f"stride must be 1 or 2, not {step}")
            if scheme == "SAME":
                steps = -(-size // step)
                total = max((steps - 1) * step + k - size, 0)
            else:
                steps, total = (size - k) // step + 1, 0
            padding += [total // 2, total - total // 2]
            expected.append(steps)
        if output.shape[:2] != tuple(expected):
            self.reject(f"output must be {expected[0]}x{expected[1]}, not {output.shape[0]}x{output.shape[1]}")
        return {"kernel": tuple(kernel), "stride": stride, "padding": tuple(padding)}

    def weights(self, source, channels, rank, axis):
        """``weights`` in the file's layout, ``bias`` and ``weight_scales``; ``axis`` counts the output channels."""
        tensor = self.constant(1, "weights", {"INT8": np.int8})
        if len(tensor.shape) != rank or tensor.shape[axis] != channels:
            self.reject(f"weights must have {rank} dimensions, {channels} in dimension {axis}, not {tensor.shape}")
        scales = self._scales(tensor, "weights", channels)
        if scales.size > 1 and tensor.quantized_dimension != axis:
            self.refuse(f"weight scales must run along dimension {axis}, not {tensor.quantized_dimension}")
        bias = self._bias(channels, np.float64(source.quantization.scale) * scales)
        return {"weights": tensor.data.view(np.int8).reshape(tensor.shape), "bias": bias, "weight_scales": scales}

    def _scales(self, tensor, what, channels):
        """The scales of a symmetric constant: one, or one a channel."""
        scales, zero_points = tensor.scales, tensor.zero_points
        if scales.size not in (1, channels) or zero_points.size != scales.size:
            self.reject(
                f"{what} must have 1 or {channels} scales and as many zero points, "
                f"not {scales.size} and {zero_points.size}"
            )
        bad = scales[~(np.isfinite(scales) & (scales > 0))]
        if bad.size:
            self.reject(f"scales of {what} must be positive and finite, not {bad[0]}")
        if zero_points.any():
            self.refuse(f"zero points of {what} must be 0, not {zero_points[zero_points != 0][0]}")
        return scales.astype(np.float32)

    def _bias(self, channels, expected_scales):
        """The bias, zeros where it is left out.

        The kernels take it for a multiple of input scale times weight scale whatever its own scale says, so a file
        with another does not mean what it computes. Its quantised dimension means nothing: there is but one.
        """
        if len(self.op.inputs) < 3 or self.op.inputs[2] < 0:
            return np.zeros(channels, np.int32)
        tensor = self.constant(2, "bias", {"INT32": np.int32})
        if tensor.shape != (channels,):
            self.reject(f"bias must have shape [{channels}], not {list(tensor.shape)}")
        if tensor.scales.size:
            scales = np.broadcast_to(self._scales(tensor, "bias", channels).astype(np.float64), channels)
            expected = np.broadcast_to(expected_scales, channels)
            wrong = np.abs(scales - expected) > 0.01 * expected
            if wrong.any():
                channel = int(wrong.argmax())
                self.refuse(
                    f"scale of bias {channel} must be input scale times weight scale, {expected[channel]:.6g}, "
                    f"not {scales[channel]:.6g}"
                )
        return tensor.data.view(np.int32).astype(np.int32)


# The operators that become rows: each function returns fields of the row.


def _conv2d(reader, source, output):
    fields = reader.weights(source, output.shape[-1], 4, 0)
    if fields["weights"].shape[3] != source.shape[-1]:
        read = fields["weights"].shape[3]
        groups = "; convolutions in groups are not supported" if source.shape[-1] % read == 0 else ""
        reader.reject(f"weights must read {source.shape[-1]} channels, not {read}{groups}")
    return _convolution(reader, source, output, fields, fields["weights"].shape[1:3])


def _depthwise_conv2d(reader, source, output):
    channels = output.shape[-1]
    if channels % source.shape[-1]:
        reader.reject(f"must make a multiple of its {source.shape[-1]} channels, not {channels}")
    fields = reader.weights(source, channels, 4, 3)
    weights = fields["weights"]
    if weights.shape[0] != 1:
        reader.reject(f"weights must have 1 in dimension 0, not {weights.shape[0]}")
    if source.shape[-1] > 1 or channels == 1:
        fields["weights"] = weights[0]
    else:
        # Many channels of one: the same sums as a convolution's that reads one channel.
        fields |= {"operator": "conv2d", "weights": np.ascontiguousarray(weights.transpose(3, 1, 2, 0))}
    return _convolution(reader, source, output, fields, weights.shape[1:3])


def _convolution(reader, source, output, fields, kernel):
    # The kernels spread a single scale over the channels; only FULLY_CONNECTED rounds it differently.
    fields["weight_scales"] = np.broadcast_to(fields["weight_scales"], output.shape[-1:]).copy()
    fields |= reader.activation(output)
    dilation = reader.op.options["DilationHFactor"], reader.op.options["DilationWFactor"]
    if dilation != (1, 1):
        reader.refuse(f"dilation must be 1, not {max(dilation, key=lambda d: abs(d - 1))}")
    return fields | reader.window(source, output, kernel)


def _fully_connected(reader, source, output):
    fields = reader.weights(source, output.shape[-1], 2, 0)
    read = fields["weights"].shape[1]
    if source.size != read:
        reader.reject(f"weights must read {source.size} values, not {read}")
    if output.size != output.shape[-1]:
        reader.reject(f"must make one vector, not {output.shape}")
    reader.option("WeightsFormat", {0: None}, "weights format must be 0 (default)")
    return fields | reader.activation(output)


def _pool2d(reader, source, output):
    reader.same_quantization(source, output)
    fields = reader.activation(output)
    kernel = reader.op.options["FilterHeight"], reader.op.options["FilterWidth"]
    return fields | reader.window(source, output, kernel, any_stride_to_one=True)


def _elementwise(reader, source, output):
    fields = reader.activation(output)
    if len(reader.sources) == 1:
        fields |= reader.constant_operand(source)
        # Sums and products are the same either way.
        fields["constant_first"] = fields["constant_first"] and reader.op.code == "SUB"
    elif reader.sources[0].shape != reader.sources[1].shape:
        shapes = " and ".join(str(tensor.shape) for tensor in reader.sources)
        reader.reject(f"cannot spread one tensor over another: both must have one shape, not {shapes}")
    _same_shape(reader, source, output)
    return fields


def _concatenation(reader, source, output):
    for tensor in {tensor.quantization: tensor for tensor in reader.sources}.values():
        reader.same_quantization(tensor, output)
    reader.option("FusedActivationFunction", {0: "none"}, "activation must be NONE")
    rank = len(output.shape)
    axis = reader.op.options["Axis"]
    # The file counts the batch, and may count from behind.
    if not (1 <= axis <= rank or -rank <= axis <= -1):
        reader.reject(f"axis must be in 1..{rank} or {-rank}..-1, not {axis}")
    return {"axis": axis - 1 if axis > 0 else axis + rank}


def _mean(reader, source, output):
    axes = reader.integers(1, "axes").flatten()
    if len(source.shape) != 3 or axes.size != 2 or {int(axis) + 4 * (axis < 0) for axis in axes} != {1, 2}:
        reader.reject(f"must average height and width, axes [1, 2], not {axes[:8].tolist()}")
    keep = reader.option("KeepDims", {False: False, True: True}, "keep_dims must be true or false")
    expected = (1, 1, source.shape[-1]) if keep else source.shape[-1:]
    if output.shape != expected:
        reader.reject(f"output must be {expected}, not {output.shape}")
    return {}


def _pad(reader, source, output):
    reader.same_quantization(source, output)
    sides = reader.integers(1, "paddings")
    if len(source.shape) != 3 or sides.shape != (4, 2) or sides[[0, 3]].any() or sides.min() < 0:
        reader.reject("can only add rows and columns to (height, width, channels)")
    padding = tuple(sides[1:3].flatten().tolist())
    expected = source.shape[0] + sum(padding[:2]), source.shape[1] + sum(padding[2:]), source.shape[2]
    if output.shape != expected:
        reader.reject(f"output must be {expected}, not {output.shape}")
    return {"padding": padding}


def _reshape(reader, source, output):
    reader.same_quantization(source, output)
    if len(reader.op.inputs) > 1 and reader.op.inputs[1] >= 0:
        target = reader.integers(1, "the new shape")
    else:
        target = reader.op.options.get("NewShapeAsNumpy")
    # The accessor returns 0 for an absent vector; the file's own shape of the output holds then.
    if isinstance(target, np.ndarray):
        made, target = [1, *output.shape], target.flatten()[:9].tolist()
        fits = len(target) == len(made) and target.count(-1) <= 1
        if not fits or any(size not in (-1, actual) for size, actual in zip(target, made, strict=True)):
            reader.reject(f"makes shape {target}, but its output is {made}")
    return {}


def _softmax(reader, source, output):
    reader.option("Beta", {1.0: None}, "beta must be 1")
    expected = Quantization(1 / 256, -128)
    if output.quantization != expected:
        reader.refuse(f"output must have {expected}, not {output.quantization}")
    _same_shape(reader, source, output)
    # The fixed point sum of exponentials has 12 integer bits, the scaled difference 26 fractional ones.
    if source.shape[-1] >= 2**12:
        reader.refuse(f"takes at most {2**12 - 1} classes, not {source.shape[-1]}")
    if source.quantization.scale <= 2**-26:
        reader.refuse(f"input scale must be above 2**-26, not {source.quantization.scale}")
    return {}


def _quantize(reader, source, output):
    _same_shape(reader, source, output)
    if output.dtype == "float32":
        reader.refuse(f"cannot make float32 of {source.dtype}")
    return {}


def _dequantize(reader, source, output):
    _same_shape(reader, source, output)
    if source.dtype == "float32" or output.dtype != "float32":
        reader.refuse(f"must make float32 of int8 or uint8, not {output.dtype} of {source.dtype}")
    return {}


def _same_shape(reader, source, output):
    if source.shape != output.shape:
        reader.refuse(f"output must be {source.shape}, not {output.shape}")


OPERATORS = {
    "ADD": ("add", _elementwise),
    "AVERAGE_POOL_2D": ("average_pool2d", _pool2d),
    "CONCATENATION": ("concatenation", _concatenation),
    "CONV_2D": ("conv2d", _conv2d),
    "DEPTHWISE_CONV_2D": ("depthwise_conv2d", _depthwise_conv2d),
    "DEQUANTIZE": ("dequantize", _dequantize),
    "FULLY_CONNECTED": ("fully_connected", _fully_connected),
    "MAX_POOL_2D": ("max_pool2d", _pool2d),
    "MEAN": ("mean", _mean),
    "MUL": ("mul", _elementwise),
    "PAD": ("pad", _pad),
    "QUANTIZE": ("quantize", _quantize),
    "RESHAPE": ("reshape", _reshape),
    "SOFTMAX": ("softmax", _softmax),
    "SUB": ("sub", _elementwise),
}


# The operators that compute the shape of a RESHAPE: each function returns the integers they make.


def _shape(reader):
    tensor = reader.graph.tensors[reader.op.inputs[0]]
    return np.array(tensor.shape, np.int64)


def _strided_slice(reader):
    source, *limits = (reader.integers(i, what) for i, what in enumerate(("input", "begin", "end", "strides")))
    if source.ndim != 1 or any(limit.shape != (1,) for limit in limits):
        reader.reject("is supported on the result of SHAPE only")
    flags = {0: False, 1: True}
    names = ("BeginMask", "EndMask", "ShrinkAxisMask", "EllipsisMask", "NewAxisMask")
    from_start, to_end, shrink, *others = (reader.option(name, flags, f"{name} must be 0 or 1") for name in names)
    begin, end, step = (int(limit[0]) for limit in limits)
    if any(others) or (from_start and shrink) or step == 0:
        reader.reject("must take plain elements of a shape")
    if not shrink:
        return source[None if from_start else begin : None if to_end else end : step]
    if not -source.size <= begin < source.size:
        reader.reject(f"begin must lie in a shape of {source.size} sizes, not {begin}")
    return source[begin]


def _pack(reader):
    values = [reader.integers(i, "values") for i in range(len(reader.op.inputs))]
    if not 1 <= len(values) <= 8 or any(np.ndim(value) for value in values):
        reader.reject("is supported for the sizes of a shape only")
    return np.array([int(value) for value in values])


SHAPE_OPERATORS = {"PACK": _pack, "SHAPE": _shape, "STRIDED_SLICE": _strided_slice}
