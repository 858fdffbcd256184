"""Pictures of what a detector found: boxes with their labels and scores on the image."""

from colorsys import hsv_to_rgb
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gen.errors import GenError

__all__ = ["colour", "draw_boxes", "save_png"]

FONT_PIXELS = 11


def colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a class: bright, and well apart for classes that are close."""
    # Steps of the golden section spread hues evenly, however many there are.
    return tuple(round(255 * part) for part in hsv_to_rgb(label * 0.618034 % 1, 0.85, 1))


def draw_boxes(image, boxes, labels, scores, *, names=None, zoom: int = 1) -> np.ndarray:
    """``image`` with a frame, a label and a score for each box, the best on top: uint8 (zoom * h, zoom * w, 3).

    A box covers the pixels whose middles it contains, at least one; its frame is the outermost of them, one pixel wide,
    in the class's :func:`colour`. The text stands on a strip of that colour above the box, or inside where there is no
    room above.

    Parameters
    ----------
    image : uint8 array (h, w), (h, w, 1) or (h, w, 3)
        Grey, or red, green and blue.
    boxes : array (n, 4)
        ``(ymin, xmin, ymax, xmax)`` in fractions of the image, as in :class:`gen.detection.Detections`.
    labels : integer array (n,)
        Classes, from 0.
    scores : array (n,)
        0 to 1.
    names : sequence of str, optional
        What to call the classes; otherwise by number.
    zoom : int
        How many times to enlarge the image before drawing, so that text on a small one can be read.

    Raises
    ------
    ValueError
        If ``image`` is no such array, the lengths of boxes, labels and scores differ, a class has no name, or ``zoom``
        is below 1.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"image must be uint8 (h, w), (h, w, 1) or (h, w, 3), not {image.dtype} {image.shape}")
    boxes, labels, scores = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels), np.asarray(scores)
    if not len(boxes) == len(labels) == len(scores):
        given = f"{len(labels)} labels and {len(scores)} scores"
        raise ValueError(f"there must be a label and a score for each of {len(boxes)} boxes, not {given}")
    if zoom < 1:
        raise ValueError(f"zoom must be at least 1, not {zoom}")
    pixels = np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3))
    picture = Image.fromarray(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1))
    if names is not None and len(labels) and max(labels) >= len(names):
        raise ValueError(f"names must be given for {max(labels) + 1} classes, not {len(names)}")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_PIXELS)
    for index in np.argsort(scores, kind="stable"):
        label = int(labels[index])
        top, left, bottom, right = _pixels(boxes[index], picture.height, picture.width)
        draw.rectangle((left, top, right, bottom), outline=colour(label))
        text = f"{names[label] if names is not None else label} {scores[index]:.2f}"
        _, _, width, height = (int(np.ceil(side)) for side in draw.textbbox((0, 0), text, font=font))
        left = max(min(left, picture.width - width - 2), 0)
        above = top - height - 2 if top >= height + 2 else top
        draw.rectangle((left, above, left + width + 1, above + height + 1), fill=colour(label))
        draw.text((left + 1, above), text, fill=(0, 0, 0), font=font)
    return np.array(picture)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write ``image``, uint8 (h, w) or (h, w, 3), to ``path`` as a PNG.

    Raises
    ------
    GenError
        If the file cannot be written.
    """
    try:
        Image.fromarray(image).save(path, format="PNG")
    except OSError as error:
        raise GenError(f"{path}: cannot be written: {error.strerror or error}") from error


def _pixels(box, height, width):
    """First and last row and column of ``box`` in an image of that size: (top, left, bottom, right), inclusive."""
    sizes = np.array([height, width])
    first, behind = (np.clip(np.ceil(corner * sizes - 0.5), 0, sizes) for corner in (box[:2], box[2:]))
    first = np.minimum(first, sizes - 1)
    return [int(pixel) for pixel in (*first, *np.maximum(behind - 1, first))]
