"""Random networks that reach the corners of the int8 arithmetic: a table and an input from a seeded generator.

They witness what trained networks hardly ever do: shifts from -31 to +2, both clamp ends, weights of -128, biases up to
2**30, every zero point, sizes down to 1x1, kernels that are not square, paddings of every kind, tensors that several
layers read. No accumulator, and no accumulator shifted left, leaves int32, so the hardware and TFLite's kernels agree
on every one.
"""

from dataclasses import dataclass, replace

import numpy as np
from tflite_writer import activation_clamp, same_padding

from gen.table import Layer, Quantization, Table, TensorType
from sim.golden import quantize_multiplier

#: What a chain may hold, in an order that makes sense: at the input, in between, behind a pool, at the output.
INPUT_KINDS = ("quantize_input",)
FEATURE_KINDS = (
    "conv2d",
    "depthwise_conv2d",
    "pointwise",
    "pad",
    "average_pool2d",
    "quantize",
    "depthwise_multiplier",
    "max_pool2d",
    "residual",
    "elementwise",
    "constant_operand",
    "concatenation",
)
POOL_KINDS = ("global_average_pool", "mean", "global_max_pool")
VECTOR_KINDS = ("reshape", "fully_connected")
OUTPUT_KINDS = ("softmax", "dequantize", "quantize_output")
KINDS = INPUT_KINDS + FEATURE_KINDS + POOL_KINDS + VECTOR_KINDS + OUTPUT_KINDS
#: Those that a chain holds only where it is given.
GIVEN_KINDS = ("flat_input", "sum_of_tensors", "channel_constant", "branch")
#: Those that no engine runs yet.
AWAITING_ENGINES = (
    "depthwise_multiplier",
    "max_pool2d",
    "residual",
    "elementwise",
    "constant_operand",
    "concatenation",
    "global_max_pool",
)
#: Those that run in the accelerator.
CORE_KINDS = tuple(kind for kind in KINDS if kind not in (*INPUT_KINDS, "quantize", *OUTPUT_KINDS, *AWAITING_ENGINES))

INT32_MAX = 2**31 - 1


def random_table(
    rng,
    *,
    chain=None,
    kinds=KINDS,
    layers=4,
    kernels=((1, 1), (2, 2), (3, 3), (5, 5), (1, 3), (3, 1), (2, 5), (4, 3)),
    strides=((1, 1), (2, 2)),
    paddings=("same", "valid", "pad"),
    activations=("none", "relu", "relu6"),
    max_size=13,
    max_channels=40,
    outputs=1,
    name="random",
):
    """A network of random shapes and numbers; the same generator state and options make the same network.

    Parameters
    ----------
    rng : numpy.random.Generator
    chain : sequence of str or None
        The kinds of layer, first to last; None makes :func:`random_chain` choose.
    kinds : sequence of str
        Kinds that a chosen chain may hold, of :data:`KINDS`. Besides operators: ``pointwise``, a 1x1 convolution;
        ``global_average_pool`` and ``global_max_pool``, over all of the feature map; ``depthwise_multiplier``, a
        depthwise convolution into two or three times the channels; ``residual``, an ADD of a tensor and what one or
        two layers make of it; ``elementwise``, an ADD, SUB or MUL with any earlier tensor of the same shape;
        ``constant_operand``, one with a constant; ``quantize_input`` from uint8 or float32, ``quantize_output`` to
        uint8. A given chain may also hold ``flat_input``, first, an input that comes as a vector and is reshaped;
        ``sum_of_tensors``, an ADD or SUB with an earlier tensor or another input; ``channel_constant``, a constant
        operand that is one value or one a channel; ``branch``: what follows reads an earlier tensor.
    layers : int
        Feature map layers of a chosen chain, pools and classifier not counted.
    kernels, strides : sequence of (int, int)
        Windows (of convolutions other than pointwise, and pools) and steps to draw from. A kernel that does not fit
        the feature map is padded with SAME.
    paddings : sequence of str
        ``same``, ``valid``, or ``pad``: a pad layer of random sides, then VALID.
    activations : sequence of str
        Fused activations to draw from.
    max_size : int
        Greatest height and width of the input.
    max_channels : int
        Greatest number of channels of any tensor but a concatenation's or depthwise multiplier's.
    outputs : int
        Greatest number of outputs: the last layer's tensor and others.
    name : str
        The table's name.
    """
    if chain is None:
        chain = random_chain(rng, kinds=kinds, layers=layers)
    network = _Network(rng, kernels, strides, paddings, activations, max_channels)
    sizes = rng.integers(1, max_size + 1, 2)
    network.begin((int(sizes[0]), int(sizes[1]), network.channels()), quantized=chain[0] != "quantize_input")
    for kind in chain:
        getattr(network, kind)()
    names = [layer.name for layer in network.layers]
    chosen = names[-1:]
    if outputs > 1:
        others = rng.choice(len(names) - 1, min(outputs, len(names)) - 1, replace=False) if len(names) > 1 else ()
        chosen = [str(name) for name in rng.permutation([*chosen, *(names[i] for i in others)])]
    return Table(name, network.inputs, tuple(network.layers), tuple(chosen))


def random_chain(rng, *, kinds=KINDS, layers=4):
    """A sequence of ``layers`` feature map kinds, with or without something before and behind them."""

    def maybe(group):
        allowed = [kind for kind in group if kind in kinds]
        return [str(rng.choice(allowed))] if allowed and rng.random() < 0.5 else []

    feature_kinds = [kind for kind in FEATURE_KINDS if kind in kinds]
    features = [str(rng.choice(feature_kinds)) for _ in range(layers)]
    vectors = [kind for kind in VECTOR_KINDS if kind in kinds and rng.random() < 0.5]
    softmax = maybe(["softmax"])
    chain = maybe(INPUT_KINDS) + features + maybe(POOL_KINDS) + vectors + softmax + maybe(OUTPUT_KINDS[1:])
    return tuple(chain)


def mobilenet_chain(rng, blocks):
    """The kinds of a network like MobileNetV1 with ``blocks`` depthwise separable blocks, classifier included."""
    pool = str(rng.choice(["global_average_pool", "mean"]))
    return ("conv2d", *("depthwise_conv2d", "pointwise") * blocks, pool, "fully_connected")


def random_input(rng, table):
    """An input for ``table`` that reaches both ends of every element type: a dict for ``sim.golden.run``."""
    return {name: _random_tensor(rng, tensor) for name, tensor in table.inputs.items()}


def _random_tensor(rng, tensor):
    if tensor.dtype == "float32":
        steps = rng.uniform(-200, 200, tensor.shape)
        # Halves are ties: they tell how the quantiser rounds.
        steps = np.where(rng.random(tensor.shape) < 0.3, np.floor(steps) + 0.5, steps)
        return (steps * tensor.quantization.scale if tensor.quantization else steps).astype(np.float32)
    limits = np.iinfo(tensor.dtype)
    x = rng.integers(limits.min, limits.max + 1, tensor.shape)
    ends = rng.choice([limits.min, limits.max], tensor.shape)
    # A mostly saturated input drives accumulators to their ends, a mixed one exercises everything between.
    return np.where(rng.random(tensor.shape) < rng.choice([0, 0.1, 1], p=[0.5, 0.3, 0.2]), ends, x).astype(tensor.dtype)


@dataclass
class _Network:
    """A network in the making; each method named like a kind adds that layer behind the last."""

    rng: np.random.Generator
    kernels: tuple
    strides: tuple
    paddings: tuple
    activations: tuple
    max_channels: int

    def begin(self, shape, *, quantized):
        self.layers = []
        dtype = "int8" if quantized else self.pick(["uint8", "float32"])
        quantization = None if dtype == "float32" else self.quantization()
        if dtype == "uint8":
            quantization = replace(quantization, zero_point=quantization.zero_point + 128)
        self.name, self.type = "input", TensorType(shape, dtype, quantization)
        self.inputs = {self.name: self.type}
        self.made = dict(self.inputs) if quantized else {}

    def pick(self, choices, p=None):
        return choices[self.rng.choice(len(choices), p=p)]

    def channels(self):
        """A number of channels, the awkward small ones more often than not."""
        return int(
            self.rng.integers(1, self.rng.choice([4, 9, 17, self.max_channels + 1]).clip(2, self.max_channels + 1))
        )

    def quantization(self, activation="none"):
        """Scale and zero point of a tensor behind ``activation``: as trained networks have them, or extreme."""
        typical = -128 if activation != "none" else int(self.rng.integers(-30, 31))
        zero_point = self.pick([typical, -128, 127, 0, int(self.rng.integers(-128, 128))], [0.6, 0.1, 0.05, 0.1, 0.15])
        exponent = self.rng.uniform(-12, 4) if self.rng.random() < 0.4 else self.rng.uniform(-7, -3)
        return Quantization(float(np.float32(2.0**exponent)), zero_point)

    def add(self, operator, shape, quantization, **fields):
        """Append a layer called after its operator and its place."""
        layer = Layer(
            f"{operator}_{len(self.layers)}",
            operator,
            tuple(fields.pop("inputs", (self.name,))),
            TensorType(tuple(int(size) for size in shape), fields.pop("dtype", "int8"), quantization),
            **fields,
        )
        self.layers.append(layer)
        self.name, self.type = layer.name, layer.output
        if layer.output.dtype == "int8":
            self.made[self.name] = self.type

    def window(self, kernels=None):
        """Geometry of a layer with a window, as Layer's fields, and its output's height and width.

        With padding ``pad`` a pad layer comes first.
        """
        size = self.type.shape[:2]
        kernel, stride = self.pick(kernels or self.kernels), self.pick(self.strides)
        padding = self.pick(self.paddings)
        if padding == "pad":
            room = [max(k - length, 0) for k, length in zip(kernel, size, strict=True)]
            first = self.rng.integers(0, np.array(kernel) // 2 + 2)
            last = np.maximum(self.rng.integers(0, np.array(kernel) // 2 + 2), room)
            self.pad((int(first[0]), int(last[0]), int(first[1]), int(last[1])))
            size = self.type.shape[:2]
        fits = all(k <= length for k, length in zip(kernel, size, strict=True))
        sides = same_padding(size, kernel, stride) if padding == "same" or not fits else (0, 0, 0, 0)
        height, width = size[0] + sum(sides[:2]), size[1] + sum(sides[2:])
        shape = (height - kernel[0]) // stride[0] + 1, (width - kernel[1]) // stride[1] + 1
        return {"kernel": kernel, "stride": stride, "padding": sides}, shape

    def weighted(self, operator, shape, weights_shape, axis, quantization=None, **fields):
        """Append a convolution or fully connected layer; ``axis`` of its weights runs over output channels."""
        activation = self.pick(self.activations)
        given, quantization = quantization, quantization or self.quantization(activation)
        if given is None and activation == "relu6" and self.rng.random() < 0.5:
            # A range about as wide as ReLU6's, so that its upper end lies inside int8.
            quantization = replace(quantization, scale=float(np.float32(6 / self.rng.uniform(60, 255))))
        channels = shape[-1]
        single = operator == "fully_connected" and self.rng.random() < 0.5
        moved = [self.filter(weights_shape[:axis] + weights_shape[axis + 1 :]) for _ in range(channels)]
        weights = np.stack(moved, axis=axis)
        ratio = quantization.scale / self.type.quantization.scale
        targets = self.targets(moved)
        scales = np.float32(targets[:1] if single else targets) * np.float32(ratio)
        real = np.broadcast_to(scales.astype(np.float64) / ratio, channels)
        self.add(
            operator,
            shape,
            quantization,
            weights=weights,
            bias=np.array([self.bias(*pair) for pair in zip(moved, real, strict=True)], np.int32),
            weight_scales=scales,
            activation=activation,
            clamp=activation_clamp(activation, quantization),
            **fields,
        )

    def filter(self, shape):
        """The weights of one output channel: spread, at the ends of int8, tiny, or all zero."""
        style = self.pick(["spread", "ends", "tiny", "zero"], [0.6, 0.2, 0.17, 0.03])
        if style == "spread":
            return np.clip(np.rint(self.rng.normal(0, 40, shape)), -128, 127).astype(np.int8)
        choices = {"ends": [-128, -127, 127], "tiny": [-1, 0, 0, 1], "zero": [0]}[style]
        return self.rng.choice(np.array(choices, np.int8), shape)

    def targets(self, filters):
        """An effective scale per channel: mostly one that uses the output's range, else any with shifts -31 to +2."""
        deviations = np.array([75 * np.sqrt((w.astype(np.float64) ** 2).sum() + 1) for w in filters])
        live = self.rng.uniform(5, 150, len(filters)) / deviations
        extreme = 2.0 ** self.rng.uniform(-32, 1.9, len(filters))
        return np.where(self.rng.random(len(filters)) < 0.75, live, extreme)

    def bias(self, weights, scale):
        """A bias that matters at an effective scale of ``scale`` and keeps the accumulator inside int32."""
        zero_point = self.type.quantization.zero_point
        worst = np.abs(weights.astype(np.int64)).sum() * max(127 - zero_point, zero_point + 128)
        limit = min(2**30, (INT32_MAX >> max(quantize_multiplier(scale)[1], 0)) - int(worst))
        if self.rng.random() < 0.05:
            return int(self.pick([-limit, limit]))
        return int(np.clip(np.rint(self.rng.normal(0, 60) / scale), -limit, limit))

    def conv2d(self, kernels=None):
        fields, size = self.window(kernels)
        channels = self.channels()
        self.weighted("conv2d", (*size, channels), (channels, *fields["kernel"], self.type.shape[-1]), axis=0, **fields)

    def pointwise(self, channels=None, quantization=None):
        *size, read = self.type.shape
        channels = channels or self.channels()
        self.weighted("conv2d", (*size, channels), (channels, 1, 1, read), axis=0, quantization=quantization)

    def depthwise_conv2d(self, multiplier=1):
        fields, size = self.window()
        channels = self.type.shape[-1] * multiplier
        self.weighted("depthwise_conv2d", (*size, channels), (*fields["kernel"], channels), axis=2, **fields)

    def depthwise_multiplier(self):
        if self.type.shape[-1] == 1:
            # The importer makes a convolution of such a one.
            self.pointwise(channels=2)
        self.depthwise_conv2d(multiplier=int(self.rng.integers(2, 4)))

    def residual(self):
        skipped = self.name
        *size, channels = self.type.shape
        if self.rng.random() < 0.5:
            kernel = self.pick(self.kernels)
            fields = {"kernel": kernel, "padding": same_padding(size, kernel, (1, 1))}
            self.weighted("depthwise_conv2d", (*size, channels), (*kernel, channels), axis=2, **fields)
        self.pointwise(channels)
        self.combine("add", skipped)

    def elementwise(self):
        fitting = [name for name, tensor in self.made.items() if tensor.shape == self.type.shape]
        self.combine(self.pick(["add", "sub", "mul"]), self.pick(fitting))

    def sum_of_tensors(self):
        fitting = [name for name, tensor in self.made.items() if tensor.shape == self.type.shape]
        if self.rng.random() > 0.85:
            fitting = [f"input_{len(self.inputs)}"]
            self.inputs[fitting[0]] = self.made[fitting[0]] = TensorType(self.type.shape, "int8", self.quantization())
        self.combine(self.pick(["add", "sub"]), self.pick(fitting))

    def branch(self):
        maps = {name: tensor for name, tensor in self.made.items() if len(tensor.shape) == 3}
        self.name = self.pick(list(maps))
        self.type = maps[self.name]

    def flat_input(self):
        shaped = self.type
        self.type = self.inputs[self.name] = replace(shaped, shape=(shaped.size,))
        self.made.pop(self.name)
        self.add("reshape", shaped.shape, shaped.quantization)

    def combine(self, operator, other):
        """Append an elementwise operator on the last tensor and the one called ``other``, in any order."""
        inputs = [(self.name, other), (other, self.name)][self.rng.integers(2)]
        scales = self.type.quantization.scale, self.made[other].quantization.scale
        self.add_elementwise(operator, scales, inputs=inputs)

    def constant_operand(self):
        self.with_constant([(), self.type.shape[-1:], self.type.shape, (self.type.shape[0], 1, 1)])

    def channel_constant(self):
        self.with_constant([(), self.type.shape[-1:]])

    def with_constant(self, shapes):
        """Append an elementwise operator with a constant of one of ``shapes``."""
        operator = self.pick(["add", "sub", "mul"])
        shape = list(self.pick(shapes))
        while shape[:1] == [1]:
            shape.pop(0)
        quantization = self.near() if self.rng.random() < 0.7 else self.quantization()
        self.add_elementwise(
            operator,
            (self.type.quantization.scale, quantization.scale),
            constant=self.rng.integers(-128, 128, shape).astype(np.int8),
            constant_quantization=quantization,
            constant_first=operator == "sub" and bool(self.rng.integers(2)),
        )

    def add_elementwise(self, operator, scales, **fields):
        """Append an ``operator`` on operands of these scales: mostly one whose output uses its range, else extreme."""
        activation = self.pick(self.activations)
        # How far outputs reach in units of whole, and the exponents that keep multipliers and int32 in bounds.
        whole, typical, extreme = {
            "add": (max(scales), (-1, 2), (-18.9, 12)),
            "sub": (max(scales), (-1, 2), (-18.9, 12)),
            "mul": (scales[0] * scales[1], (4, 8), (-14.9, 33)),
        }[operator]
        exponent = self.rng.uniform(*typical) if self.rng.random() < 0.75 else self.rng.uniform(*extreme)
        # LiteRT takes no ReLU6 whose upper end leaves int32.
        scale = max(whole * 2.0**exponent, 2.0**-28 if activation == "relu6" else 0)
        quantization = replace(self.quantization(activation), scale=float(np.float32(scale)))
        clamp = activation_clamp(activation, quantization)
        self.add(operator, self.type.shape, quantization, activation=activation, clamp=clamp, **fields)

    def concatenation(self):
        base, (name, tensor) = (self.name, self.type), (self.name, self.type)
        axis = int(self.rng.integers(3))
        parts = [name]
        for _ in range(self.rng.integers(1, 3)):
            self.name, self.type = base
            if self.rng.random() < 0.8:
                self.pointwise(None if axis == 2 else tensor.shape[2], tensor.quantization)
            if axis < 2 and self.rng.random() < 0.5:
                sides = [0, 0, 0, 0]
                sides[2 * axis + self.rng.integers(2)] = int(self.rng.integers(1, 4))
                self.pad(sides)
            parts.append(self.name)
        parts = [parts[i] for i in self.rng.permutation(len(parts))]
        shape = list(tensor.shape)
        shape[axis] = sum(self.made[part].shape[axis] for part in parts)
        self.add("concatenation", shape, tensor.quantization, inputs=parts, axis=axis)

    def fully_connected(self):
        channels = self.channels()
        self.weighted("fully_connected", (channels,), (channels, self.type.size), axis=0)

    def average_pool2d(self):
        self.pool("average_pool2d", *self.window())

    def max_pool2d(self):
        self.pool("max_pool2d", *self.window())

    def global_average_pool(self):
        self.pool("average_pool2d", {"kernel": self.type.shape[:2]}, (1, 1))

    def global_max_pool(self):
        self.pool("max_pool2d", {"kernel": self.type.shape[:2]}, (1, 1))

    def pool(self, operator, fields, size):
        activation, quantization = self.pick(self.activations), self.type.quantization
        clamp = activation_clamp(activation, quantization)
        self.add(operator, (*size, self.type.shape[-1]), quantization, activation=activation, clamp=clamp, **fields)

    def mean(self):
        channels = self.type.shape[-1]
        quantization = self.type.quantization if self.rng.random() < 0.3 else self.near()
        self.add("mean", self.pick([(channels,), (1, 1, channels)]), quantization)

    def near(self):
        """A quantisation whose scale is up to 8 times coarser or 4 times finer than the last tensor's."""
        scale = self.type.quantization.scale * 2.0 ** self.rng.uniform(-2, 3)
        return replace(self.quantization(), scale=float(np.float32(scale)))

    def pad(self, sides=None):
        top, bottom, left, right = sides or (int(side) for side in self.rng.integers(0, 4, 4))
        height, width, channels = self.type.shape
        shape = (height + top + bottom, width + left + right, channels)
        self.add("pad", shape, self.type.quantization, padding=(top, bottom, left, right))

    def reshape(self):
        self.add("reshape", (self.type.size,), self.type.quantization)

    def quantize_input(self):
        quantization = self.near() if self.type.quantization else self.quantization()
        self.add("quantize", self.type.shape, quantization)

    def quantize(self):
        self.add("quantize", self.type.shape, self.near())

    def quantize_output(self):
        quantization = self.near()
        quantization = replace(quantization, zero_point=quantization.zero_point + 128)
        self.add("quantize", self.type.shape, quantization, dtype="uint8")

    def softmax(self):
        if self.type.shape[-1] >= 512 or self.type.quantization.scale <= 2**-26:
            # LiteRT 1.2.0 aborts where exponentials sum to 512 or more, and takes no finer scale.
            self.fully_connected()
        self.add("softmax", self.type.shape, Quantization(1 / 256, -128))

    def dequantize(self):
        self.add("dequantize", self.type.shape, None, dtype="float32")
