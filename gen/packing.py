"""Packing: whether two output channels can share the array's multipliers (:mod:`hw.dot`), and what forbids it."""

from gen.layout import weight_words
from gen.stages import Stage
from hw.config import ArrayShape
from hw.dot import packable

__all__ = ["obstacle"]


def obstacle(stages: list[Stage], array: ArrayShape) -> str | None:
    """Why neighbouring output channels of ``stages`` cannot share multipliers on such an array; None where they can."""
    if array.lanes % 2:
        return f"N is odd, {array.lanes}"
    names = [stage.name for stage in stages if not _packable(stage, array)]
    return f"weights of -128 would meet in {', '.join(names)}" if names else None


def _packable(stage, array):
    if not (stage.weights == -128).any():
        return True
    words = weight_words(stage, array)
    return all(packable(first, second) for first, second in zip(words[::2], words[1::2], strict=True))
