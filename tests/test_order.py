"""Order of rows: rings made just before their use, and what each row waits for; expectations worked out by hand."""

import pytest
from test_stages import combined, convolution, depthwise, int8, network

from gen.order import Row, kept_rows, order_of, rows_read, rows_to_await
from gen.stages import results_of, stages_of
from gen.table import Layer


def block(height, *, stride=1, kernel=3, wide=12, outputs=None, extra=(), width=12):
    """An inverted residual block: ``e`` expands, ``d + p`` (``+ s``) come back; SAME padding."""
    rows, columns = -(-height // stride), -(-width // stride)
    sides = []
    for size, made in ((height, rows), (width, columns)):
        total = max((made - 1) * stride + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    layers = [
        convolution("e", "x", (height, width, wide), channels_in=4),
        depthwise(
            "d", "e", (rows, columns, wide), kernel=(kernel, kernel), stride=(stride, stride), padding=tuple(sides)
        ),
        convolution("p", "d", (rows, columns, 4), channels_in=wide),
    ]
    if stride == 1:
        layers.append(combined("s", "x", "p", (height, width, 4)))
    return network((height, width, 4), *layers, *extra, outputs=outputs)


def facts(table):
    stages = stages_of(table)
    kept = kept_rows(stages, results_of(table))
    return stages, kept, order_of(stages, kept)


def rows(text):
    """Rows from text: a digit for the stage, then the row."""
    return [Row(int(word[0]), int(word[1:])) for word in text.split()]


@pytest.mark.parametrize(
    "height, kernel, stride, padding, expected",
    [
        (7, 3, 1, (1, 1), ["0 1", "0 1 2", "1 2 3", "2 3 4", "3 4 5", "4 5 6", "5 6"]),
        (7, 3, 2, (1, 1), ["0 1", "1 2 3", "3 4 5", "5 6"]),
        (8, 3, 2, (0, 1), ["0 1 2", "2 3 4", "4 5 6", "6 7"]),
        (4, 1, 1, (0, 0), ["0", "1", "2", "3"]),
        (5, 1, 2, (0, 0), ["0", "2", "4"]),
        (3, 1, 1, (2, 1), ["", "", "0", "1", "2", ""]),  # nothing but padding
        (2, 5, 1, (2, 2), ["0 1", "0 1"]),
    ],
)
def test_rows_read(height, kernel, stride, padding, expected):
    layer = convolution(
        "c", "x", (len(expected), 3, 1), channels_in=1, kernel=(kernel, 1), stride=(stride, 1), padding=(*padding, 0, 0)
    )
    (stage,) = stages_of(network((height, 3, 1), layer))
    assert [" ".join(map(str, rows_read(stage, y))) for y in range(len(expected))] == expected


def test_a_block_of_stride_1():
    """Its first three rows ahead fill the ring of six; then every row used makes room for the next."""
    stages, kept, order = facts(block(9))
    assert [stage.name for stage in stages] == ["e", "d + p + s"]
    assert kept == {"e": 6}
    assert order == rows("00 01 02 03 04 10 05 11 06 12 07 13 08 14 15 16 17 18")
    # Row y reads rows y - 1 to y + 1: row 2 waits for 03, fourth in order, row 5 for 06, the ninth.
    sources = {10: 2, 11: 3, 12: 4, 13: 5, 14: 7, 15: 9, 16: 11, 17: 13, 18: 13}
    waits = rows_to_await(stages, order)
    for (stage, y), (source, residual) in zip(order, waits, strict=True):
        assert (source, residual) == (sources[10 + y] if stage else 0, 0)


def test_a_block_of_stride_2():
    """Two rows go and two come; padding lies below alone."""
    stages, kept, order = facts(block(10, stride=2))
    assert [stage.name for stage in stages] == ["e", "d + p"]
    assert kept == {"e": 6}
    assert order == rows("00 01 02 03 04 05 10 06 07 11 08 09 12 13 14")
    assert [wait for (stage, _), (wait, _) in zip(order, rows_to_await(stages, order), strict=True) if stage] == [
        3, 5, 8, 11, 12,
    ]  # fmt: skip


@pytest.mark.parametrize("height, kernel, order", [(7, 2, "00 01 02 03 04 05 10 06 11 12 13 14 15 16")])
def test_a_block_with_a_short_kernel(height, kernel, order):
    """A window of two rows leaves four to be made ahead."""
    stages, kept, made = facts(block(height, kernel=kernel))
    assert (kept, made) == ({"e": 6}, rows(order))


@pytest.mark.parametrize(
    "table",
    [
        block(6),  # as tall as a ring
        block(9, kernel=5),  # windows taller than the machine's
        block(9, wide=4),  # no wider than what it is made of
        block(9, outputs=("e", "s")),  # the host reads it
        block(9, extra=[convolution("o", "e", (9, 12, 1), channels_in=12)], outputs=("s", "o")),  # so does another
        block(9, extra=[combined("o", "e", "e", (9, 12, 12))], outputs=("s", "o")),
    ],
)
def test_tensors_that_stay_whole(table):
    stages, kept, order = facts(table)
    assert kept == {}
    assert order == [Row(number, y) for number, stage in enumerate(stages) for y in range(stage.output_shape[0])]


def test_a_tensor_that_a_later_stage_reads_stays_whole():
    """Only the very next stage can take rows as they are made."""
    first = convolution("e", "x", (9, 9, 12), channels_in=4)
    other = convolution("o", "x", (9, 9, 2), channels_in=4)
    last = convolution("p", "e", (9, 9, 4), channels_in=12)
    table = network((9, 9, 4), first, other, last, outputs=("o", "p"))
    stages, kept, order = facts(table)
    assert [stage.name for stage in stages] == ["e", "o", "p"]
    assert kept == {}


def test_two_blocks():
    """Each has a ring of its own; the second adds what the first made, row by row."""
    layers = []
    for n, source in enumerate("xs"):
        layers += [
            convolution(f"e{n}", source, (7, 12, 12), channels_in=4),
            depthwise(f"d{n}", f"e{n}", (7, 12, 12), padding=(1, 1, 1, 1)),
            convolution(f"p{n}", f"d{n}", (7, 12, 4), channels_in=12),
            combined("st"[n], f"p{n}", source, (7, 12, 4)),
        ]
    stages, kept, order = facts(network((7, 12, 4), *layers))
    assert [stage.name for stage in stages] == ["e0", "d0 + p0 + s", "e1", "d1 + p1 + t"]
    assert kept == {"e0": 6, "e1": 6}
    first = "00 01 02 03 04 10 05 11 06 12 13 14 15 16"
    second = "20 21 22 23 24 30 25 31 26 32 33 34 35 36"
    assert order == rows(f"{first} {second}")
    made = {y: order.index(Row(1, y)) + 1 for y in range(7)}
    assert made == {0: 6, 1: 8, 2: 10, 3: 11, 4: 12, 5: 13, 6: 14}
    for (stage, y), (source, residual) in zip(order, rows_to_await(stages, order), strict=True):
        if stage == 2:
            assert (source, residual) == (made[y], 0)
        if stage == 3:
            assert residual == made[y]
            assert source == {0: 16, 1: 17, 2: 18, 3: 19, 4: 21, 5: 23, 6: 23}[y]


def test_pieces_of_a_pool_wait_for_the_last_of_them():
    """A row that several stages make in parts is there when the last of them is."""
    pool = Layer("p", "average_pool2d", ("x",), int8(3, 3, 2), kernel=(2, 2), padding=(0, 1, 0, 1))
    last = convolution("c", "p", (3, 3, 2), channels_in=2, kernel=(3, 3), padding=(1, 1, 1, 1))
    stages, kept, order = facts(network((3, 3, 2), pool, last))
    # Rows 0 and 1 average two rows, row 2 one; columns likewise.
    assert order == rows("00 01 10 11 22 32 40 41 42")
    assert rows_to_await(stages, order) == [(0, 0)] * 6 + [(4, 0), (6, 0), (6, 0)]
