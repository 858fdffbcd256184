"""What convolutions cost, in multiplications, and what networks hold, in parameters as Keras counts them.

Kernels and feature maps are square; ``size`` is the output's height, 1 for the cost of one position.

Source: A. Howard et al., MobileNets (arXiv:1704.04861), section 3.1; M. Sandler et al., MobileNetV2 (arXiv:1801.04381).
"""

from dataclasses import dataclass

from gen.table import WEIGHTED, Table

__all__ = [
    "KerasParameters",
    "depthwise",
    "inverted_residual",
    "keras_parameters",
    "pointwise",
    "separable",
    "separable_ratio",
    "standard",
]


def standard(kernel: int, channels_in: int, channels_out: int, size: int = 1) -> int:
    """Multiplications of a standard convolution."""
    return kernel**2 * channels_in * channels_out * size**2


def depthwise(kernel: int, channels: int, size: int = 1) -> int:
    """Multiplications of a depthwise convolution: one filter per channel."""
    return kernel**2 * channels * size**2


def pointwise(channels_in: int, channels_out: int, size: int = 1) -> int:
    """Multiplications of a 1x1 convolution."""
    return standard(1, channels_in, channels_out, size)


def separable(kernel: int, channels_in: int, channels_out: int, size: int = 1) -> int:
    """Multiplications of a depthwise convolution and the pointwise convolution behind it."""
    return depthwise(kernel, channels_in, size) + pointwise(channels_in, channels_out, size)


def separable_ratio(kernel: int, channels_out: int) -> float:
    """Cost of a separable convolution over that of the standard one in its place: 1/C_out + 1/kernel**2."""
    return 1 / channels_out + 1 / kernel**2


def inverted_residual(kernel: int, channels_in: int, expanded: int, channels_out: int, size: int = 1) -> int:
    """Multiplications of a MobileNetV2 block of stride 1: expansion, depthwise convolution, projection."""
    return pointwise(channels_in, expanded, size) + separable(kernel, expanded, channels_out, size)


@dataclass(frozen=True)
class KerasParameters:
    """Parameters as ``model.summary()`` of Keras states them."""

    trainable: int
    non_trainable: int

    @property
    def total(self) -> int:
        """Trainable or not."""
        return self.trainable + self.non_trainable


def keras_parameters(table: Table) -> KerasParameters:
    """Parameters of ``table`` before batch normalisation was folded into its weights.

    Each layer with weights but the last is a convolution without bias and a batch normalisation, which learns a scale
    and an offset per channel and keeps a mean and a variance beside them. The last, the classifier, has a bias.
    """
    *convolutions, classifier = (layer for layer in table.layers if layer.operator in WEIGHTED)
    channels = sum(layer.output.shape[-1] for layer in convolutions)
    weights = sum(layer.weights.size for layer in convolutions)
    return KerasParameters(weights + 2 * channels + classifier.parameters, 2 * channels)
