"""The built-in network: a MobileNetV1 in small that reads handwritten digits, and the scans to show it.

Data: "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998), UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, licensed CC BY 4.0, in scikit-learn's copy of 1797 scans, 8 by 8 grey values 0 to 16.
``digits.npz`` holds the last 360 of them in that copy's order, quantised as the network takes them. Neither training
nor calibration has seen those. ``gen.digits.train`` makes both files anew; nothing here needs TensorFlow.
"""

from pathlib import Path

import numpy as np
from rich.text import Text

__all__ = ["draw", "held_out", "model_path"]

FOLDER = Path(__file__).parent
BAR_WIDTH = 20


def model_path() -> Path:
    """Where the network lies: a .tflite file, int8 (1, 8, 8, 1) in, ten int8 probabilities (1, 10) out."""
    return FOLDER / "digits.tflite"


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """The held-out scans, int8 (360, 8, 8, 1), and the digits that they show, uint8 (360,)."""
    with np.load(FOLDER / "digits.npz", allow_pickle=False) as archive:
        return archive["scans"], archive["labels"]


def draw(scan: np.ndarray, scores: np.ndarray) -> Text:
    """A scan in half-block characters, and beside it the four likeliest digits with a bar each.

    Parameters
    ----------
    scan : int8 array (8, 8) or (8, 8, 1)
        As :func:`held_out` gives it.
    scores : array (10,)
        What the network made of it: int8, in steps of 1/256 from 0 at -128, or floating-point probabilities.
    """
    grey = np.asarray(scan).reshape(8, 8).astype(int) + 128
    scores = np.asarray(scores).reshape(10)
    if np.issubdtype(scores.dtype, np.integer):
        scores = (scores.astype(int) + 128) / 256
    lines = []
    for upper, lower, digit in zip(grey[::2], grey[1::2], np.argsort(-scores, kind="stable"), strict=False):
        bar = "█" * round(scores[digit] * BAR_WIDTH)
        scored = f"  {digit} {bar:<{BAR_WIDTH}} {scores[digit]:6.1%}"
        lines.append(Text.assemble(*(_cell(*halves) for halves in zip(upper, lower, strict=True)), scored))
    return Text("\n").join(lines)


def _cell(upper, lower):
    """Two pixels above each other as (character, style): the dark half stays legible where there is no colour."""
    lit = [value for value in (upper, lower) if value >= 128]
    unlit = [value for value in (upper, lower) if value < 128]
    front, back = (sum(values) // max(len(values), 1) for values in (lit, unlit))
    return " ▄▀█"[2 * (upper >= 128) + (lower >= 128)], f"rgb({front},{front},{front}) on rgb({back},{back},{back})"
