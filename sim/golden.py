"""The golden model: every tensor of a layer table, bit for bit what TensorFlow Lite's reference kernels compute.

Plain integer NumPy over whole tensors. It shares no arithmetic with the hardware, and is itself held against LiteRT's
reference kernels, tensor by tensor. Shapes leave out the batch, as in :mod:`gen.table`.

Accumulators are computed without wrap-around. The kernels hold them in int32, so a layer whose worst case leaves int32
must be refused before it gets here.
"""

import numpy as np

from gen.table import WEIGHTED, TableError

__all__ = [
    "ADDITION_SHIFT",
    "accumulators",
    "addition_multipliers",
    "addition_scales",
    "effective_scales",
    "layer_multipliers",
    "multiply_by_quantized_multiplier",
    "operand_quantizations",
    "quantize_multiplier",
    "run",
    "run_layer",
]

INT32_MAX = 2**31 - 1

#: Bits that the operands of ``add`` and ``sub`` are shifted left by before they are brought to one scale.
ADDITION_SHIFT = 20


def quantize_multiplier(real):
    """Split ``real`` into ``(m, shift)`` with ``real ~ m * 2**(shift - 31)`` and ``2**30 <= m < 2**31``.

    A value below 2**-32 becomes (0, 0), as does 0. Takes one number and returns two ints, or an array and returns
    two int64 arrays of its shape.

    Source: QuantizeMultiplier, tensorflow/lite/kernels/internal/quantization_util.cc.
    """
    fraction, shift = np.frexp(np.asarray(real, np.float64))
    # The fraction has 53 bits, so adding one half is exact: this rounds half away from zero.
    m = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    shift = shift.astype(np.int64)
    carried = m == 2**31
    m, shift = np.where(carried, 2**30, m), shift + carried
    vanished = shift < -31
    m, shift = np.where(vanished, 0, m), np.where(vanished, 0, shift)
    return (m, shift) if m.ndim else (int(m), int(shift))


def multiply_by_quantized_multiplier(x, m, shift):
    """``x * m * 2**(shift - 31)``, rounded twice: half up at bit 31, then half away from zero at bit ``-shift``.

    ``x`` holds int32 values that stay in int32 when shifted left by a positive ``shift``; ``0 <= m < 2**31``;
    ``shift >= -31``. The three broadcast; the result is int64.

    Source: MultiplyByQuantizedMultiplier (double rounding), tensorflow/lite/kernels/internal/common.h; the closed form
    of gemmlowp's SaturatingRoundingDoublingHighMul followed by RoundingDivideByPOT.
    """
    x, m, shift = (np.asarray(value, np.int64) for value in (x, m, shift))
    return _rounding_shift_right(_high_multiply(x << np.maximum(shift, 0), m), np.maximum(-shift, 0))


def _high_multiply(a, b):
    """``round(a * b / 2**31)``, ties upwards: gemmlowp's SaturatingRoundingDoublingHighMul where nothing saturates."""
    return (a * b + 2**30) >> 31


def _rounding_shift_right(x, exponent):
    """``round(x / 2**exponent)``, ties away from zero: gemmlowp's RoundingDivideByPOT."""
    half = (1 << np.asarray(exponent, np.int64)) >> 1
    return (x + half - ((x < 0) & (half > 0))) >> exponent


def effective_scales(table, layer):
    """Real factor from accumulator to output: float64, (C_out,) of a weighted layer, (1,) of a ``mul``.

    A fully connected layer with one weight scale multiplies the two scales in float32, every other weighted layer in
    double. A ``mul`` both multiplies and divides in float32.

    Source: PopulateConvolutionQuantizationParams and GetQuantizedConvolutionMultipler,
    tensorflow/lite/kernels/kernel_util.cc; Prepare, tensorflow/lite/kernels/mul.cc.
    """
    if layer.operator == "mul":
        first, second = (np.float32(operand.scale) for operand in operand_quantizations(table, layer))
        return np.array([first * second / np.float32(layer.output.quantization.scale)], np.float64)
    source = np.float32(table.source(layer).quantization.scale)
    scales = layer.weight_scales
    if layer.operator == "fully_connected" and scales.size == 1:
        product = np.float64(source * scales)
    else:
        product = np.float64(source) * scales.astype(np.float64)
    return np.broadcast_to(product / np.float64(layer.output.quantization.scale), layer.output.shape[-1:])


def layer_multipliers(table, layer):
    """Quantised multipliers and shifts that bring a layer's accumulators to its output: two int64 arrays.

    (C_out,) for the weighted operators, (1,) for ``mul``, whose accumulators are the products of its operands, and
    (1,) for ``mean``, whose multiplier holds the division by the number of pixels N: with (m, shift) for s_in / s_out
    and k = min(floor(log2 N), 32, 31 + shift) it is ((m << k) / N, shift - k).

    Source: QuantizedMeanOrSum, tensorflow/lite/kernels/internal/reference/reduce.h.

    Raises
    ------
    TableError
        If the layer's operator has no multipliers.
    """
    if layer.operator in (*WEIGHTED, "mul"):
        return quantize_multiplier(effective_scales(table, layer))
    if layer.operator != "mean":
        raise TableError(f"{layer.name}: a {layer.operator} has no multipliers")
    source = table.source(layer)
    m, shift = quantize_multiplier(source.quantization.scale / layer.output.quantization.scale)
    pixels = source.size // source.shape[-1]
    k = min(pixels.bit_length() - 1, 32, 31 + shift)
    return np.array([(m << k) // pixels]), np.array([shift - k])


def operand_quantizations(table, layer):
    """Quantisations of the two operands of an ``add``, ``sub`` or ``mul``, in order."""
    quantizations = [source.quantization for source in table.sources(layer)]
    if layer.constant is not None:
        quantizations.insert(0 if layer.constant_first else 1, layer.constant_quantization)
    return quantizations


def addition_scales(table, layer):
    """Real factors of an ``add`` or ``sub``: of its first operand, its second, and of their sum; float64 (3,).

    With t twice the operands' greater scale they are s_1 / t, s_2 / t and t / (2**20 * s_out), t and the last
    denominator in float32, the quotients in double. The kernels take only factors in 0..1, both ends left out.

    Source: Prepare, tensorflow/lite/kernels/add.cc; PrepareGeneralSubOp, tensorflow/lite/kernels/sub.cc.
    """
    first, second = (np.float32(operand.scale) for operand in operand_quantizations(table, layer))
    with np.errstate(over="ignore"):
        twice = np.float64(np.float32(2) * max(first, second))
        total = np.float64(np.float32(2**ADDITION_SHIFT) * np.float32(layer.output.quantization.scale))
    return np.array([first / twice, second / twice, twice / total])


def addition_multipliers(table, layer):
    """Quantised multipliers and shifts of :func:`addition_scales`: two int64 arrays (3,)."""
    return quantize_multiplier(addition_scales(table, layer))


def accumulators(table, layer, x):
    """Sums of a weighted layer before requantisation, bias included: int64 of the output's shape.

    ``bias + sum w * (x - z_in)``; a padded position contributes nothing.
    """
    x = x.astype(np.int32) - table.source(layer).quantization.zero_point
    weights = layer.weights
    if layer.operator == "fully_connected":
        sums = _exact_matmul(x.reshape(1, -1), weights.T)
    elif layer.operator == "conv2d":
        # (rows, columns, C_in, kernel height, kernel width) to one matrix row a pixel, in the order of the weights.
        patches = _windows(x, layer).transpose(0, 1, 3, 4, 2).reshape(-1, weights[0].size)
        sums = _exact_matmul(patches, weights.reshape(len(weights), -1).T)
    else:
        windows = _windows(x, layer)
        multiplier = layer.output.shape[-1] // x.shape[-1]
        sums = np.zeros(layer.output.shape, np.int64)
        for row, column in np.ndindex(layer.kernel):
            read = np.repeat(windows[..., row, column], multiplier, axis=-1)
            sums += read * weights[row, column].astype(np.int32)
    return sums.reshape(layer.output.shape) + layer.bias


def _exact_matmul(a, b):
    """Matrix product of integers no wider than 10 bits, int64.

    It runs in float64, where BLAS is fast and, in any order of summation, exact: up to 2**33 products of 10 by 10 bits
    sum to less than 2**53.
    """
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def _windows(x, layer, fill=0):
    """The windows that ``layer`` sees of ``x`` amid ``fill``: (rows, columns, C, kernel height, kernel width)."""
    top, bottom, left, right = layer.padding
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, layer.kernel, axis=(0, 1))
    return windows[:: layer.stride[0], :: layer.stride[1]]


def run_layer(table, layer, *inputs):
    """The tensor that ``layer`` of ``table`` makes of ``inputs``, in the output's own shape and element type."""
    return OPERATORS[layer.operator](table, layer, *inputs).astype(layer.output.dtype).reshape(layer.output.shape)


def run(table, inputs):
    """Run a network: every tensor by name, the inputs included.

    Parameters
    ----------
    table : Table
    inputs : dict of str to array
        One array per table input, in its own shape and element type.

    Raises
    ------
    ValueError
        If an input is missing or unknown, has another shape or element type, or holds a float that is not finite.
    """
    if inputs.keys() != table.inputs.keys():
        raise ValueError(f"{table.name}: inputs must be {', '.join(table.inputs)}, not {', '.join(inputs) or 'none'}")
    tensors = {}
    for name, expected in table.inputs.items():
        x = np.asarray(inputs[name])
        if x.shape != expected.shape or x.dtype != expected.dtype:
            raise ValueError(
                f"{table.name}: input {name} must be {expected.dtype} {expected.shape}, not {x.dtype} {x.shape}"
            )
        if not np.isfinite(x).all():
            raise ValueError(f"{table.name}: input {name} must be finite")
        tensors[name] = x
    for layer in table.layers:
        tensors[layer.name] = run_layer(table, layer, *(tensors[name] for name in layer.inputs))
    return tensors


def _weighted(table, layer, x):
    return _requantize(layer, accumulators(table, layer, x), *layer_multipliers(table, layer))


def _requantize(layer, sums, m, shift):
    scaled = multiply_by_quantized_multiplier(sums, m, shift) + layer.output.quantization.zero_point
    return np.clip(scaled, *layer.clamp)


def _average_pool2d(table, layer, x):
    """Rounded mean of the raw int8 values that lie inside the feature map; the scale stays."""
    sums = _windows(x.astype(np.int64), layer).sum(axis=(-2, -1))
    counts = _windows(np.ones((*x.shape[:2], 1), np.int64), layer).sum(axis=(-2, -1))
    # C++ division truncates: round the magnitude, then put the sign back.
    means = np.sign(sums) * ((np.abs(sums) + counts // 2) // counts)
    return np.clip(means, *layer.clamp)


def _max_pool2d(table, layer, x):
    """Greatest value of each window; a padded position is the least int8, so it never wins."""
    return np.clip(_windows(x, layer, fill=-128).max(axis=(-2, -1)), *layer.clamp)


def _mean(table, layer, x):
    pixels = x.reshape(-1, x.shape[-1]).astype(np.int64)
    sums = pixels.sum(axis=0) - len(pixels) * table.source(layer).quantization.zero_point
    return _requantize(layer, sums, *layer_multipliers(table, layer))


def _operands(table, layer, inputs):
    """Both operands less their zero points, in order: two int64 arrays."""
    values = list(inputs)
    if layer.constant is not None:
        values.insert(0 if layer.constant_first else 1, layer.constant)
    pairs = zip(values, operand_quantizations(table, layer), strict=True)
    return [value.astype(np.int64) - quantization.zero_point for value, quantization in pairs]


def _add(table, layer, *inputs):
    """Sum or difference of both operands, shifted left and brought to twice the greater scale, then to the output's.

    A shifted operand stays below 2**28 and is at least halved, so nothing leaves int32.

    Source: AddFunc, tensorflow/lite/kernels/internal/reference/integer_ops/add.h; SubElementwise, .../reference/sub.h.
    """
    m, shift = addition_multipliers(table, layer)
    first, second = (
        multiply_by_quantized_multiplier(x << ADDITION_SHIFT, m[i], shift[i])
        for i, x in enumerate(_operands(table, layer, inputs))
    )
    return _requantize(layer, first + second if layer.operator == "add" else first - second, m[2], shift[2])


def _mul(table, layer, *inputs):
    """Product of both operands, rescaled.

    Source: MulElementwise, tensorflow/lite/kernels/internal/reference/integer_ops/mul.h.
    """
    first, second = _operands(table, layer, inputs)
    return _requantize(layer, first * second, *layer_multipliers(table, layer))


def _concatenation(table, layer, *inputs):
    return np.concatenate(inputs, axis=layer.axis)


def _pad(table, layer, x):
    top, bottom, left, right = layer.padding
    fill = layer.output.quantization.zero_point
    return np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=fill)


def _reshape(table, layer, x):
    return x


def _quantize(table, layer, x):
    """To another quantisation, from an integer type by multiplier and shift, from float32 by a float32 division.

    A quotient beyond int32, whose conversion C++ leaves undefined, saturates.
    """
    source, to = table.source(layer), layer.output
    if source.dtype == "float32":
        with np.errstate(over="ignore"):
            quotient = x / np.float32(to.quantization.scale)
        scaled = np.copysign(np.floor(np.abs(quotient.astype(np.float64)) + 0.5), quotient)
    else:
        multiplier = quantize_multiplier(source.quantization.scale / to.quantization.scale)
        scaled = multiply_by_quantized_multiplier(x.astype(np.int64) - source.quantization.zero_point, *multiplier)
    limits = np.iinfo(to.dtype)
    return np.clip(scaled + to.quantization.zero_point, limits.min, limits.max)


def _dequantize(table, layer, x):
    quantization = table.source(layer).quantization
    return quantization.scale * (x.astype(np.float64) - quantization.zero_point)


def _softmax(table, layer, x):
    """Softmax with beta 1 over the last axis, in gemmlowp's fixed point.

    Differences to the greatest logit are Q5.26, exponentials Q0.31, their sum Q12.19. The output's scale is 1/256 and
    its zero point -128.

    LiteRT 1.2.0 aborts where the exponentials sum to 512 or more, gemmlowp's shift being 31 bits at most; here the
    same rule goes on to the 4095 that the sum can hold.

    Source: Softmax, tensorflow/lite/kernels/internal/reference/softmax.h, and gemmlowp/fixedpoint/fixedpoint.h.
    """
    source = table.source(layer)
    if (source.dtype, layer.output.dtype) != ("int8", "int8"):
        raise TableError(f"{layer.name}: softmax runs on int8 tensors only, not {source.dtype} to {layer.output.dtype}")
    if x.shape[-1] >= 2**12:
        raise TableError(f"{layer.name}: softmax takes at most {2**12 - 1} classes, not {x.shape[-1]}")
    if source.quantization.scale <= 2.0**-26:
        raise TableError(f"{layer.name}: softmax needs an input scale above 2**-26, not {source.quantization.scale}")
    m, shift = quantize_multiplier(source.quantization.scale * 2.0**26)
    radius = (31 << 26) >> shift
    differences = x.astype(np.int64) - x.max(axis=-1, keepdims=True)
    near = differences >= -radius
    exponentials = _exp_of_negative(_high_multiply(np.where(near, differences, 0) << shift, m))
    sums = np.where(near, _rounding_shift_right(exponentials, 12), 0).sum(axis=-1, keepdims=True)
    bits = np.frexp(sums)[1].astype(np.int64)  # position of the leading one: sums fit float64 exactly
    reciprocals = _reciprocal_of_one_plus((sums << (32 - bits)) - 2**31)
    outputs = _rounding_shift_right(_high_multiply(reciprocals, exponentials), bits + 3)
    return np.clip(np.where(near, outputs, 0) - 128, -128, 127)


def _exp_of_negative(x):
    """exp(x) in Q0.31 for Q5.26 ``x`` in (-32, 0]: a quarter's Taylor series around -1/8, then a barrel of factors."""
    quarter = 2**24
    fraction = (x & (quarter - 1)) - quarter
    remainder = fraction - x
    t = (fraction << 5) + 2**28
    t2 = _high_multiply(t, t)
    t3 = _high_multiply(t2, t)
    t4 = _high_multiply(t2, t2)
    third = 715827883
    series = _rounding_shift_right(_high_multiply(_rounding_shift_right(t4, 2) + t3, third) + t2, 1)
    exp_eighth = 1895147668
    result = exp_eighth + _high_multiply(exp_eighth, t + series)
    # exp(-1/4), exp(-1/2), exp(-1), ... exp(-16) in Q0.31
    factors = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    for position, factor in enumerate(factors, start=24):
        result = np.where((remainder >> position) & 1, _high_multiply(result, factor), result)
    return np.where(x == 0, INT32_MAX, result)


def _reciprocal_of_one_plus(x):
    """1 / (1 + x) in Q0.31 for Q0.31 ``x`` in [0, 1): three Newton-Raphson steps on half the denominator, in Q2.29.

    The steps are below 1/5, so only the result can saturate.
    """
    half = (x + INT32_MAX + 1) >> 1
    estimate = 1515870810 + _high_multiply(half, -1010580540)  # 48/17 - 32/17 * half
    for _ in range(3):
        error = 2**29 - _high_multiply(half, estimate)
        estimate += _high_multiply(estimate, error) << 2
    return np.minimum(estimate << 1, INT32_MAX)


OPERATORS = {
    "conv2d": _weighted,
    "depthwise_conv2d": _weighted,
    "fully_connected": _weighted,
    "average_pool2d": _average_pool2d,
    "max_pool2d": _max_pool2d,
    "mean": _mean,
    "add": _add,
    "sub": _add,
    "mul": _mul,
    "concatenation": _concatenation,
    "pad": _pad,
    "reshape": _reshape,
    "softmax": _softmax,
    "quantize": _quantize,
    "dequantize": _dequantize,
}
