"""Writes a layer table as a .tflite file, so that LiteRT can run the networks that the tests make up."""

import flatbuffers
import numpy as np
import tflite

from gen.table import POOLS, WINDOWED

ACTIVATIONS = {
    "none": tflite.ActivationFunctionType.NONE,
    "relu": tflite.ActivationFunctionType.RELU,
    "relu6": tflite.ActivationFunctionType.RELU6,
}
TYPES = {
    "int8": tflite.TensorType.INT8,
    "uint8": tflite.TensorType.UINT8,
    "int32": tflite.TensorType.INT32,
    "float32": tflite.TensorType.FLOAT32,
}
#: Operator code and version, options table, and whether the operator takes a fused activation.
OPERATORS = {
    "conv2d": ("CONV_2D", 3, "Conv2DOptions", True),
    "depthwise_conv2d": ("DEPTHWISE_CONV_2D", 3, "DepthwiseConv2DOptions", True),
    "fully_connected": ("FULLY_CONNECTED", 4, "FullyConnectedOptions", True),
    "average_pool2d": ("AVERAGE_POOL_2D", 2, "Pool2DOptions", True),
    "max_pool2d": ("MAX_POOL_2D", 2, "Pool2DOptions", True),
    "add": ("ADD", 2, "AddOptions", True),
    "sub": ("SUB", 2, "SubOptions", True),
    "mul": ("MUL", 2, "MulOptions", True),
    "concatenation": ("CONCATENATION", 2, "ConcatenationOptions", False),
    "mean": ("MEAN", 2, "ReducerOptions", False),
    "pad": ("PAD", 2, "PadOptions", False),
    "reshape": ("RESHAPE", 1, "ReshapeOptions", False),
    "softmax": ("SOFTMAX", 2, "SoftmaxOptions", False),
    "quantize": ("QUANTIZE", 2, "QuantizeOptions", False),
    "dequantize": ("DEQUANTIZE", 2, "DequantizeOptions", False),
}


def activation_clamp(activation, quantization):
    """Least and greatest int8 value that ``activation`` leaves: CalculateActivationRangeQuantized of the kernels."""

    def quantized(real):
        steps = np.float32(real) / np.float32(quantization.scale)
        return quantization.zero_point + int(np.floor(np.float64(steps) + 0.5))

    low = -128 if activation == "none" else max(-128, quantized(0))
    high = min(127, quantized(6)) if activation == "relu6" else 127
    return low, high


def same_padding(size, kernel, stride):
    """Rows above, below, columns left and right that TFLite's SAME adds to a feature map of ``size``."""
    padding = ()
    for length, k, s in zip(size, kernel, stride, strict=True):
        total = max((-(-length // s) - 1) * s + k - length, 0)
        padding += (total // 2, total - total // 2)
    return padding


def write_tflite(table):
    """The bytes of a .tflite file (schema version 3) that computes ``table``, with a batch dimension of 1.

    Tensors keep the table's names; a layer's weights are called ``<layer>/weights``, its biases ``<layer>/bias``, a
    constant operand ``<layer>/constant``.

    Raises
    ------
    ValueError
        If a layer has a padding or a clamp that its TFLite operator cannot express.
    """
    return _Writer(table).file()


class _Writer:
    def __init__(self, table):
        self.table = table
        self.builder = flatbuffers.Builder(1 << 16)
        self.buffers = [self._record("Buffer")]  # buffer 0 stays empty: tensors without data refer to it
        self.tensors = []
        self.indices = {}
        self.codes = []
        self.operators = []

    def file(self):
        for name, tensor in self.table.inputs.items():
            self._activation_tensor(name, tensor)
        for layer in self.table.layers:
            self._layer(layer)
        subgraph = self._record(
            "SubGraph",
            tensors=self._offsets(self.tensors),
            inputs=self._ints([self.indices[name] for name in self.table.inputs]),
            outputs=self._ints([self.indices[name] for name in self.table.outputs]),
            operators=self._offsets(self.operators),
        )
        codes = [
            self._record("OperatorCode", deprecated_builtin_code=code, builtin_code=code, version=version)
            for code, version in self.codes
        ]
        model = self._record(
            "Model",
            version=3,
            operator_codes=self._offsets(codes),
            subgraphs=self._offsets([subgraph]),
            buffers=self._offsets(self.buffers),
        )
        self.builder.Finish(model, b"TFL3")
        return bytes(self.builder.Output())

    def _layer(self, layer):
        code, version, options, fuses = OPERATORS[layer.operator]
        if layer.clamp != activation_clamp(layer.activation if fuses else "none", layer.output.quantization):
            raise ValueError(f"{layer.name}: {code} with {layer.activation} cannot clamp to {layer.clamp}")
        inputs = [self.indices[name] for name in layer.inputs]
        if layer.constant is not None:
            inputs.insert(0 if layer.constant_first else 1, self._constant_operand(layer))
        inputs += self._constants(layer)
        output = self._activation_tensor(layer.name, layer.output)
        key = (getattr(tflite.BuiltinOperator, code), version)
        if key not in self.codes:
            self.codes.append(key)
        operator = self._record(
            "Operator",
            opcode_index=self.codes.index(key),
            inputs=self._ints(inputs),
            outputs=self._ints([output]),
            builtin_options_type=getattr(tflite.BuiltinOptions, options),
            builtin_options=self._record(options, **self._options(layer, fuses)),
        )
        self.operators.append(operator)

    def _options(self, layer, fuses):
        options = {"fused_activation_function": ACTIVATIONS[layer.activation]} if fuses else {}
        if layer.operator in WINDOWED:
            options |= {"padding": self._padding(layer), "stride_h": layer.stride[0], "stride_w": layer.stride[1]}
        if layer.operator in ("conv2d", "depthwise_conv2d"):
            options |= {"dilation_h_factor": 1, "dilation_w_factor": 1}
        if layer.operator == "depthwise_conv2d":
            options |= {"depth_multiplier": layer.output.shape[-1] // self.table.source(layer).shape[-1]}
        if layer.operator == "concatenation":
            options |= {"axis": layer.axis + 1}
        if layer.operator in POOLS:
            options |= {"filter_height": layer.kernel[0], "filter_width": layer.kernel[1]}
        if layer.operator == "fully_connected":
            options |= {"keep_num_dims": len(layer.output.shape) > 1}
        if layer.operator == "mean":
            options |= {"keep_dims": len(layer.output.shape) > 1}
        if layer.operator == "softmax":
            options |= {"beta": 1.0}
        return options

    def _padding(self, layer):
        size = self.table.source(layer).shape[:2]
        if layer.padding == same_padding(size, layer.kernel, layer.stride):
            return tflite.Padding.SAME
        if layer.padding == (0, 0, 0, 0):
            return tflite.Padding.VALID
        raise ValueError(f"{layer.name}: padding {layer.padding} is neither SAME nor VALID; put a pad before the layer")

    def _constants(self, layer):
        """Indices of the tensors that follow the layer's input: weights and bias, or shape arguments."""
        if layer.weights is not None:
            depthwise = layer.operator == "depthwise_conv2d"
            weights = layer.weights[np.newaxis] if depthwise else layer.weights
            scale = np.float32(self.table.source(layer).quantization.scale) * layer.weight_scales
            return [
                self._constant(f"{layer.name}/weights", weights, layer.weight_scales, 3 if depthwise else 0),
                self._constant(f"{layer.name}/bias", layer.bias, scale),
            ]
        arguments = {
            "pad": lambda: np.array([(0, 0), layer.padding[:2], layer.padding[2:], (0, 0)]),
            "mean": lambda: np.array([1, 2]),
            "reshape": lambda: np.array([1, *layer.output.shape]),
        }
        if layer.operator not in arguments:
            return []
        return [self._constant(f"{layer.name}/argument", arguments[layer.operator]().astype(np.int32))]

    def _constant_operand(self, layer):
        quantization = layer.constant_quantization
        scale, zero_point = [quantization.scale], [quantization.zero_point]
        return self._constant(f"{layer.name}/constant", layer.constant, scale, zero_points=zero_point)

    def _constant(self, name, array, scales=None, dimension=0, zero_points=None):
        data = self.builder.CreateNumpyVector(np.frombuffer(array.tobytes(), np.uint8))
        self.buffers.append(self._record("Buffer", data=data))
        quantization = None
        if scales is not None:
            quantization = self._quantization(scales, zero_points or np.zeros(len(scales)), dimension)
        return self._tensor(name, array.shape, str(array.dtype), quantization, len(self.buffers) - 1)

    def _activation_tensor(self, name, tensor):
        quantization = tensor.quantization
        if quantization is not None:
            quantization = self._quantization([quantization.scale], [quantization.zero_point], 0)
        self.indices[name] = self._tensor(name, (1, *tensor.shape), tensor.dtype, quantization, 0)
        return self.indices[name]

    def _quantization(self, scales, zero_points, dimension):
        return self._record(
            "QuantizationParameters",
            scale=self.builder.CreateNumpyVector(np.asarray(scales, np.float32)),
            zero_point=self.builder.CreateNumpyVector(np.asarray(zero_points, np.int64)),
            quantized_dimension=dimension,
        )

    def _tensor(self, name, shape, dtype, quantization, buffer):
        fields = {"shape": self._ints(shape), "type": TYPES[dtype], "name": self.builder.CreateString(name)}
        if quantization is not None:
            fields["quantization"] = quantization
        self.tensors.append(self._record("Tensor", buffer=buffer, **fields))
        return len(self.tensors) - 1

    def _record(self, kind, **fields):
        """Offset of a flatbuffers table of type ``kind``; fields are called as in the schema."""
        getattr(tflite, f"{kind}Start")(self.builder)
        for name, value in fields.items():
            add = f"{kind}Add" + "".join(word.capitalize() for word in name.split("_"))
            getattr(tflite, add)(self.builder, value)
        return getattr(tflite, f"{kind}End")(self.builder)

    def _ints(self, values):
        return self.builder.CreateNumpyVector(np.asarray(values, np.int32))

    def _offsets(self, offsets):
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()
