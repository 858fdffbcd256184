"""Random networks whose shape Hypothesis chooses, and makes simpler where a test fails; numbers come from a seed."""

import numpy as np
from hypothesis import strategies as st
from random_tables import random_table

__all__ = ["described", "tables"]

#: Layers in the middle: all that the accelerator runs, and what makes several readers and inputs.
FEATURES = (
    "pointwise", "conv2d", "depthwise_conv2d", "depthwise_multiplier", "average_pool2d", "max_pool2d", "pad",
    "sum_of_tensors", "residual", "channel_constant", "branch", "global_average_pool", "global_max_pool",
)  # fmt: skip
#: What may come first and last.
HEADS = ((), ("flat_input",), ("quantize_input",))
TAILS = (
    (), ("fully_connected",), ("mean",), ("reshape",), ("mean", "fully_connected", "softmax"), ("concatenation",),
    ("reshape", "fully_connected", "fully_connected"), ("dequantize",), ("quantize_output",),
)  # fmt: skip
#: Windows, the usual ones more often than the others.
KERNELS = ((3, 3), (1, 1), (2, 2), (1, 3), (3, 1), (5, 5), (4, 3), (2, 5)) * 6 + tuple(
    (height, width) for height in range(1, 11) for width in range(1, 11)
)


class Drawn:
    """The part of a NumPy generator that random_tables uses: Hypothesis makes the choices, a seed the many numbers."""

    def __init__(self, draw):
        self._draw = draw
        self._numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def __getattr__(self, name):
        return getattr(self._numbers, name)

    def random(self, size=None):
        return self._draw(st.integers(0, 99)) / 100 if size is None else self._numbers.random(size)

    def integers(self, low, high=None, size=None, **options):
        low, high = (0, low) if high is None else (low, high)
        count = np.prod(size, dtype=int) if size is not None else np.size(high)
        if count > 4:
            return self._numbers.integers(low, high, size, **options)
        shape = size if size is not None else np.shape(high)
        highs = np.broadcast_to(high, shape).reshape(-1)
        drawn = np.array([self._draw(st.integers(int(low), int(end) - 1)) for end in highs]).reshape(shape)
        return drawn if shape != () else int(drawn)

    def choice(self, choices, size=None, p=None, **options):
        if size is not None:
            return self._numbers.choice(choices, size, p=p, **options)
        count = choices if isinstance(choices, int) else len(choices)
        if p is None:
            index = self._draw(st.integers(0, count - 1))
        else:
            index = int(np.searchsorted(np.cumsum(p), self._draw(st.integers(0, 999)) / 1000, side="right"))
        return index if isinstance(choices, int) else np.asarray(choices)[index]


@st.composite
def tables(draw):
    """A layer table that has, but for a few, engines for all of its layers, and numbers for inputs."""
    middle = draw(st.lists(st.sampled_from(FEATURES), max_size=6))
    return random_table(
        Drawn(draw),
        chain=[
            *draw(st.sampled_from(HEADS)),
            draw(st.sampled_from(FEATURES[:8])),
            *middle,
            *draw(st.sampled_from(TAILS)),
        ],
        kernels=KERNELS,
        strides=((1, 1), (2, 2), (1, 2), (2, 1)),
        max_size=draw(st.sampled_from((4, 9, 14, 25))),
        max_channels=draw(st.sampled_from((4, 9, 20))),
        outputs=draw(st.integers(1, 3)),
    )


def described(table):
    """A table's shapes in a line a layer, as in the text form."""
    lines = [f"{name}: {tensor.shape} {tensor.dtype}" for name, tensor in table.inputs.items()]
    for layer in table.layers:
        reads = ", ".join(layer.inputs)
        window = f" kernel {layer.kernel} stride {layer.stride} padding {layer.padding}" if layer.operator else ""
        lines.append(f"{layer.name}({reads}): {layer.output.shape}{window} clamp {layer.clamp}")
    return "\n".join([*lines, f"outputs: {', '.join(table.outputs)}"])
