"""Boxes and labels on pictures, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from gen.errors import GenError
from gen.picture import colour, draw_boxes, save_png


def frame(top, left, bottom, right, shape):
    """Which pixels of an image the outline of the pixels from (top, left) to (bottom, right) has."""
    mask = np.zeros(shape, bool)
    mask[top : bottom + 1, left : right + 1] = True
    mask[top + 1 : bottom, left + 1 : right] = False
    return mask


def test_the_frame_is_the_boxs_outermost_pixels():
    image = np.full((100, 200, 3), 90, np.uint8)
    drawn = draw_boxes(image, [[0.4, 0.25, 0.9, 0.75]], [3], [0.5])
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)
    outline = frame(40, 50, 89, 149, (100, 200))
    assert (drawn[outline] == colour(3)).all()
    # From the frame's first row on nothing else has changed; above it is the text, which nothing else is near.
    assert (drawn[40:][~outline[40:]] == 90).all()
    changed = np.argwhere((drawn[:40] != 90).any(axis=2))
    assert len(changed)
    assert changed[:, 0].min() >= 20 and changed[:, 1].min() == 50 and changed[:, 1].max() < 100
    assert (image == 90).all()


def text_strip(drawn, label):
    """Rows and columns of the strip that a label's text stands on, in a picture whose only box is one pixel large."""
    rows, columns = np.where((drawn == colour(label)).all(axis=2))
    return drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def test_the_text_is_dark_on_the_classs_colour_and_says_name_and_score():
    image = np.full((60, 120), 255, np.uint8)
    strips = {}
    for name, score in (("cat", 0.5), ("cat", 0.25), ("dog", 0.5)):
        drawn = draw_boxes(image, [[0.5, 0.1, 0.51, 0.11]], [1], [score], names=["none", name])
        strip = text_strip(drawn, 1)
        dark = (strip.sum(axis=2) < 150).sum()
        assert 20 < dark < strip.shape[0] * strip.shape[1] / 2
        strips[name, score] = strip.tobytes()
    assert len(set(strips.values())) == 3
    box = [[0.5, 0.1, 0.51, 0.11]]
    assert np.array_equal(draw_boxes(image, box, [2], [0.5]), draw_boxes(image, box, [2], [0.5], names=["", "", "2"]))


def test_the_text_stays_in_the_picture():
    image = np.zeros((40, 80, 3), np.uint8)
    drawn = draw_boxes(image, [[0, 0.9, 1, 1]], [0], [1.0])
    strip = (drawn == colour(0)).all(axis=2)
    assert strip[0, :40].sum() == 0 and strip[1, 45:].sum() > 15
    # A picture that is narrower than its text is still drawn.
    assert draw_boxes(np.zeros((5, 5), np.uint8), [[0, 0, 1, 1]], [0], [1.0]).shape == (5, 5, 3)


def test_the_best_score_is_on_top():
    image = np.zeros((60, 60, 3), np.uint8)
    box = [0.5, 0.2, 0.9, 0.8]
    for scores, top in (((0.4, 0.6), 1), ((0.6, 0.4), 0)):
        drawn = draw_boxes(image, [box, box], [0, 1], scores)
        assert (drawn[frame(30, 12, 53, 47, (60, 60))] == colour(top)).all()


def test_boxes_at_and_beyond_the_border():
    image = np.zeros((50, 50, 3), np.uint8)
    drawn = draw_boxes(image, [[-1, -1, 2, 2]], [0], [0.5])
    assert (drawn[-1] == colour(0)).all() and (drawn[:, -1] == colour(0)).all()
    drawn = draw_boxes(image, [[1, 1, 1, 1]], [0], [0.5])
    assert (drawn[49, 49] == colour(0)).all() and not drawn[49, 48].any()


def test_zoom_repeats_pixels_and_moves_boxes_along():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    drawn = draw_boxes(image, [], [], [], zoom=3)
    assert np.array_equal(drawn, image.repeat(3, axis=0).repeat(3, axis=1))
    drawn = draw_boxes(image, [[0.5, 0.5, 1, 1]], [0], [0.5], zoom=3)
    assert (drawn[frame(30, 45, 59, 89, (60, 90))] == colour(0)).all()


def test_grey_images_become_colour():
    image = np.arange(100, dtype=np.uint8).reshape(10, 10)
    for given in (image, image[..., np.newaxis]):
        assert np.array_equal(draw_boxes(given, [], [], []), np.stack([image] * 3, axis=-1))


def test_colours_differ():
    assert len({colour(label) for label in range(90)}) == 90
    nearest = min(np.abs(np.subtract(colour(a), colour(b))).max() for a in range(20) for b in range(a))
    assert nearest > 30


def test_save_png(tmp_path):
    drawn = draw_boxes(np.full((30, 40, 3), 7, np.uint8), [[0, 0, 1, 1]], [5], [0.9])
    save_png(tmp_path / "found.png", drawn)
    with Image.open(tmp_path / "found.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(picture), drawn)
    with pytest.raises(GenError, match=r"nowhere/found.png: cannot be written: No such file or directory"):
        save_png(tmp_path / "nowhere" / "found.png", drawn)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((np.zeros((4, 4)), [], [], []), {}, "image must be uint8 (h, w), (h, w, 1) or (h, w, 3), not float64 (4, 4)"),
        (
            (np.zeros((4, 4, 2), np.uint8), [], [], []),
            {},
            "image must be uint8 (h, w), (h, w, 1) or (h, w, 3), not uint8 (4, 4, 2)",
        ),
        (
            (np.zeros((4, 4), np.uint8), [[0, 0, 1, 1]], [], [1, 2]),
            {},
            "there must be a label and a score for each of 1 boxes, not 0 labels and 2 scores",
        ),
        (
            (np.zeros((4, 4), np.uint8), [[0, 0, 1, 1]], [2], [1]),
            {"names": ["cat", "dog"]},
            "names must be given for 3 classes, not 2",
        ),
        ((np.zeros((4, 4), np.uint8), [], [], []), {"zoom": 0}, "zoom must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, options, message):
    with pytest.raises(ValueError) as error:
        draw_boxes(*arguments, **options)
    assert str(error.value) == message
